"""Faults, injected by tables: what fails is named, nothing is lost, and a run that goes on ends with the same bytes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faulty_tasks
import numpy as np
import pytest
from runs import WORDS, config_of, run_here, statuses
from test_pipeline import lasting_files
from test_verify import damage

from vqpipe import retries
from vqpipe.config import Config
from vqpipe.errors import DamagedError, StageError, VqpipeError
from vqpipe.pipeline import encode as encode_stage
from vqpipe.pipeline import train as train_stage
from vqpipe.sources.array import VectorArray
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.folder import Folder

KEYS: dict[str, Any] = {"encode__shard_rows": 300, "train__rounds": 3, "evaluate__queries": 20}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "rows.npy"
    np.save(path, np.load(WORDS)[:1500])
    return path


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, bytes]:
    """The bytes of a run that nothing disturbs: five shards."""
    folder = tmp_path_factory.mktemp("calm")
    run_here(config_in(folder, source))
    return lasting_files(folder / "out")


def config_in(folder: Path, source: Path, **keys: Any) -> Config:
    return config_of(folder, source, "PQ10x4", **{**KEYS, **keys})


def encode_reason(summary: dict[str, Any]) -> str:
    (reason,) = (stage["reason"] for stage in summary["stages"] if stage["name"] == "encode")
    return str(reason)


# --- What passes by itself -------------------------------------------------------------------------------------------

# What is called, and how often it fails before it does not.
PLACES: dict[str, tuple[Any, str]] = {
    "reading the source": (VectorArray, "pieces"),
    "writing a shard": (CodeArray, "write"),
    "reading records": (CodeArray, "records"),
    "writing a file": (Folder, "write_bytes"),
    "writing the codebook": (train_stage, "write_codebook"),
    "publishing rows": (CodeArray, "publish_rows"),
}


@pytest.mark.parametrize("place", PLACES)
def test_storage_that_is_away_for_a_moment_is_tried_again(
    tmp_path: Path,
    source: Path,
    calm: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.01)
    owner, name = PLACES[place]
    real, numbers = getattr(owner, name), iter([errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
    failed = []

    def stumble(*arguments: Any, **keys: Any) -> Any:
        # Every other call fails, until all numbers were had.
        stumble.calls += 1  # type: ignore[attr-defined]
        if stumble.calls % 2 == 0 and (number := next(numbers, None)):  # type: ignore[attr-defined]
            failed.append(number)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **keys)

    stumble.calls = PLACES_THAT_ARE_CALLED_ONCE.count(place)  # type: ignore[attr-defined]
    monkeypatch.setattr(owner, name, stumble)
    run_here(config_in(tmp_path, source))
    assert failed
    assert lasting_files(tmp_path / "out") == calm


# Of these the first call fails; of the others the second, which is in the midst of things.
PLACES_THAT_ARE_CALLED_ONCE = ["writing the codebook", "publishing rows", "reading records"]


def test_what_does_not_pass_is_not_tried_again_and_what_never_passes_ends() -> None:
    calls: list[int] = []

    def fail(number: int) -> None:
        calls.append(number)
        raise OSError(number, os.strerror(number))

    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOENT):
        with pytest.raises(OSError, match=os.strerror(number)):
            retries.try_again(fail, number)
        assert calls == [number]
        calls.clear()


def test_what_never_passes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.001)
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ConnectionResetError("by a peer that is gone")

    with pytest.raises(ConnectionResetError):
        retries.try_again(fail)
    assert len(calls) == retries.ATTEMPTS


# --- What fails every time -------------------------------------------------------------------------------------------

# The task, the cluster, and what is said of the cause.
ONE_WORKER = {"options": {"n_workers": 1, "memory_limit": "500MiB"}}
TWO_WORKERS = {"options": {"n_workers": 2}}
Poison = tuple[Callable[..., Any], Any, str]
POISON: dict[str, Poison] = {
    "an error": (faulty_tasks.fail, "serial", "ValueError: these rows are odd"),
    "a quota": (faulty_tasks.exceed_quota, "serial", "Disk quota exceeded"),
    "no memory": (faulty_tasks.want_memory, "serial", "MemoryError.*memory_per_worker"),
    "a crash of the only worker": (faulty_tasks.crash, ONE_WORKER, "ended its worker 2 times"),
    "a worker's memory": (
        faulty_tasks.hoard, ONE_WORKER, "its limit is 500 MiB; lower encode.shard_rows, or raise memory_per_worker",
    ),
}  # fmt: skip
SLOW_POISON: dict[str, Poison] = {
    "an error on workers": (faulty_tasks.fail, TWO_WORKERS, "ValueError: these rows are odd"),
    "a quota on workers": (faulty_tasks.exceed_quota, TWO_WORKERS, "Disk quota exceeded"),
    "no memory on workers": (
        faulty_tasks.want_memory,
        TWO_WORKERS,
        "MemoryError.*memory_per_worker",
    ),
    "a crash of each worker": (faulty_tasks.crash, TWO_WORKERS, "ended its worker 2 times"),
}


@pytest.mark.parametrize(
    "name", [*POISON, *(pytest.param(name, marks=pytest.mark.long) for name in SLOW_POISON)]
)
def test_a_shard_that_fails_every_time_is_named_and_the_others_are_encoded(
    tmp_path: Path,
    source: Path,
    calm: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    task, cluster, cause = {**POISON, **SLOW_POISON}[name]
    monkeypatch.setattr(encode_stage, "encode_shard", task)
    run_here(config_in(tmp_path, source), until="train")
    with pytest.raises(StageError, match=cause) as caught:
        run_here(config_in(tmp_path, source, cluster=cluster, memory_per_worker="500MiB"))
    assert caught.value.exit_status == 1
    assert "1 of 5 shards failed: shard 1 (rows 300 to 600)" in str(caught.value)
    assert "the other 4 of 5 shards are encoded" in str(caught.value)
    monkeypatch.undo()
    summary = run_here(config_in(tmp_path, source))
    assert encode_reason(summary).startswith("300 rows in 1 shards; 4 shards were there")
    assert statuses(summary)["train"] == "skipped"
    assert lasting_files(tmp_path / "out") == calm


# --- What is damaged -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """A finished output."""
    folder = tmp_path_factory.mktemp("world")
    run_here(config_in(folder, source))
    return folder


# The file, and the first of the stages that read it.
STORED = {
    "v1/codes.zarr/codes/c/2/0": "evaluate",
    "v1/codes.zarr/zarr.json": "evaluate",
    "v1/codebook.zarr/centroids/c/0/0/0/0": "evaluate",
    "v1/codebook.zarr/offset/c/0": "evaluate",
    "v1/codebook.zarr/zarr.json": "evaluate",
    "SAMPLE/train/c/0/0": "train",
    "SAMPLE/heldout/c/0/0": "train",
    "SAMPLE/database/c/0/0": "evaluate",
    "SAMPLE/database_rows/c/0": "evaluate",
    "SAMPLE/zarr.json": "train",
}


# A flipped bit in the codebook's attributes may be in its history, which nothing is made from.
DAMAGES = [
    (place, fault)
    for place in STORED
    for fault in ("flip", "cut", "delete")
    if (place, fault) != ("v1/codebook.zarr/zarr.json", "flip")
]
# One of each kind of file, and the faults that Zarr does not see.
QUICK_DAMAGES = [
    ("v1/codes.zarr/codes/c/2/0", "flip"),
    ("v1/codebook.zarr/centroids/c/0/0/0/0", "delete"),
    ("SAMPLE/train/c/0/0", "delete"),
    ("SAMPLE/heldout/c/0/0", "flip"),
    ("SAMPLE/database_rows/c/0", "delete"),
    ("SAMPLE/zarr.json", "flip"),
]


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        pytest.param(*damage, marks=() if damage in QUICK_DAMAGES else pytest.mark.long)
        for damage in DAMAGES
    ],
)
def test_what_is_damaged_is_named_or_made_again_and_never_used(
    tmp_path: Path, world: Path, source: Path, calm: dict[str, bytes], place: str, fault: str
) -> None:
    """A rerun that needs the file ends with the same bytes or names the file."""
    folder = tmp_path / "there"
    shutil.copytree(world, folder)
    (sample,) = (folder / "out/samples").iterdir()
    path = folder / "out" / place.replace("SAMPLE", f"samples/{sample.name}")
    damage(path, fault)
    try:
        summary = run_here(config_in(folder, source), force=STORED[place])
    except VqpipeError as error:
        named = str(error)
        assert str(folder / "out") in named
        assert place.split("/")[1] in named or sample.name in named
    else:
        assert lasting_files(folder / "out", summary["generation"]) == calm


DRAWN = ["0.zarr/train/c/0/0", "0.zarr/train_places/c/0", "0.zarr/zarr.json", "0.json"]


QUICK_DRAWN = [("0.zarr/train/c/0/0", "delete"), ("0.json", "flip")]


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        pytest.param(place, fault, marks=() if (place, fault) in QUICK_DRAWN else pytest.mark.long)
        for place in DRAWN
        for fault in ("flip", "cut", "delete")
    ],
)
def test_a_draw_that_was_interrupted_and_damaged_is_drawn_again(
    tmp_path: Path,
    source: Path,
    calm: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    fault: str,
) -> None:
    config = config_in(tmp_path, source)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("vqpipe.pipeline.sample.gather_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        run_here(config)
    monkeypatch.undo()
    (scratch,) = (tmp_path / "out/samples").glob("*.scratch")
    damage(scratch / place, fault)
    named = f"{scratch}/0.zarr"
    try:
        run_here(config)
    except DamagedError as error:
        named = str(error)
        run_here(config)
    assert f"{scratch}/0.zarr" in named
    assert lasting_files(tmp_path / "out") == calm
