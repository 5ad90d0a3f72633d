"""The Dask engine: tasks on the workers of a Dask cluster, bounded in flight."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import add
from typing import Self

from distributed import Client, as_completed
from distributed.deploy.cluster import Cluster

from vqpipe.config import ClusterConfig
from vqpipe.engines.cluster import cluster_class, security_of, start_cluster
from vqpipe.engines.sender import WORKER_WAIT_SECONDS, Sender
from vqpipe.engines.survey import ask_workers, held_memory
from vqpipe.errors import ConfigError, StageError
from vqpipe.runner import Item, Job, Outcome, Result, Sum, Worker, fold_tree

# Enough that no worker waits for the driver, few enough that the scheduler holds little.
IN_FLIGHT_PER_WORKER = 4

# A task that was lost with its worker more often than this is run again when all others have ended, alone, so that
# it is known whether it is to blame.
MOST_LOSSES = 2

# So often a fold is begun anew after its tasks were run one by one and none was to blame.
MOST_FOLDS = 3

# Results of so many bytes in all come home to be added.
HOME_BYTES = 32 << 20

# Workers come and go where they are scaled by the work there is; to count them costs a message.
COUNT_SECONDS = 2.0

CONNECT_SECONDS = 30

_log = logging.getLogger(__name__)


class DaskRunner:
    """Runs tasks on a Dask cluster, which is started, or connected to, at the first task.

    Parameters
    ----------
    config : ClusterConfig
    memory_bytes : int
        Memory of one worker, given to a LocalCluster as its limit.
    patience_seconds : float
        For which a scheduler that does not answer is waited for.
    """

    def __init__(
        self,
        config: ClusterConfig,
        memory_bytes: int,
        patience_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._config = config
        self._patience_seconds = patience_seconds
        if config.address is None:
            # A wrong class is the user's mistake: said now, not after the first stages.
            cluster_class(config.class_)
        self._memory_bytes = memory_bytes
        self._cluster: Cluster | None = None
        self._client: Client | None = None
        self._threads, self._counted = 1, -COUNT_SECONDS

    def __enter__(self) -> Self:
        """Return the runner; nothing is started yet."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close what was started here, and only that."""
        for part, seconds in ((self._client, 5), (self._cluster, 10)):
            if part is None:
                continue
            try:
                part.close(timeout=seconds)
            except (OSError, TimeoutError) as error:
                # Whatever ended the run is what its caller must hear of; the workers end with this process.
                _log.warning("a cluster was not closed in %d s: %s", seconds, error)

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
        sender = self._sender(task, job)
        waiting = iter(items)
        suspects: list[Item] = []
        completed = as_completed(loop=sender.client.loop)
        # What is on its way, and how often it was lost with a worker.
        sent: dict[object, tuple[Item, int]] = {}

        def submit(item: Item, losses: int = 0) -> None:
            future = sender.submit(item)
            sent[future.key] = item, losses
            completed.add(future)

        for item in islice(waiting, self._room(0)):
            submit(item)
        for future in completed:
            item, losses = sent.pop(future.key)
            outcome = sender.outcome(future, item)
            # Released at once: a finished result that a dying worker held would be computed again.
            future.release()
            if outcome is None and losses < MOST_LOSSES:
                submit(item, losses + 1)
                continue
            for following in islice(waiting, self._room(len(sent))):
                submit(following)
            if outcome is None:
                suspects.append(item)
            else:
                yield outcome
        for item in suspects:
            yield sender.alone(item)

    def fold(
        self,
        task: Callable[[Item, Job], Sum],
        items: Sequence[Item],
        job: Job,
        result_bytes: int | None = None,
    ) -> Sum:
        """Run a task for every item and add the results, as `Runner.fold`."""
        at_home = result_bytes is not None and result_bytes * len(items) <= HOME_BYTES
        fold = self._fold_at_home if at_home else self._fold_there
        sender = self._sender(task, job)
        for _ in range(MOST_FOLDS):
            for _ in range(MOST_LOSSES + 1):
                outcome = fold(sender, items)
                if outcome is not None:
                    return outcome.value()
            # A task may end every worker: looked for one by one.
            for item in items:
                sender.alone(item).value()
        raise StageError(
            "cluster",
            f"workers died {MOST_FOLDS * (MOST_LOSSES + 1)} times, and no task of {task.__name__} is to blame; what is "
            "done stays: run again to go on",
        )

    def _fold_there(
        self, sender: Sender[Item, Job, Sum], items: Sequence[Item]
    ) -> Outcome[Item, Sum] | None:
        """Add results where they lie; None if some were lost."""
        futures = sender.submit_all(items)
        outcome = sender.outcome(sender.fold(futures), items[0])
        if outcome is not None and outcome.error is not None:
            for item, future in zip(items, futures, strict=True):
                failed = sender.outcome(future, item)
                if failed is None or failed.error is not None:
                    return failed
        return outcome

    def _fold_at_home(
        self, sender: Sender[Item, Job, Sum], items: Sequence[Item]
    ) -> Outcome[Item, Sum] | None:
        """Add results that are small here: it saves a task and a journey for every sum."""
        outcomes = sender.outcomes(sender.submit_all(items), items)
        there = [outcome for outcome in outcomes if outcome is not None]
        if len(there) < len(items):
            return None
        return Outcome(items[0], fold_tree((outcome.value() for outcome in there), add))

    def _room(self, sent: int) -> int:
        """Return how many more tasks may be sent, for as many workers as there are now: one at least, if none is."""
        now = time.monotonic()
        if now - self._counted > COUNT_SECONDS:
            self._threads, self._counted = self.workers, now
        return max(int(sent == 0), IN_FLIGHT_PER_WORKER * self._threads - sent)

    def _sender(self, task: Callable[[Item, Job], Result], job: Job) -> Sender[Item, Job, Result]:
        return Sender(self._connected(), task, job, self._patience_seconds)

    def worker_memory(self) -> tuple[int, list[int]]:
        """Return how many workers there are and what they hold, as `Runner.worker_memory`."""
        return (0, []) if self._client is None else held_memory(self._client)

    def survey(
        self, task: Callable[[Worker, Job], Result], job: Job, known: Iterable[str] = ()
    ) -> list[Outcome[Worker, Result]]:
        """Run a short task once on every worker but those that are known, as `Runner.survey`."""
        return ask_workers(self._connected(), known, task, job)

    def _connected(self) -> Client:
        if self._client is None:
            if self._config.address is None:
                self._cluster = start_cluster(self._config, self._memory_bytes)
            try:
                self._client = Client(
                    self._cluster or self._config.address,
                    security=security_of(self._config),
                    set_as_default=False,
                    timeout=self._patience_seconds,
                )
                self._client.wait_for_workers(1, timeout=WORKER_WAIT_SECONDS)
            except TypeError as error:
                raise ConfigError(
                    f"cluster.address {self._config.address}: {error}; name the TLS files in cluster.options.security"
                ) from error
            except (OSError, TimeoutError) as error:
                where = self._config.address or self._config.class_
                raise StageError(
                    "cluster",
                    f"no scheduler with a worker answered at {where}: {error}; start it, run again",
                ) from error
            _log.info("dashboard: %s", self._client.dashboard_link)
        return self._client
