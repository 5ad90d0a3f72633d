"""What is sent to the workers of a Dask cluster, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from operator import add
from typing import Any, Generic

from distributed import Client, Future, KilledWorker

from vqpipe.engines.allocator import keep_freed_memory
from vqpipe.engines.single_thread import run_single_threaded
from vqpipe.errors import VqpipeError
from vqpipe.runner import Item, Job, Outcome, Result

# A task that fails for a passing reason (a full queue, a dropped connection) is tried again.
RETRIES = 2

# A lost job (its only copy was on a worker that died) is sent again this often.
RESENDS = 5


class Sender(Generic[Item, Job, Result]):
    """Sends one job to the workers once, and tasks after it."""

    def __init__(self, client: Client, task: Callable[[Item, Job], Result], job: Job) -> None:
        self.client = client
        self._task = task
        self._job = job
        self._sent = self._send()
        self._resends = 0

    def _send(self) -> Future[Any]:
        # A codebook as a task's argument costs 4 times as much as one broadcast.
        sent: Future[Any] = self.client.scatter(self._job, broadcast=True, hash=False)
        return sent

    def submit(self, item: Item) -> Future[Any]:
        """Submit one task."""
        return self.client.submit(
            _run, self._task, item, self._sent, pure=False, retries=RETRIES,
            key=f"{self._task.__name__}-{os.urandom(8).hex()}",
        )  # fmt: skip

    def submit_all(self, items: Sequence[Item]) -> list[Future[Any]]:
        """Submit many tasks in one message."""
        count = len(items)
        futures: list[Future[Any]] = self.client.map(
            _run, [self._task] * count, items, [self._sent] * count,
            pure=False, retries=RETRIES,
            key=[f"{self._task.__name__}-{os.urandom(8).hex()}" for _ in items],
        )  # fmt: skip
        return futures

    def fold(self, futures: Sequence[Future[Any]]) -> Future[Any]:
        """Add results where they lie, in the tree of `fold_tree`: a message for each of its levels."""
        level = list(futures)
        while len(level) > 1:
            pairs = len(level) // 2
            # Before any task still waiting: parts that lie about are memory.
            added = self.client.map(
                _add, level[: 2 * pairs : 2], level[1 : 2 * pairs : 2], pure=False, priority=1
            )
            level = [*added, *level[2 * pairs :]]
        return level[0]

    def outcomes(
        self, futures: Sequence[Future[Any]], items: Sequence[Item]
    ) -> list[Outcome[Item, Result] | None]:
        """Return what became of several tasks, fetched in one journey if all went well."""
        try:
            results = self.client.gather(futures)
        except Exception:
            pairs = zip(futures, items, strict=True)
            return [self.outcome(future, item) for future, item in pairs]
        return [_outcome(item, result) for item, result in zip(items, results, strict=True)]

    def outcome(self, future: Future[Any], item: Item) -> Outcome[Item, Result] | None:
        """Return what became of a task, or None if it must be submitted again."""
        try:
            result = future.result()
        except KilledWorker as error:
            return Outcome(item, None, error)
        except Exception as error:
            if future.cancelled() or future.status == "lost":
                self._resends += 1
                if self._resends <= RESENDS:
                    self._sent = self._send()
                    return None
            return Outcome(item, None, error)
        return _outcome(item, result)


def _outcome(item: Item, result: Any) -> Outcome[Item, Any]:
    if isinstance(result, VqpipeError):
        return Outcome(item, None, result)
    return Outcome(item, result)


def _run(task: Callable[[Item, Job], Result], item: Item, job: Job) -> Result | VqpipeError:
    """Run a task on a worker. What the user must mend is returned, not raised: it needs no retry."""
    keep_freed_memory()
    try:
        return run_single_threaded(task, item, job)
    except VqpipeError as error:
        return error


def _add(left: Any, right: Any) -> Any:
    for value in (left, right):
        if isinstance(value, VqpipeError):
            return value
    return add(left, right)
