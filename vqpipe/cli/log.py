"""What a run says while it works: to people by the display, to machines as JSON lines, both on standard error."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vqpipe.cli.display import LINE_SECONDS, Display
from vqpipe.logs import JsonLines

_log = logging.getLogger("vqpipe.progress")


class Logged:
    """Progress as log lines: each stage's beginning and end, and every ten seconds how far it is."""

    def __init__(self) -> None:
        self._stage, self._unit, self._note = "", "", ""
        self._total, self._done = 0, 0
        self._said = 0.0

    def begin(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage."""
        self._stage, self._total, self._unit, self._done = stage, total, unit, 0
        self._said = time.monotonic()
        _log.info("%s: %s %s to do", stage, f"{total:,}", unit)

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units."""
        self._done += amount
        self._note = note or self._note
        if time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            done, total = f"{self._done:,}", f"{self._total:,}"
            _log.info("%s: %s of %s %s %s", self._stage, done, total, self._unit, self._note)

    def finish(self, stage: str, status: str, reason: str, seconds: float) -> None:
        """Say what became of a stage."""
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
