"""Try the engine at a size that one machine has not: tasks sleep where they would compute.

    python tests/benchmarks/scale.py [--shards 10000] [--workers 64] [--seconds 0.1] [--values 5e7] [--slices 64]

First ``--shards`` shards go through `DaskRunner.map` on ``--workers`` workers, each task sleeping for ``--seconds``.
Scheduler, workers (all in one process) and driver are processes of their own; the overhead of a task is the time that
all took beyond the sleep of a worker's share, per task. Then one round of training: ``--slices`` tallies of a codebook
of ``--values`` values (k * d) are folded as a round folds them, each of the codewords that 8,192 rows would touch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from vqpipe.config import ClusterConfig
from vqpipe.engines.dask import DaskRunner
from vqpipe.kmeans.tally import Tally
from vqpipe.shards import Shard, plan_shards

SHARD_ROWS = 1 << 20
SLICE_ROWS = 8_192
DIM = 128

# What every worker does for itself all the time, 64 of them would do on one loop.
QUIET = {
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "30s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",
}

# Workers as threads of one process: a process each would take 64 times the memory of an interpreter.
WORKERS = """
import asyncio, sys
from distributed import Worker

async def main(address, count):
    workers = [await Worker(address, nthreads=1, dashboard=False, memory_limit=0) for _ in range(count)]
    await asyncio.gather(*(worker.finished() for worker in workers))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@dataclass(frozen=True)
class Record:
    """As small as what encoding a shard returns."""

    rows: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """As large as what encoding is told."""

    seconds: float
    codebook: str
    source: str


def sleep_shard(shard: Shard, job: Job) -> Record:
    """Sleep as long as the arithmetic might take."""
    time.sleep(job.seconds)
    return Record(shard.rows, job.seconds)


def tally_nothing(shard: Shard, codewords: int) -> Tally:
    """Return a tally as large as that of a slice's rows, without looking at any."""
    generator = np.random.default_rng(shard.index)
    touched = np.unique(generator.integers(0, codewords, shard.rows))
    count = len(touched)
    ones = np.ones(count, dtype=np.int64)
    return Tally(touched, np.ones((count, DIM)), ones, np.ones(count), shard.rows)


def taken(process: int | str) -> dict[str, float]:
    """Return the most memory that a process has held, and the time of a core that it has taken."""
    folder = Path("/proc") / str(process)
    peak = next(
        line for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM")
    )
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return {
        "peak_mib": round(int(peak.split()[1]) / 1024),
        "core_seconds": round(ticks / os.sysconf("SC_CLK_TCK"), 1),
    }


def try_shards(runner: DaskRunner, arguments: argparse.Namespace) -> dict[str, Any]:
    """Map over all shards and return what a task cost."""
    shards = plan_shards(arguments.shards * SHARD_ROWS, SHARD_ROWS)
    job = Job(arguments.seconds, "/shared/runs/v1/codebook.zarr", "/shared/vectors.zarr")
    began = time.perf_counter()
    rows = sum(outcome.value().rows for outcome in runner.map(sleep_shard, iter(shards), job))
    seconds = time.perf_counter() - began
    asleep = arguments.shards * arguments.seconds / arguments.workers
    return {
        "shards": arguments.shards,
        "rows": rows,
        "seconds": round(seconds, 1),
        "asleep": round(asleep, 1),
        "overhead_ms_a_task": round(1000 * (seconds - asleep) / arguments.shards, 2),
    }


def try_round(runner: DaskRunner, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fold the tallies of one round of training."""
    codewords = int(arguments.values) // DIM
    slices = list(plan_shards(arguments.slices * SLICE_ROWS, SLICE_ROWS))
    size = SLICE_ROWS * (DIM * 8 + 24)
    began = time.perf_counter()
    tally = runner.fold(tally_nothing, slices, codewords, result_bytes=size)
    return {
        "values": codewords * DIM,
        "slices": len(slices),
        "touched": len(tally.touched),
        "tally_mib": round(tally.sums.nbytes / 2**20),
        "round_seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Start what is needed, try both, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--values", type=float, default=5e7)
    parser.add_argument("--slices", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "scheduler.json")
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
        # Scheduler and workers import what they are sent from where this script lies.
        place = {"cwd": str(Path(__file__).parent)}
        environment = {**os.environ, **QUIET}
        quiet = {
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            "env": environment,
            **place,
        }
        scheduler = subprocess.Popen(
            [*command, "--scheduler-file", file, "--host", "127.0.0.1", "--port", "0"], **quiet
        )
        workers = None
        try:
            with Client(scheduler_file=file, timeout=120, set_as_default=False) as client:
                address = client.scheduler.address
                workers = subprocess.Popen(
                    [sys.executable, "-c", WORKERS, address, str(arguments.workers)],
                    **quiet,
                )
                client.wait_for_workers(arguments.workers, timeout=300)
            config = ClusterConfig.model_validate({"address": address})
            with DaskRunner(config, 1 << 31) as runner:
                parts = {"scheduler": scheduler.pid, "driver": "self", "workers": workers.pid}
                for work in (try_shards, try_round):
                    print(work(runner, arguments))
                    print({name: taken(process) for name, process in parts.items()}, flush=True)
        finally:
            for process in (workers, scheduler):
                if process is not None:
                    process.terminate()
                    process.wait()


if __name__ == "__main__":
    # By its own name, so that workers can import what they are sent.
    from scale import main as named_main

    named_main()
