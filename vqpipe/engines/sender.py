"""What is sent to the workers of a Dask cluster, and what became of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from operator import add
from typing import Any, Generic

from distributed import Client, Future, KilledWorker

from vqpipe.engines.allocator import keep_freed_memory
from vqpipe.engines.memory_events import most_memory, tell_memory
from vqpipe.engines.single_thread import run_single_threaded
from vqpipe.errors import StageError, VqpipeError, WorkerError
from vqpipe.runner import Item, Job, Outcome, Result

# A task that fails for a passing reason of its worker's (no memory at the moment) is tried again elsewhere.
RETRIES = 2

WORKER_WAIT_SECONDS = 120

# A task that runs alone and ends its worker so often has not met with an accident.
DEATHS_ALONE = 2

# Beyond this share of its limit a worker that died did so for want of memory: Dask's nanny ends it at 0.95, the
# system may do so before, and what it takes last comes between two looks.
MEMORY_SHARE = 0.7


class Sender(Generic[Item, Job, Result]):
    """Sends one job to the workers once, and tasks after it.

    Parameters
    ----------
    client : Client
    task, job
        As `Runner.map` takes them.
    patience_seconds : float
        For which a scheduler that does not answer is waited for.
    """

    def __init__(
        self,
        client: Client,
        task: Callable[[Item, Job], Result],
        job: Job,
        patience_seconds: float,
    ) -> None:
        self.client = client
        self._task = task
        self._job = job
        self._patience_seconds = patience_seconds
        # A client that has given up no longer knows it.
        self._address = "an unknown place" if client.scheduler is None else client.scheduler.addr
        self._sent = self._send()

    def _send(self) -> Future[Any]:
        # A codebook as a task's argument costs 4 times as much as one broadcast.
        try:
            sent: Future[Any] = self.client.scatter(self._job, broadcast=True, hash=False)
        except TimeoutError as error:
            raise self._deserted() from error
        except (OSError, RuntimeError) as error:
            # A client that has given up on its scheduler raises the latter.
            raise self._gone(str(error)) from error
        return sent

    def submit(self, item: Item, topic: str = "") -> Future[Any]:
        """Submit one task; where a topic is given, its worker's memory is told there."""
        return self.client.submit(
            _run, self._task, item, self._sent, topic, pure=False, retries=RETRIES,
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
        """Return what became of a task; None if it was lost with its worker and must be submitted again.

        Raises
        ------
        StageError
            If the scheduler is gone.
        """
        try:
            result = future.result()
        except Exception as error:
            lost = future.cancelled() or future.status == "lost"
            if not lost and not isinstance(error, KilledWorker):
                return Outcome(item, None, error)
            self._mend()
            return None
        return _outcome(item, result)

    def alone(self, item: Item) -> Outcome[Item, Result]:
        """Run a task with no other beside it: if its worker dies, it is this task that ends it."""
        topic = f"vqpipe-memory-{os.urandom(8).hex()}"
        for _ in range(DEATHS_ALONE):
            outcome = self.outcome(self.submit(item, topic), item)
            if outcome is not None:
                return outcome
        why = _why(*most_memory(self.client, topic))
        return Outcome(item, None, WorkerError(f"{self._task.__name__} of {item} {why}"))

    def _mend(self) -> None:
        """Send the job again, if the only copy was on a worker that died."""
        self._await_scheduler()
        try:
            # A worker that died is started anew, which takes a busy machine a while.
            self.client.wait_for_workers(1, timeout=WORKER_WAIT_SECONDS)
        except TimeoutError as error:
            raise self._deserted() from error
        if self._sent.status != "finished":
            self._sent = self._send()

    def _await_scheduler(self) -> None:
        until = time.monotonic() + self._patience_seconds
        while self.client.status != "running":
            if self.client.status == "closed" or time.monotonic() > until:
                raise self._gone("the connection was lost")
            time.sleep(0.1)

    def _deserted(self) -> StageError:
        return StageError(
            "cluster",
            "there is no worker, and none came for so long; what is done stays: see why they do not start, and run "
            "again to go on",
        )

    def _gone(self, why: str) -> StageError:
        return StageError(
            "cluster",
            f"the scheduler at {self._address} does not answer ({why}); what is done stays: start it, or another, and "
            "run again to go on",
        )


def _why(memory: int, limit: int) -> str:
    """Return in words what a task did to its worker, whose memory was last seen at so many bytes."""
    ended = f"ended its worker {DEATHS_ALONE} times while nothing else ran there"
    seen = f"{memory / 2**20:,.0f} MiB of memory were seen"
    if limit and memory > MEMORY_SHARE * limit:
        return (
            f"{ended}: {seen}, its limit is {limit / 2**20:,.0f} MiB; lower encode.shard_rows, or raise "
            "memory_per_worker to what the machine has"
        )
    of_limit = f" of {limit / 2**20:,.0f} MiB" if limit else ""
    return (
        f"{ended} ({seen}{of_limit}): native code crashed, or the system ended it; if the machine has less memory than "
        "that, lower memory_per_worker and encode.shard_rows"
    )


def _outcome(item: Item, result: Any) -> Outcome[Item, Any]:
    if isinstance(result, VqpipeError | OSError):
        return Outcome(item, None, result)
    return Outcome(item, result)


def _run(
    task: Callable[[Item, Job], Result], item: Item, job: Job, topic: str = ""
) -> Result | VqpipeError | OSError:
    """Run a task on a worker. What the user must mend is returned, not raised: it needs no retry.

    Nor does what storage refuses, which was tried again where that helps.
    """
    keep_freed_memory()
    try:
        with tell_memory(topic):
            return run_single_threaded(task, item, job)
    except (VqpipeError, OSError) as error:
        return error


def _add(left: Any, right: Any) -> Any:
    for value in (left, right):
        if isinstance(value, VqpipeError | OSError):
            return value
    return add(left, right)
