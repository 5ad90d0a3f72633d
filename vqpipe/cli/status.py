"""Exit statuses: 0 done, 2 the user's input is wrong, 1 anything else, 130 and 143 interrupted."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from vqpipe.errors import VqpipeError

INTERRUPTED = 130
TERMINATED = 143

_GO_ON = "stopped: what is done stays; run the same command again to go on"


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
        # A command that knows what is kept has noted it.
        notes = getattr(stop, "__notes__", [_GO_ON])
        _say(notes[0])
        raise typer.Exit(status) from None
    except BrokenPipeError:
        # The reader of our output went away, as `vqpipe plan ... | head` does.
        sys.stderr.close()
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception:
        # Nothing that a user did: whoever mends it needs the traceback.
        traceback.print_exc()
        _say(
            "error: this is a fault of vqpipe itself: report it with the lines above and what `vqpipe doctor` prints; "
            "what is done stays"
        )
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(message: str) -> None:
    sys.stdout.flush()
    typer.echo(message, err=True)
