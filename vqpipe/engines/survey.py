"""Asking every worker of a Dask cluster once: outside its tasks, so that none is left out and none has to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from distributed import Client

from vqpipe.runner import Job, Outcome, Result, Worker

# What Dask calls the looks of a worker at its threads.
PROFILING = ("profile", "profile-cycle")

# So many workers are asked for their memory: what is known of one is some 2 kB.
MOST_SEEN = 100


def held_memory(client: Client) -> tuple[int, list[int]]:
    """Return how many workers there are, and the bytes that the first of them held when they last told."""
    info = client.scheduler_info(n_workers=MOST_SEEN)
    metrics = (facts.get("metrics") or {} for facts in info["workers"].values())
    return int(info["n_workers"]), [int(found.get("memory") or 0) for found in metrics]


def ask_workers(
    client: Client, known: Iterable[str], task: Callable[[Worker, Job], Result], job: Job
) -> list[Outcome[Worker, Result]]:
    """Run a short task on every worker but those that are known, and return what became of it.

    A worker that cannot be reached any more is left out: its tasks go elsewhere.
    """
    left_out = set(known)
    there = client.scheduler_info(n_workers=-1)["workers"]
    workers = {
        address: Worker(address, int(facts["memory_limit"] or 0), int(facts["nthreads"]))
        for address, facts in sorted(there.items())
        if address not in left_out
    }
    if not workers:
        return []
    answers = client.run(_ask, task, workers, job, workers=list(workers), on_error="return")
    outcomes = []
    for address, worker in workers.items():
        answer = answers.get(address)
        if isinstance(answer, tuple):
            outcomes.append(Outcome(worker, *answer))
        elif isinstance(answer, Exception) and not isinstance(answer, OSError):
            # It cannot even read what it is asked.
            outcomes.append(Outcome(worker, None, answer))
    return outcomes


def stop_profiling(worker: Any) -> None:
    """Have a Dask worker no longer look every 10 ms at what its threads do.

    Up to Python 3.11.8 that look can hold the whole worker for ever: it waits for a lock of the interpreter's
    with another one held, while a thread that begins or ends has them the other way round
    (https://github.com/python/cpython/issues/106883). Workers stood still so once in some 10,000 short tasks.
    """
    for name in PROFILING:
        callback = worker.periodic_callbacks.get(name)
        if callback is not None:
            callback.stop()


def _ask(
    task: Callable[[Worker, Job], Result], workers: dict[str, Worker], job: Job, dask_worker: Any
) -> tuple[Result | None, Exception | None]:
    """Return the task's result or its error: what is raised is an engine's own trouble."""
    stop_profiling(dask_worker)
    try:
        return task(workers[dask_worker.address], job), None
    except Exception as error:
        return None, error
