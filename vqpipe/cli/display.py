"""Progress for people: one live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vqpipe.progress import Ending, Headway, format_clock

# A log is read later: a line every ten seconds says enough.
LINE_SECONDS = 10.0

# Times and rates go on between two outcomes, so the picture is drawn anew so often.
DRAWINGS_PER_SECOND = 4.0

MOST_BAR_COLUMNS = 40
LEAST_BAR_COLUMNS = 4

# What stands before a stage's words, and before what belongs below them.
STAGE_COLUMNS = 9
INDENT = STAGE_COLUMNS + 3

# What became of a stage: mark, word and style.
_MARKS: dict[str, tuple[str, str, str]] = {
    "done": ("✓", "done", "green"),
    "skipped": ("✓", "done before", "dim"),
    "stopped": ("-", "stopped", "yellow"),
}


class Display:
    """Shows how far a run is, on standard error.

    Use as a context: the live picture is cleared at its end. A terminal that can only write lines (``TERM=dumb``)
    gets lines; without colours (``NO_COLOR``) the picture is the same.

    Attributes
    ----------
    stopped : str
        The stage that was interrupted, and what is kept of it; empty if none was.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._headway: Headway | None = None
        self._said = 0.0
        self.stopped = ""
        self._live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=DRAWINGS_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Start the live picture."""
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clear the live picture."""
        self._headway = None
        if self._is_live:
            self._live.stop()

    def begin(
        self,
        stage: str,
        total: int,
        unit: str,
        done: int = 0,
        shards: int = 0,
        shards_done: int = 0,
    ) -> None:
        """Begin a stage."""
        self._headway = Headway(stage, total, unit, done, shards, shards_done)
        self._said = time.monotonic()

    def advance(self, amount: int, note: str = "", shards: int = 0) -> None:
        """Show units that are finished."""
        if self._headway is None:
            return
        self._headway.advance(amount, note, shards)
        if not self._is_live and time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            self.say(str(self._headway))

    def use_memory(self, driver_bytes: int, worker_bytes: int, workers: int) -> None:
        """Show what is held."""
        if self._headway is not None:
            self._headway.use_memory(driver_bytes, worker_bytes, workers)

    def finish(self, stage: str, status: Ending, reason: str, seconds: float) -> None:
        """Say what became of a stage, unless its error is said anyway."""
        self._headway = None
        if status == "stopped":
            self.stopped = f"{stage}: {reason}"
        elif status != "failed":
            self._tell(stage, status, f" in {seconds:.1f} s" if status == "done" else "", reason)

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""
        self.say(f"warning: {message}")

    def say(self, line: str) -> None:
        """Print a line above the live picture."""
        self._console.print(line, markup=False, soft_wrap=True)

    def _tell(self, stage: str, status: Ending, took: str, reason: str) -> None:
        if not self._is_live:
            self.say(f"{stage:<{STAGE_COLUMNS}} {status}{took}: {reason}")
            return
        mark, word, style = _MARKS[status]
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True, style=style)
        line.add_column(no_wrap=True, width=STAGE_COLUMNS)
        # A path that is longer than the line is folded, never cut.
        line.add_column(overflow="fold")
        shown = "*" if self._console.options.ascii_only else mark
        line.add_row(shown, Text(stage), Text(f"{word}{took}: {reason}"))
        self._console.print(line)

    def _draw(self) -> RenderableType:
        """Return the picture: the stage with a bar and its pace, and what else there is to say below."""
        headway = self._headway
        if headway is None:
            return ""
        columns = self._console.width
        head = f"  {headway.stage:<{STAGE_COLUMNS}} "
        if not headway.total:
            return _line(f"{head}begun {format_clock(headway.seconds)} ago")
        tail = f" {headway.share:>4.0%} {headway.pace.replace(', ', '  ', 1)}"
        room = min(MOST_BAR_COLUMNS, columns - len(head) - len(tail) - 1)
        first = Table.grid()
        first.add_row(
            head,
            ProgressBar(1.0, headway.share, width=max(LEAST_BAR_COLUMNS, room)),
            _line(tail),
        )
        return Group(first, *map(_line, fold_facts(list(headway.facts()), columns)))


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def fold_facts(facts: list[str], columns: int) -> list[str]:
    """Return facts on as few lines as they fit on, indented below the stage's words.

    Examples
    --------
    >>> fold_facts(["37 of 120 shards", "memory 210 MiB"], 80)
    ['            37 of 120 shards; memory 210 MiB']
    >>> fold_facts(["37 of 120 shards", "memory 210 MiB"], 40)
    ['            37 of 120 shards', '            memory 210 MiB']
    """
    lines: list[str] = []
    for fact in facts:
        longer = f"{lines[-1]}; {fact}" if lines else ""
        if longer and len(longer) < columns:
            lines[-1] = longer
        else:
            lines.append(f"{'':<{INDENT}}{fact}")
    return lines
