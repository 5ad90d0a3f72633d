"""Log lines for machines: one JSON object a line, with the run, the stage and the shard that it is about."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_about: ContextVar[dict[str, str] | None] = ContextVar("about", default=None)


@contextmanager
def about(**facts: str) -> Iterator[None]:
    """Say what all lines that are logged in this context are about: ``run``, ``stage``."""
    token = _about.set({**(_about.get() or {}), **facts})
    try:
        yield
    finally:
        _about.reset(token)


class JsonLines(logging.Formatter):
    """A record as a JSON object: time, level, what it is about, logger, message.

    Examples
    --------
    >>> record = logging.LogRecord("vqpipe", logging.INFO, "", 0, "%d rows", (5,), None)
    >>> record.created, record.shard = 0.0, 3
    >>> with about(run="5f", stage="encode"):
    ...     print(JsonLines().format(record))
    {"time": "1970-01-01T00:00:00.000+00:00", "level": "info", "run": "5f", "stage": "encode", "shard": 3, "logger": \
"vqpipe", "message": "5 rows"}
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        shard = getattr(record, "shard", None)
        line = {
            "time": when,
            "level": record.levelname.lower(),
            **(_about.get() or {}),
            **({} if shard is None else {"shard": shard}),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
