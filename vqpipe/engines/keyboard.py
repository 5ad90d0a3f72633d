"""Keeping Ctrl-C from processes that this one starts, and ends itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def deaf_to_keyboard() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started inside, and from those that their threads start later.

    A terminal sends it to all processes of a command. It is this one that ends its workers; by themselves they
    would end with a traceback each. It is held back, not ignored: what was pressed meanwhile arrives at the end.
    """
    # Started before, as it unblocks what is blocked here.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
