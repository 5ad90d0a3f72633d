"""Where the stages say how far they are. What is done with it is the caller's business."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

# A rate is of the last minute, so that a slow start, or workers that came, are soon forgotten; a mark is kept
# every second.
RATE_SECONDS = 60.0
MARK_SECONDS = 1.0

Ending = Literal["done", "skipped", "failed", "stopped"]


class Progress(Protocol):
    """Told by the stages what happens; must not raise and must return at once."""

    def begin(
        self,
        stage: str,
        total: int,
        unit: str,
        done: int = 0,
        shards: int = 0,
        shards_done: int = 0,
    ) -> None:
        """Begin a stage, or say more of the one that was begun.

        Parameters
        ----------
        stage : str
        total : int
            Units of work; 0 where that is not known yet.
        unit : str
            What they are: ``rows``.
        done : int
            Of these the ones that were done before.
        shards, shards_done : int
            Where the work goes by shards: all that there are, and those that were done before.
        """

    def advance(self, amount: int, note: str = "", shards: int = 0) -> None:
        """Add finished units, and shards, to the stage that was begun last, with a figure worth showing."""

    def use_memory(self, driver_bytes: int, worker_bytes: int, workers: int) -> None:
        """Say what this process holds, and the largest of so many workers (none: all is done here)."""

    def finish(self, stage: str, status: Ending, reason: str, seconds: float) -> None:
        """End a stage, and say why; of one that was stopped, what is kept."""

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""


class Silent:
    """Says nothing: for tests and for use as a library."""

    def begin(
        self,
        stage: str,
        total: int,
        unit: str,
        done: int = 0,
        shards: int = 0,
        shards_done: int = 0,
    ) -> None:
        """Say nothing."""

    def advance(self, amount: int, note: str = "", shards: int = 0) -> None:
        """Say nothing."""

    def use_memory(self, driver_bytes: int, worker_bytes: int, workers: int) -> None:
        """Say nothing."""

    def finish(self, stage: str, status: Ending, reason: str, seconds: float) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""


@dataclass
class Headway:
    """How far a stage is and how fast: what the display, log lines and a run's page say of it.

    Attributes
    ----------
    stage, unit : str
    total : int
        Units of work; 0 where that is not known yet.
    done : int
        Units that are finished, those that were done before among them.
    shards, shards_done : int
        Shards that there are, and finished ones; zeros where the work does not go by shards.
    note, memory : str
        Figures worth showing.
    """

    stage: str
    total: int
    unit: str
    done: int = 0
    shards: int = 0
    shards_done: int = 0
    note: str = ""
    memory: str = ""
    _began: float = field(init=False)
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        # What was done before took no time.
        self._marks.append((self._began, self.done))

    def advance(self, amount: int, note: str, shards: int) -> None:
        """Add what is finished, as `Progress.advance`."""
        self.done += amount
        self.shards_done += shards
        self.note = note or self.note
        now = time.monotonic()
        if now - self._marks[-1][0] >= MARK_SECONDS:
            self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_SECONDS:
            self._marks.popleft()

    def use_memory(self, driver_bytes: int, worker_bytes: int, workers: int) -> None:
        """Keep what is held, as `Progress.use_memory`."""
        self.memory = f"memory {_mebibytes(driver_bytes)}"
        if workers:
            each = "the worker" if workers == 1 else f"{workers:,} workers up to"
            self.memory += f", {each} {_mebibytes(worker_bytes)}"

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    @property
    def share(self) -> float:
        """Share of the work that is done, at most 1."""
        return min(1.0, self.done / max(1, self.total))

    @property
    def rate(self) -> float:
        """Units a second, of late."""
        since, done = self._marks[0]
        return (self.done - done) / max(time.monotonic() - since, 1e-3)

    @property
    def pace(self) -> str:
        """Rate and time left in words; empty before the first unit."""
        if not self.rate:
            return ""
        left = format_clock(max(0, self.total - self.done) / self.rate)
        # Of a few large things, such as codebooks, a rate says less than the time.
        rate = f"{self.rate:,.0f} {self.unit}/s, " if self.rate >= 1 else ""
        return f"{rate}{left} left"

    def facts(self) -> Iterator[str]:
        """Yield what else there is to say: shards, the note, memory."""
        if self.shards:
            yield f"{self.shards_done:,} of {self.shards:,} shards"
        yield from (fact for fact in (self.note, self.memory) if fact)

    def __str__(self) -> str:
        if not self.total:
            return f"{self.stage}: begun"
        done = f"{self.done:,} of {self.total:,} {self.unit}"
        return (
            f"{self.stage}: {', '.join(fact for fact in (done, self.pace, *self.facts()) if fact)}"
        )


def format_clock(seconds: float) -> str:
    """Return a duration as a clock shows it.

    Examples
    --------
    >>> format_clock(7.2), format_clock(3725)
    ('0:07', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
