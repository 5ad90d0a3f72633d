"""A look at workers before they get work: their versions and CPUs, their memory, what they see of source and output."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from vqpipe.errors import ClusterError, VqpipeError
from vqpipe.pipeline.machine import held_memory
from vqpipe.pipeline.run import Run
from vqpipe.runner import Item, Job, Outcome, Result, Runner, Sum, Worker
from vqpipe.tasks.survey import Facts, SurveyJob, peak_memory, survey_worker

# Workers that join later are asked when they were there for so long at most: to look costs a message, and a
# round of training is some 50 ms.
LOOK_SECONDS = 5.0

# To see what they hold costs a message as well, while work goes on.
MEMORY_SECONDS = 5.0

# Of workers that cannot do the run, so many are named.
MOST_NAMED = 3

_MIB = 1 << 20


class Surveyed:
    """A runner whose workers are looked at before they get work: nothing is asked as long as there is none.

    Parameters
    ----------
    run : Run
        That holds its output's lease.
    runner : Runner
    """

    def __init__(self, run: Run, runner: Runner) -> None:
        self._run = run
        self._runner = runner
        self._looked: float | None = None
        self._weighed = -MEMORY_SECONDS
        self._here: Facts | None = None
        self._known: set[str] = set()
        self._cpus: Counter[str] = Counter()

    @property
    def workers(self) -> int:
        """How many tasks run at once."""
        return self._runner.workers

    def map(
        self, task: Callable[[Item, Job], Result], items: Iterable[Item], job: Job
    ) -> Iterator[Outcome[Item, Result]]:
        """Run a task for every item, as `Runner.map`."""
        self._look()
        return self._weighing(self._runner.map(task, items, job))

    def fold(
        self,
        task: Callable[[Item, Job], Sum],
        items: Sequence[Item],
        job: Job,
        result_bytes: int | None = None,
    ) -> Sum:
        """Run a task for every item and add the results, as `Runner.fold`."""
        self._look()
        total = self._runner.fold(task, items, job, result_bytes)
        self._weigh()
        return total

    def worker_memory(self) -> tuple[int, list[int]]:
        """Return how many workers there are and what they hold, as `Runner.worker_memory`."""
        return self._runner.worker_memory()

    def survey(
        self, task: Callable[[Worker, Job], Result], job: Job, known: Iterable[str] = ()
    ) -> list[Outcome[Worker, Result]]:
        """Run a short task once on every worker, as `Runner.survey`; on none as long as none was needed."""
        return [] if self._looked is None else self._runner.survey(task, job, known)

    def _weighing(
        self, outcomes: Iterator[Outcome[Item, Result]]
    ) -> Iterator[Outcome[Item, Result]]:
        for outcome in outcomes:
            self._weigh()
            yield outcome

    def _weigh(self) -> None:
        """Tell now and then what this process and the workers hold."""
        if time.monotonic() - self._weighed < MEMORY_SECONDS:
            return
        count, held = self._runner.worker_memory()
        self._run.progress.use_memory(held_memory(), max(held, default=0), count)
        self._weighed = time.monotonic()

    def _look(self) -> None:
        """Look at workers that are new.

        Raises
        ------
        ClusterError
            If one of them cannot do the run.
        """
        now = time.monotonic()
        if self._looked is not None and now - self._looked < LOOK_SECONDS:
            return
        run = self._run
        job = SurveyJob(run.source, run.output, run.lease.run if run.lease is not None else None)
        outcomes = self._runner.survey(survey_worker, job, self._known)
        if outcomes:
            self._here = self._here or survey_worker(None, job)
            check_workers(outcomes, self._here, int(run.config.memory_per_worker))
            self._known |= {outcome.item.name for outcome in outcomes}
            self._name_cpus(outcomes)
        self._looked = time.monotonic()

    def _name_cpus(self, outcomes: Sequence[Outcome[Worker, Facts]]) -> None:
        self._cpus.update(outcome.value().cpu for outcome in outcomes)
        if len(self._cpus) > 1:
            kinds = "; ".join(f"{count} of {cpu}" for cpu, count in sorted(self._cpus.items()))
            self._run.warn(
                f"cluster: workers have CPUs of different kinds ({kinds}): another run on others may end with other "
                "bytes, as good as these"
            )


def measure_memory(run: Run) -> dict[str, int]:
    """Return the most bytes that driver and workers have held so far; of the workers the largest."""
    outcomes = run.runner.survey(peak_memory, None)
    found = {"driver_peak_bytes": peak_memory(None, None)}
    workers = [outcome.value() for outcome in outcomes if outcome.error is None]
    return found | ({"worker_peak_bytes": max(workers)} if workers else {})


def check_workers(
    outcomes: Sequence[Outcome[Worker, Facts]], here: Facts, memory_bytes: int
) -> None:
    """Refuse workers that cannot do the run.

    Parameters
    ----------
    outcomes : sequence of Outcome
        What each worker said of itself.
    here : Facts
        Of the process that asks.
    memory_bytes : int
        What a task may take.

    Raises
    ------
    ClusterError
        That names some of them, and what each of them lacks.
    """
    faults = [
        f"worker {outcome.item.name} {fault}"
        for outcome in outcomes
        if (fault := find_fault(outcome, here, memory_bytes))
    ]
    if faults:
        more = f"\nand {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        raise ClusterError(
            f"cluster: {len(faults)} of {len(outcomes)} workers cannot do this run, and nothing was given to any:\n"
            + "\n".join(faults[:MOST_NAMED])
            + more
        )


def find_fault(outcome: Outcome[Worker, Facts], here: Facts, memory_bytes: int) -> str:
    """Return in words why a worker cannot do the run; empty if it can."""
    worker, error = outcome.item, outcome.error
    share = worker.memory_bytes // max(1, worker.threads)
    if worker.memory_bytes > 0 and share < memory_bytes:
        each = f" for each of its {worker.threads} threads" if worker.threads > 1 else ""
        return (
            f"has {share / _MIB:,.0f} MiB of memory{each}, and memory_per_worker is {memory_bytes / _MIB:,.0f} MiB: "
            "lower memory_per_worker, or start workers with more"
        )
    if isinstance(error, VqpipeError):
        return (
            f"does not see what the driver sees: {error}; name source and output by paths or URLs that are the same "
            "on every worker (a folder of one machine is not)"
        )
    if error is not None:
        return (
            f"cannot answer ({type(error).__name__}: {error}): install the same vqpipe there as here, "
            f"{here.versions.get('vqpipe')}"
        )
    facts = outcome.value()
    other = [
        f"{name} {facts.versions.get(name, 'none')} (here {here.versions.get(name, 'none')})"
        for name in sorted({*facts.versions, *here.versions})
        if facts.versions.get(name) != here.versions.get(name)
    ]
    if other:
        return (
            f"has other versions: {', '.join(other)}; install the same on all: bytes depend on them"
        )
    if facts.rows != here.rows:
        return (
            "reads other rows under the source's name than the driver does; name the source by a path or URL that is "
            "the same on every worker"
        )
    return ""
