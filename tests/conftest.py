"""Fixtures that several test files share: the S3 server on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zarr
from object_server import BUCKET, forget_buckets, reach, running_server
from runs import config_of, files_of, run_here
from store_runs import (
    DIM,
    ROWS,
    SHARD_ROWS,
    Finished,
    lasting,
    npy_bytes,
    put,
    store_config,
    vectors,
)
from zarr.storage import LocalStore

from vqpipe.storage.objects import bucket, requests


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_server(tmp_path_factory.mktemp("s3")) as port:
        yield port


@pytest.fixture
def base(
    server: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A prefix of the test's own, and an environment that reaches it."""
    reach(monkeypatch, server)
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    yield f"s3://{BUCKET}/{name}"
    forget_buckets()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries that are too short for anybody but a test."""
    monkeypatch.setattr(bucket, "_FIRST_WAIT", bucket._FIRST_WAIT / 20)
    monkeypatch.setattr(bucket, "_LONGEST_WAIT", bucket._LONGEST_WAIT / 80)
    monkeypatch.setattr(requests.time, "sleep", lambda seconds: None)
    forget_buckets()


@pytest.fixture(scope="session")
def finished_run(server: int, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    with pytest.MonkeyPatch.context() as patch:
        reach(patch, server)
        source, base = f"s3://{BUCKET}/finished/x.npy", f"s3://{BUCKET}/finished"
        put(source, npy_bytes(vectors()))
        config = store_config(tmp_path_factory.mktemp("finished"), base, source)
        run_here(config)
    return Finished(source, config.output, config)


@pytest.fixture
def finished(finished_run: Finished, base: str) -> Finished:
    """The finished output, and an environment that reaches it."""
    return finished_run


@pytest.fixture(scope="session")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run on a disk leaves."""
    folder = tmp_path_factory.mktemp("disk")
    array = zarr.create_array(
        LocalStore(folder / "x.zarr"), shape=(ROWS, DIM), chunks=(100, DIM), shards=(SHARD_ROWS, DIM), dtype="float32"
    )  # fmt: skip
    array[...] = vectors()
    keys = {"export": ["faiss", "npy"], "encode__shard_rows": SHARD_ROWS}
    run_here(config_of(folder, folder / "x.zarr", "PQ4x4", **keys))
    return lasting(files_of(folder / "out"))
