"""The serial engine: every task in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add

from vqpipe.engines.single_thread import run_single_threaded
from vqpipe.runner import Item, Job, Outcome, Result, Sum, Worker, fold_tree


class SerialRunner:
    """Runs tasks in order, in this process; for tests, small data and debugging."""

    @property
    def workers(self) -> int:
        """One."""
        return 1

    def map(
        self, task: Callable[[Item, Job], Result], items: Iterable[Item], job: Job
    ) -> Iterator[Outcome[Item, Result]]:
        """Run a task for every item, as `Runner.map`."""
        for item in items:
            try:
                yield Outcome(item, run_single_threaded(task, item, job))
            except Exception as error:
                yield Outcome(item, None, error)

    def fold(
        self,
        task: Callable[[Item, Job], Sum],
        items: Sequence[Item],
        job: Job,
        result_bytes: int | None = None,  # noqa: ARG002 -- here is where the results lie
    ) -> Sum:
        """Run a task for every item and add the results, as `Runner.fold`."""
        return fold_tree((outcome.value() for outcome in self.map(task, items, job)), add)

    def worker_memory(self) -> tuple[int, list[int]]:
        """Return that there is no worker."""
        return 0, []

    def survey(
        self,
        task: Callable[[Worker, Job], Result],  # noqa: ARG002 -- there is no worker to ask
        job: Job,  # noqa: ARG002
        known: Iterable[str] = (),  # noqa: ARG002
    ) -> list[Outcome[Worker, Result]]:
        """Ask nobody: this process does the work."""
        return []
