"""A terminal of any width: the command runs in a real pty, and what a person would see is read off its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyte

CTRL_C = b"\x03"

# A test that waits for so long has failed.
PATIENCE_SECONDS = 180.0


class Terminal:
    """A process in a pty of its own, and the screen that it writes to.

    Attributes
    ----------
    written : bytes
        All that came, control sequences included.
    """

    def __init__(self, arguments: list[str], columns: int, rows: int = 50, **options: Any) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        self.process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, **options,
        )  # fmt: skip
        os.close(slave)

    def lines(self) -> list[str]:
        """Return what is on the screen, without the empty lines at its end."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n").split("\n")

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines())

    def read(self, seconds: float) -> bool:
        """Take what is written within so long; False once the terminal is closed."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return True
        try:
            found = os.read(self._master, 1 << 16)
        except OSError:
            # Linux says so when the last process has closed its side.
            return False
        self.written += found
        self._stream.feed(found)
        return bool(found)

    def until(self, seen: Callable[[str], Any]) -> str:
        """Wait until the screen shows something, and return what it shows."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not seen(self.text):
            if time.monotonic() > end or not self.read(0.2):
                raise AssertionError(f"it never came; the screen is:\n{self.text}")
        return self.text

    def press(self, keys: bytes) -> None:
        """Press keys, as ``CTRL_C``."""
        os.write(self._master, keys)

    def wait(self) -> int:
        """Read to the end and return the exit status."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.read(0.2):
            if time.monotonic() > end:
                raise AssertionError(f"it does not end; the screen is:\n{self.text}")
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """End what still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


# The session's terminal is its own: Ctrl-C reaches every process in it, as at a keyboard.
_TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"


@contextmanager
def terminal(
    *arguments: str,
    columns: int = 100,
    patch: str = "",
    code: str = "from vqpipe.cli import main; main()",
    **options: Any,
) -> Iterator[Terminal]:
    """Run the command line, or other code, in a terminal, a few lines of Python first."""
    code = f"{_TAKE_TERMINAL}\n{patch}\n{code}"
    env = {"TERM": "xterm-256color", **os.environ, **options.pop("env", {})}
    # The tests' own surroundings must not decide what a terminal is.
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):
        env.pop(name, None)
    started = Terminal([sys.executable, "-c", code, *arguments], columns, env=env, **options)
    try:
        yield started
    finally:
        started.close()
