"""Running a task on one thread of every numeric library."""

from __future__ import annotations

from collections.abc import Callable

from threadpoolctl import ThreadpoolController

from vqpipe.retries import try_again
from vqpipe.runner import Item, Job, Result


def run_single_threaded(task: Callable[[Item, Job], Result], item: Item, job: Job) -> Result:
    """Run a task with one OpenMP and one BLAS thread, again where storage failed it for a passing reason.

    Workers are the parallelism: two threads in each of two workers on two cores were 1.8 times slower,
    and sums that threads split are other sums.
    """
    # Looked for anew each time, which costs 0.2 ms: a task may be the first to load a library.
    with ThreadpoolController().limit(limits=1):
        return try_again(task, item, job)
