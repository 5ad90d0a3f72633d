"""Progress for people: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

# A log is read later: a line every ten seconds says enough.
LINE_SECONDS = 10.0


class Display:
    """Shows how far a run is, on standard error.

    Use as a context: the live line is cleared at its end.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage, self._unit, self._note = "", "", ""
        self._total, self._done = 0, 0
        self._began, self._said = 0.0, 0.0

    def __enter__(self) -> Self:
        """Start the live line."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clear the live line."""
        self._live.stop()

    def begin(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage."""
        self._end()
        self._stage, self._total, self._unit, self._done = stage, total, unit, 0
        self._note = ""
        self._began = self._said = time.monotonic()
        self._task = self._live.add_task(stage, total=total, rate="", note="")

    def advance(self, amount: int, note: str = "") -> None:
        """Show units that are finished."""
        self._done += amount
        self._note = note or self._note
        now = time.monotonic()
        rate = self._done / max(now - self._began, 1e-3)
        shown = f"{rate:,.0f} {self._unit}/s"
        if self._task is not None:
            self._live.update(self._task, advance=amount, rate=shown, note=self._note)
        if not self._console.is_terminal and now - self._said > LINE_SECONDS:
            self._said = now
            left = (self._total - self._done) / rate if rate else 0.0
            self.say(
                f"{self._stage}: {self._done:,} of {self._total:,} {self._unit}, {shown}, "
                f"{left:,.0f} s left{', ' if self._note else ''}{self._note}"
            )

    def finish(self, stage: str, status: str, reason: str, seconds: float) -> None:
        """Say what became of a stage, unless its error is said anyway."""
        self._end()
        if status != "failed":
            took = f" in {seconds:.1f} s" if status == "done" else ""
            self.say(f"{stage:<9} {status}{took}: {reason}")

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""
        self.say(f"warning: {message}")

    def _end(self) -> None:
        if self._task is not None:
            self._live.remove_task(self._task)
            self._task = None

    def say(self, line: str) -> None:
        """Print a line above the live one."""
        self._console.print(line, markup=False, soft_wrap=True)
