"""Exit statuses: 0 done, 2 the user's input is wrong, 1 anything else, 130 and 143 interrupted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from vqpipe.errors import VqpipeError

INTERRUPTED = 130
TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception: nothing on the way out may take it for a failure."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def exit_statuses() -> Iterator[None]:
    """Turn what a command raises into one message and an exit status."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except VqpipeError as error:
        _say(f"error: {error}")
        raise typer.Exit(error.exit_status) from None
    except (KeyboardInterrupt, Terminated) as stop:
        status = INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
        known = getattr(stop, "__notes__", None)
        _say(
            known[0]
            if known
            else "stopped: what is done stays; run the same command again to go on"
        )
        raise typer.Exit(status) from None
    except BrokenPipeError:
        # The reader of our output went away, as `vqpipe plan ... | head` does.
        sys.stderr.close()
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(message: str) -> None:
    sys.stdout.flush()
    typer.echo(message, err=True)
