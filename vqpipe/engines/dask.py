"""The Dask engine: tasks on the workers of a Dask cluster, bounded in flight."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import add
from typing import Any, Generic, Self

from distributed import Client, Future, KilledWorker, as_completed
from distributed.deploy.cluster import Cluster

from vqpipe.config import ClusterConfig, ScaleConfig
from vqpipe.engines.allocator import keep_freed_memory
from vqpipe.engines.single_thread import run_single_threaded
from vqpipe.errors import ConfigError, StageError, VqpipeError
from vqpipe.runner import Item, Job, Outcome, Result, Sum, fold_tree

# Enough that no worker waits for the driver, few enough that the scheduler holds little.
IN_FLIGHT_PER_WORKER = 4

# A task that fails for a passing reason (a full queue, a dropped connection) is tried again.
RETRIES = 2

# A lost job (its only copy was on a worker that died) is sent again this often.
RESENDS = 5

# Results of so many bytes in all come home to be added.
HOME_BYTES = 32 << 20

CONNECT_SECONDS = 30
WORKER_WAIT_SECONDS = 120

_log = logging.getLogger(__name__)


class DaskRunner:
    """Runs tasks on a Dask cluster, which is started, or connected to, at the first task.

    Parameters
    ----------
    config : ClusterConfig
    memory_bytes : int
        Memory of one worker, given to a LocalCluster as its limit.
    """

    def __init__(self, config: ClusterConfig, memory_bytes: int) -> None:
        self._config = config
        if config.address is None:
            # A wrong class is the user's mistake: said now, not after the first stages.
            cluster_class(config.class_)
        self._memory_bytes = memory_bytes
        self._cluster: Cluster | None = None
        self._client: Client | None = None

    def __enter__(self) -> Self:
        """Return the runner; nothing is started yet."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close what was started here, and only that."""
        if self._client is not None:
            self._client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=10)

    @property
    def workers(self) -> int:
        """Threads of all workers there are now."""
        threads: dict[str, int] = self._connected().nthreads()
        return max(1, sum(threads.values()))

    @property
    def dashboard_link(self) -> str | None:
        """Where the cluster can be watched."""
        return None if self._client is None else str(self._client.dashboard_link)

    def map(
        self, task: Callable[[Item, Job], Result], items: Iterable[Item], job: Job
    ) -> Iterator[Outcome[Item, Result]]:
        """Run a task for every item, as `Runner.map`."""
        sender = _Sender(self._connected(), task, job)
        waiting = iter(items)
        completed = as_completed(loop=sender.client.loop)
        items_of: dict[object, Item] = {}

        def submit(item: Item) -> None:
            future = sender.submit(item)
            items_of[future.key] = item
            completed.add(future)

        for item in islice(waiting, IN_FLIGHT_PER_WORKER * self.workers):
            submit(item)
        for future in completed:
            item = items_of.pop(future.key)
            outcome = sender.outcome(future, item)
            # Released at once: a finished result that a dying worker held would be computed again.
            future.release()
            if outcome is None:
                submit(item)
                continue
            for following in islice(waiting, 1):
                submit(following)
            yield outcome

    def fold(
        self,
        task: Callable[[Item, Job], Sum],
        items: Sequence[Item],
        job: Job,
        result_bytes: int | None = None,
    ) -> Sum:
        """Run a task for every item and add the results, as `Runner.fold`."""
        if result_bytes is not None and result_bytes * len(items) <= HOME_BYTES:
            return self._fold_at_home(task, items, job)
        sender = _Sender(self._connected(), task, job)
        while True:
            futures = sender.submit_all(items)
            outcome = sender.outcome(sender.fold(futures), items[0])
            if outcome is not None:
                break
        if outcome.error is not None:
            for item, future in zip(items, futures, strict=True):
                failed = sender.outcome(future, item)
                if failed is not None and failed.error is not None:
                    raise failed.error
        return outcome.value()

    def _fold_at_home(
        self, task: Callable[[Item, Job], Sum], items: Sequence[Item], job: Job
    ) -> Sum:
        """Add results that are small here: it saves a task and a journey for every sum."""
        sender = _Sender(self._connected(), task, job)
        while True:
            outcomes = sender.outcomes(sender.submit_all(items), items)
            if all(outcome is not None for outcome in outcomes):
                return fold_tree((outcome.value() for outcome in outcomes if outcome), add)

    def _connected(self) -> Client:
        if self._client is None:
            if self._config.address is None:
                self._cluster = _start_cluster(self._config, self._memory_bytes)
            try:
                self._client = Client(
                    self._cluster or self._config.address,
                    set_as_default=False,
                    timeout=CONNECT_SECONDS,
                )
                self._client.wait_for_workers(1, timeout=WORKER_WAIT_SECONDS)
            except (OSError, TimeoutError) as error:
                where = self._config.address or self._config.class_
                raise StageError(
                    "cluster",
                    f"no scheduler with a worker answered at {where}: {error}; start it, run again",
                ) from error
            _log.info("dashboard: %s", self._client.dashboard_link)
        return self._client


class _Sender(Generic[Item, Job, Result]):
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


def cluster_class(path: str) -> type[Cluster]:
    """Return the cluster class at an import path.

    Raises
    ------
    ConfigError
        If there is none, or it is no Dask cluster.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"cluster.class: {path!r} cannot be imported ({error}); install the package that holds it, or take "
            "distributed.LocalCluster"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        raise ConfigError(
            f"cluster.class: {path!r} is no subclass of distributed.deploy.Cluster, so no workers can be had "
            "from it"
        )
    return found


def _start_cluster(config: ClusterConfig, memory_bytes: int) -> Cluster:
    kind = cluster_class(config.class_)
    options = dict(config.options)
    if config.class_ == "distributed.LocalCluster":
        cores = len(os.sched_getaffinity(0))
        workers = config.scale if isinstance(config.scale, int) else cores
        # One thread a worker: FAISS and BLAS release the lock, but NumPy's own loops do not.
        local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0"}
        # What a worker fails of is told by its stage; its tracebacks on the way out help nobody.
        quiet = {"silence_logs": logging.CRITICAL}
        options = {**local, **quiet, "memory_limit": memory_bytes, **options}
    try:
        cluster = kind(**options)
    except TypeError as error:
        raise ConfigError(f"cluster.options: {config.class_} refuses them: {error}") from error
    if isinstance(config.scale, ScaleConfig):
        cluster.adapt(minimum=config.scale.minimum, maximum=config.scale.maximum)
    elif config.scale is not None:
        cluster.scale(config.scale)
    return cluster
