"""What a run says while it works: to people by the display, to machines as JSON lines, both on standard error."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vqpipe.cli.display import LINE_SECONDS, Display
from vqpipe.logs import JsonLines
from vqpipe.progress import Ending, Headway

_log = logging.getLogger("vqpipe.progress")


class Logged:
    """Progress as log lines: each stage's beginning and end, and every ten seconds how far it is.

    Attributes
    ----------
    stopped : str
        As of `Display`.
    """

    def __init__(self) -> None:
        self._headway: Headway | None = None
        self._said = 0.0
        self.stopped = ""

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
        _log.info("%s", self._headway)

    def advance(self, amount: int, note: str = "", shards: int = 0) -> None:
        """Add finished units."""
        if self._headway is None:
            return
        self._headway.advance(amount, note, shards)
        if time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            _log.info("%s", self._headway)

    def use_memory(self, driver_bytes: int, worker_bytes: int, workers: int) -> None:
        """Keep what is held for the next line."""
        if self._headway is not None:
            self._headway.use_memory(driver_bytes, worker_bytes, workers)

    def finish(self, stage: str, status: Ending, reason: str, seconds: float) -> None:
        """Say what became of a stage."""
        if status == "stopped":
            self.stopped = f"{stage}: {reason}"
        level = logging.ERROR if status == "failed" else logging.INFO
        _log.log(level, "%s %s in %.1f s: %s", stage, status, seconds, reason)

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""
        _log.warning("%s", message)

    def say(self, line: str) -> None:
        """Say anything else."""
        _log.info("%s", line)


class _Said(logging.Handler):
    """Shows records above the live line."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.INFO)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(record.getMessage())


@contextmanager
def saying(*, as_json: bool) -> Iterator[Display | Logged]:
    """Give what a run is to tell how far it is."""
    if as_json:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        with _handled("vqpipe", handler):
            yield Logged()
        return
    # Of all that is logged a person wants to see what the engine says: where the cluster can be watched.
    with Display() as display, _handled("vqpipe.engines", _Said(display)):
        yield display


@contextmanager
def _handled(name: str, handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
