"""The engine contract, on every engine: the same outcomes and the same sums, whatever fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from vqpipe.config import ClusterConfig
from vqpipe.engines import allocator
from vqpipe.engines.cluster import cluster_class
from vqpipe.engines.dask import DaskRunner
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import ConfigError, SourceError, StageError, WorkerError
from vqpipe.runner import Runner

MEMORY = 1 << 30


@pytest.fixture(scope="module", params=["serial", "dask"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Give each engine in turn."""
    if request.param == "serial":
        yield SerialRunner()
        return
    config = ClusterConfig.model_validate({"options": {"n_workers": 2}})
    with DaskRunner(config, MEMORY) as dask:
        yield dask


@dataclass(frozen=True)
class Awkward:
    """Floats of which no two orders of adding give the same sum."""

    value: float

    def __add__(self, other: Awkward) -> Awkward:
        return Awkward(self.value + other.value)


def awkward(item: int, job: float) -> Awkward:
    return Awkward(np.sin(item) * 10.0 ** (item % 17 - 8) + job)


def half(item: int, job: Path) -> int:
    with (job / str(item)).open("a") as calls:
        calls.write("x")
    if item % 3 == 0:
        raise SourceError(f"item {item} is odd in its own way")
    if item % 3 == 1:
        raise ZeroDivisionError(item)
    return item * 2


def die_once(item: int, job: Path) -> int:
    marker = job / "died"
    if item == 5 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item + 1


def die_always(item: int, job: None) -> int:
    if item == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    return item


def pid(item: int, job: None) -> int:
    return os.getpid()


def big(item: int, job: np.ndarray) -> float:
    return float(job[item])


def test_every_item_has_one_outcome_and_a_failed_one_stops_no_other(
    runner: Runner, tmp_path: Path
) -> None:
    outcomes = {outcome.item: outcome for outcome in runner.map(half, range(30), tmp_path)}
    assert set(outcomes) == set(range(30))
    for item, outcome in outcomes.items():
        if item % 3 == 2:
            assert outcome.value() == item * 2
        else:
            with pytest.raises(SourceError if item % 3 == 0 else ZeroDivisionError):
                outcome.value()


def test_what_the_user_must_mend_is_not_tried_again(runner: Runner, tmp_path: Path) -> None:
    list(runner.map(half, range(6), tmp_path))
    assert (tmp_path / "3").read_text() == "x"


@pytest.mark.parametrize("result_bytes", [None, 8, 1 << 30])
@pytest.mark.parametrize("items", [1, 2, 7, 64])
def test_a_fold_adds_in_one_order_on_every_engine(
    runner: Runner, items: int, result_bytes: int | None
) -> None:
    """Also where small results come home to be added, and large ones are added where they lie."""
    longhand = [awkward(item, 0.1).value for item in range(items)]
    while len(longhand) > 1:
        pairs = [sum(longhand[place : place + 2]) for place in range(0, len(longhand), 2)]
        longhand = pairs
    assert runner.fold(awkward, list(range(items)), 0.1, result_bytes).value == longhand[0]


@pytest.mark.parametrize("result_bytes", [None, 8])
def test_a_fold_raises_the_first_failed_items_error(
    runner: Runner, tmp_path: Path, result_bytes: int | None
) -> None:
    with pytest.raises(ZeroDivisionError, match="1"):
        runner.fold(half, [2, 1, 4, 5], tmp_path, result_bytes)
    with pytest.raises(SourceError, match="item 9"):
        runner.fold(half, [2, 9, 5, 6], tmp_path, result_bytes)


def test_no_items_have_no_outcomes(runner: Runner) -> None:
    assert list(runner.map(pid, [], None)) == []


def test_a_large_job_reaches_every_task(runner: Runner) -> None:
    job = np.random.default_rng(0).standard_normal(2_000_000)
    for outcome in runner.map(big, range(10), job):
        assert outcome.value() == job[outcome.item]


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    config = ClusterConfig.model_validate({"options": {"n_workers": 2}})
    with DaskRunner(config, MEMORY) as runner:
        outcomes = list(runner.map(die_once, range(40), tmp_path))
    assert (tmp_path / "died").exists()
    assert sorted(outcome.value() for outcome in outcomes) == list(range(1, 41))


def test_a_map_survives_the_only_worker_that_held_its_job(tmp_path: Path) -> None:
    config = ClusterConfig.model_validate({"options": {"n_workers": 1}})
    with DaskRunner(config, MEMORY) as runner:
        total = sum(outcome.value() for outcome in runner.map(die_once, range(10), tmp_path))
    assert total == 55


@pytest.mark.parametrize("result_bytes", [None, 8])
def test_a_fold_is_whole_though_the_only_worker_died_in_the_middle(
    tmp_path: Path, result_bytes: int | None
) -> None:
    config = ClusterConfig.model_validate({"options": {"n_workers": 1}})
    with DaskRunner(config, MEMORY) as runner:
        assert runner.fold(die_once, range(10), tmp_path, result_bytes) == 55
    assert (tmp_path / "died").exists()


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("result_bytes", [None, 8])
def test_a_fold_names_the_item_that_ends_every_worker(
    workers: int, result_bytes: int | None
) -> None:
    config = ClusterConfig.model_validate({"options": {"n_workers": workers}})
    with DaskRunner(config, MEMORY) as runner:
        with pytest.raises(WorkerError, match="die_always of 5 ended its worker 2 times"):
            runner.fold(die_always, range(10), None, result_bytes)
        assert runner.fold(die_always, range(5), None, result_bytes) == 10


def test_a_running_scheduler_is_used_and_left_running() -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        config = ClusterConfig.model_validate({"address": cluster.scheduler_address})
        for _ in range(2):
            with DaskRunner(config, MEMORY) as runner:
                assert next(runner.map(pid, [0], None)).value() == os.getpid()


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    config = ClusterConfig.model_validate({"address": "tcp://127.0.0.1:1"})
    with (
        DaskRunner(config, MEMORY, patience_seconds=0.5) as runner,
        pytest.raises(StageError, match=r"tcp://127\.0\.0\.1:1"),
    ):
        list(runner.map(pid, [0], None))


@pytest.mark.parametrize("path", ["os.path", "no.such.module", "LocalCluster", "subprocess.Popen"])
def test_only_a_dask_cluster_is_a_cluster(path: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.class"):
        cluster_class(path)


def test_nothing_is_started_before_the_first_task() -> None:
    with DaskRunner(ClusterConfig(), MEMORY) as runner:
        assert runner.dashboard_link is None


def test_a_worker_keeps_freed_memory_and_other_systems_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, name: int, value: int) -> None:
            calls.append((name, value))

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library())
    allocator.keep_freed_memory.__wrapped__()
    assert len(calls) == 3
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    allocator.keep_freed_memory.__wrapped__()
    assert len(calls) == 3
