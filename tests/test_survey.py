"""Workers are looked at before they get work: what would spoil a run, or end it later, is said at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from runs import config_of, run_here

from vqpipe.config import ClusterConfig
from vqpipe.engines.dask import DaskRunner
from vqpipe.engines.survey import PROFILING
from vqpipe.errors import ClusterError, SourceError
from vqpipe.pipeline.survey import check_workers, find_fault
from vqpipe.runner import Outcome, Worker
from vqpipe.tasks.survey import Facts, peak_memory

MEMORY = 1 << 30

START = "from distributed.cli.dask_worker import main; main()"

# Each worker that must not get work: a line of Python that makes it what it is, and what is said of it.
ODD = {
    "other versions": (
        (
            "import vqpipe.versions as v\n"
            "old = v.version\n"
            "v.version = lambda name: '0.0.1' if name == 'faiss-cpu' else old(name)"
        ),
        r"other versions: faiss-cpu 0\.0\.1 \(here \d",
    ),
    "an older vqpipe, which cannot read the question": (
        "import sys; sys.modules['vqpipe.tasks.survey'] = None",
        r"cannot answer \(.*ModuleNotFoundError.*install the same vqpipe there",
    ),
}


def worker_command(cluster: LocalCluster, patch: str = "pass", *options: str) -> list[str]:
    start = ["--no-nanny", "--nthreads", "1", "--no-dashboard", *options]
    return [sys.executable, "-c", f"{patch}\n{START}", cluster.scheduler_address, *start]


@contextmanager
def one_more(cluster: LocalCluster, command: list[str]) -> Iterator[None]:
    """Start a worker beside the one that is there, and end it."""
    before = len(cluster.scheduler.workers)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(before + 1, timeout=60)
            yield
            process.terminate()
            process.wait()
            while len(client.scheduler_info(n_workers=-1)["workers"]) > before:
                time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=MEMORY
    ) as cluster:
        yield cluster


def keys_of(cluster: LocalCluster) -> dict[str, Any]:
    return {
        "cluster": {"address": cluster.scheduler_address},
        "memory_per_worker": "1GiB",
        "train__rounds": 2,
        "export": [],
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "a.npy"
    path.parent.mkdir()
    np.save(path, np.random.default_rng(0).standard_normal((3000, 8), dtype=np.float32))
    return path


def work_done(output: Path) -> bool:
    return any(path.is_file() for path in (output / "samples").rglob("*"))


@pytest.mark.parametrize("kind", ODD)
def test_a_worker_that_is_not_like_the_driver_gets_no_work(
    cluster: LocalCluster, tmp_path: Path, source: Path, kind: str
) -> None:
    patch, said = ODD[kind]
    with (
        one_more(cluster, worker_command(cluster, patch)),
        pytest.raises(ClusterError, match=said) as refused,
    ):
        run_here(config_of(tmp_path, source, **keys_of(cluster)))
    assert "1 of 2 workers" in str(refused.value)
    assert not work_done(tmp_path / "out")
    assert run_here(config_of(tmp_path, source, **keys_of(cluster)))["rows"] == 3000


def test_a_worker_with_too_little_memory_is_refused_with_both_numbers(
    cluster: LocalCluster, tmp_path: Path, source: Path
) -> None:
    with (
        one_more(cluster, worker_command(cluster, "pass", "--memory-limit", "512MiB")),
        pytest.raises(ClusterError, match=r"512 MiB of memory, and memory_per_worker is 1,024 MiB"),
    ):
        run_here(config_of(tmp_path, source, **keys_of(cluster)))


@pytest.mark.parametrize(
    ("hidden", "said"),
    [("data", r"does not see what the driver sees: .*a\.npy"), ("out", r"output .*another folder")],
)
def test_a_path_that_a_worker_cannot_see_is_said_at_once(
    cluster: LocalCluster, tmp_path: Path, source: Path, hidden: str, said: str
) -> None:
    """The worker has another file system there, as another machine would."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a file system of its own for the worker takes root and unshare")
    (tmp_path / "out").mkdir()
    mount = f'mount -t tmpfs none {tmp_path / hidden} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", *worker_command(cluster)]
    with one_more(cluster, command), pytest.raises(ClusterError, match=said):
        run_here(config_of(tmp_path, source, **keys_of(cluster)))
    assert not work_done(tmp_path / "out")


def test_cpus_of_different_kinds_are_named_and_work(
    cluster: LocalCluster, tmp_path: Path, source: Path
) -> None:
    patch = "import vqpipe.kernels as k; k.describe_cpu = lambda: 'pentium, 64-bit vectors'"
    with one_more(cluster, worker_command(cluster, patch)):
        found = run_here(config_of(tmp_path, source, **keys_of(cluster)))
    (warning,) = [text for text in found["warnings"] if "CPUs" in text]
    assert "1 of pentium, 64-bit vectors" in warning
    assert not list((tmp_path / "out").glob("probe-*"))


def profiled(client: Client) -> list[list[str]]:
    """Return by which looks at their threads the workers are held up."""

    def running(dask_worker: Any) -> list[str]:
        looks = dask_worker.periodic_callbacks
        return [name for name in PROFILING if name in looks and looks[name].is_running()]

    return list(client.run(running).values())


def test_no_worker_is_profiled_which_can_hold_it_for_ever(cluster: LocalCluster) -> None:
    """Neither one that we start, from its first moment, nor one that was there before, once it was asked."""
    with DaskRunner(ClusterConfig.model_validate({"scale": 1}), MEMORY) as ours:
        assert profiled(ours._connected()) == [[]]
    with Client(cluster, set_as_default=False) as client:
        client.restart()
        assert profiled(client) == [list(PROFILING)]
        with DaskRunner(ClusterConfig(address=cluster.scheduler_address), MEMORY) as theirs:
            theirs.survey(peak_memory, None)
        assert profiled(client) == [[]]


def test_every_worker_is_asked_once_also_one_that_joins(cluster: LocalCluster) -> None:
    config = ClusterConfig.model_validate({"address": cluster.scheduler_address})
    with DaskRunner(config, MEMORY) as runner:
        (first,) = runner.survey(peak_memory, None)
        assert first.value() > 20 << 20
        assert (first.item.memory_bytes, first.item.threads) == (MEMORY, 1)
        assert runner.survey(peak_memory, None, {first.item.name}) == []
        with one_more(cluster, worker_command(cluster)):
            (second,) = runner.survey(peak_memory, None, {first.item.name})
            assert second.value() > 20 << 20
            assert second.item.name != first.item.name


def outcome(memory_bytes: int = 0, threads: int = 1, **keys: Any) -> Outcome[Worker, Facts]:
    facts = {"versions": {"numpy": "2"}, "cpu": "x", "rows": b"r", **keys}
    return Outcome(Worker("w", memory_bytes, threads), Facts(**facts))


HERE = Facts({"numpy": "2"}, "x", b"r")

FAULTS = {
    "none": (outcome(), ""),
    "as much memory as is asked for": (outcome(100), ""),
    "a byte less": (outcome(99), "memory_per_worker"),
    "threads that share it": (outcome(199, 2), "each of its 2 threads"),
    "threads with enough for each": (outcome(200, 2), ""),
    "another CPU is no fault": (outcome(cpu="y"), ""),
    "a version that is not there": (outcome(versions={}), "numpy none (here 2)"),
    "a package that is not here": (outcome(versions={"numpy": "2", "zarr": "3"}), "(here none)"),
    "other rows under the same name": (outcome(rows=b"s"), "other rows"),
    "a source that is not there": (
        Outcome(Worker("w", 0, 1), None, SourceError("a.npy: there is no such file")),
        "a.npy: there is no such file",
    ),
    "an error of its own": (Outcome(Worker("w", 0, 1), None, KeyError("odd")), "KeyError"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_said_in_words(case: str) -> None:
    asked, said = FAULTS[case]
    found = find_fault(asked, HERE, 100)
    assert said in found if said else found == ""


def test_a_few_workers_are_named_and_the_rest_counted() -> None:
    with pytest.raises(ClusterError, match=r"5 of 6 workers[\s\S]*and 2 more"):
        check_workers([outcome(1)] * 5 + [outcome()], HERE, 100)
