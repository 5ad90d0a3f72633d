"""How much memory a worker was last seen to take: told to the scheduler while it lives, asked for once it is dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client, get_worker

# A worker may fill its memory in a second: so often is enough to see most of that.
LOOK_SECONDS = 0.02

# Told again when it has grown by this share of the limit.
STEP_SHARE = 0.02


@contextmanager
def tell_memory(topic: str) -> Iterator[None]:
    """While a task runs, tell the scheduler its worker's memory and limit; nothing where there is no topic."""
    if not topic:
        yield
        return
    worker: Any = get_worker()
    ended = threading.Event()

    def tell() -> None:
        limit, told = int(worker.memory_manager.memory_limit or 0), -1
        while True:
            memory = int(worker.monitor.get_process_memory())
            if told < 0 or memory - told > STEP_SHARE * limit:
                worker.log_event(topic, {"memory": memory, "limit": limit})
                told = memory
            if ended.wait(LOOK_SECONDS):
                return

    thread = threading.Thread(target=tell, name="vqpipe-memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def most_memory(client: Client, topic: str) -> tuple[int, int]:
    """Return the most bytes that were told under a topic, and the limit; zeros if nothing was."""
    events: Any = [event for _, event in client.get_events(topic)]
    return (
        max((event["memory"] for event in events), default=0),
        max((event["limit"] for event in events), default=0),
    )
