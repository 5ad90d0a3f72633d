"""Object stores: what holds on a disk holds there, against a real S3 server on loopback."""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorstore
import zarr
from object_server import BUCKET, Proxy, reach
from runs import run_here, statuses
from store_runs import (
    DIM,
    SHARD_ROWS,
    Finished,
    lasting,
    npy_bytes,
    objects_of,
    put,
    put_zarr,
    store_config,
    vectors,
)

import vqpipe
from vqpipe.config import Config
from vqpipe.errors import SourceError
from vqpipe.sources import open_source
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.objects import requests
from vqpipe.storage.objects.view import viewing
from vqpipe.storage.records import Origin


def test_an_output_in_a_store_is_what_one_on_a_disk_is(
    base: str, server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_disk: dict[str, bytes]
) -> None:  # fmt: skip
    put_zarr(f"{base}/x.zarr")
    config = store_config(tmp_path, base, f"{base}/x.zarr")
    assert set(statuses(run_here(config)).values()) == {"done", "skipped"}
    assert not list(tmp_path.iterdir())
    in_store = lasting(objects_of(f"{base}/out"))
    assert in_store.keys() == on_disk.keys()
    assert [name for name in on_disk if in_store[name] != on_disk[name]] == []
    asked = requests_of_a_rerun(server, monkeypatch, config)
    assert len(asked) <= 21


def test_other_readers_open_an_output_in_a_store(finished: Finished, server: int) -> None:
    codes = vqpipe.open_codes(finished.output)["codes"]
    learnt = vqpipe.load_codebook(f"{finished.output}/v1/codebook.zarr")
    assert (learnt.encode(vectors()) == codes[...]).all()
    exported = vqpipe.load_codebook(f"{finished.output}/v1/index.faiss")
    assert np.allclose(exported.codebook.centroids, learnt.codebook.centroids, atol=1e-6)
    spec = {
        "driver": "zarr3",
        "kvstore": {
            "driver": "s3",
            "bucket": BUCKET,
            "endpoint": f"http://127.0.0.1:{server}",
            "path": f"{finished.output.removeprefix(f's3://{BUCKET}/')}/v1/codes.zarr/codes/",
            "aws_region": "us-east-1",
        },
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "summary" in [
            name for name, _ in vqpipe.open_codes(finished.output)["shards"].members()
        ]
    others = tensorstore.open(spec, open=True).result().read().result()
    assert (others == codes[...]).all()


def vecs_bytes(array: np.ndarray) -> bytes:
    dims = np.full((len(array), 1), array.shape[1], "<i4").view(np.uint8).reshape(len(array), 4)
    values = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
    return np.hstack([dims, values]).tobytes()


def bin_bytes(array: np.ndarray) -> bytes:
    return np.array(array.shape, "<u4").tobytes() + array.tobytes()


SMALL = vectors(203)
BYTES = (SMALL * 20 + 100).astype(np.uint8)
OBJECTS = {
    "a.npy": (npy_bytes(SMALL), SMALL),
    "version2.npy": (npy_bytes(SMALL, (2, 0)), SMALL),
    "columns.npy": (npy_bytes(np.asfortranarray(SMALL)), SMALL),
    "half.npy": (npy_bytes(SMALL.astype(np.float16)), SMALL.astype(np.float16)),
    "a.fvecs": (vecs_bytes(SMALL), SMALL),
    "a.bvecs": (vecs_bytes(BYTES), BYTES),
    "a.fbin": (bin_bytes(SMALL), SMALL),
    "a.u8bin": (bin_bytes(BYTES), BYTES),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_source_in_a_store_reads_by_ranges(
    base: str, server: int, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, rows = OBJECTS[name]
    proxy = Proxy(server)
    with proxy.running():
        reach(monkeypatch, proxy.port)
        put(f"{base}/{name}", data)
        source = open_source(f"{base}/{name}")
        assert (source.rows, source.dim, source.dtype) == (*rows.shape, rows.dtype.name)
        assert (source.read(0, len(rows)) == rows).all()
        assert (np.concatenate(list(source.pieces(0, len(rows), 17))) == rows).all()
        asked = len(proxy.requests)
        assert (source.read(100, 102) == rows[100:102]).all()
        assert len(proxy.requests) - asked <= 4 + DIM * (name == "columns.npy")


@pytest.mark.parametrize("layout", ["v2", "v3", "sharded", "in a group"])
def test_zarr_in_a_store_reads_as_on_a_disk(base: str, layout: str) -> None:
    store, place = requests.open_key(f"{base}/x.zarr")
    name = f"{place}/a/vectors" if layout == "in a group" else place
    shards = (60, DIM) if layout == "sharded" else None
    array = zarr.create_array(
        zarr.storage.ObjectStore(store), name=name, shape=SMALL.shape, chunks=(20, DIM), shards=shards,
        dtype="float32", zarr_format=2 if layout == "v2" else 3, overwrite=True,
    )  # fmt: skip
    array[...] = SMALL
    key = "a/vectors" if layout == "in a group" else None
    source = open_source(f"{base}/x.zarr", key=key)
    assert (source.read(0, len(SMALL)) == SMALL).all()
    assert (source.read(55, 65) == SMALL[55:65]).all()
    stamps = list(source.stamps(0, 130))
    assert len(stamps) == {"sharded": 3}.get(layout, 7)
    assert all(size > 0 and isinstance(etag, str) and etag for _, size, etag in stamps)
    with viewing():
        assert list(source.stamps(0, 130)) == stamps


def test_patterns_match_objects_as_they_match_files(base: str, tmp_path: Path) -> None:
    names = ["part-2", "part-10", "other", ".hidden", "deep/part-3", "deep/er/part-4"]
    names = [f"{name}.npy" for name in names]
    for name in names:
        put(f"{base}/{name}", OBJECTS["a.npy"][0])
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(OBJECTS["a.npy"][0])
    patterns = ["*.npy", "part-*.npy", "part-?.npy", "part-[0-9].npy", "*/part-*.npy", "d*/er/*"]
    for pattern in (*patterns, "**/part-*.npy", "**/*.npy", "deep/**/*.npy"):
        in_store = open_source(f"{base}/{pattern}").files()
        on_disk = open_source(str(tmp_path / pattern)).files()
        assert [path.removeprefix(f"{base}/") for path, _ in in_store] == [
            os.path.relpath(path, tmp_path) for path, _ in on_disk
        ], pattern
    with pytest.raises(SourceError, match="no object matches this pattern"):
        open_source(f"{base}/nothing-*.npy")


def test_only_what_changed_in_the_store_is_encoded_again(base: str, tmp_path: Path) -> None:
    put_zarr(f"{base}/x.zarr")
    config = store_config(tmp_path, base, f"{base}/x.zarr")
    run_here(config)
    whole = objects_of(f"{base}/x.zarr")
    # The same bytes once more have the same ETag.
    put(f"{base}/x.zarr/c/1/0", whole["c/1/0"])
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    store, place = requests.open_key(f"{base}/x.zarr")
    array = zarr.open_array(zarr.storage.ObjectStore(store), path=place)
    array[SHARD_ROWS * 2 : SHARD_ROWS * 3] = vectors()[:SHARD_ROWS] * 3
    again = run_here(config)
    encode = next(stage for stage in again["stages"] if stage["name"] == "encode")
    assert "500 rows in 1 shards; 5 shards were there" in encode["reason"]
    changed = open_source(f"{base}/x.zarr").read(0, len(vectors()))
    learnt = vqpipe.load_codebook(f"{base}/out/v1/codebook.zarr")
    assert (vqpipe.open_codes(f"{base}/out")["codes"][...] == learnt.encode(changed)).all()


def parquet_bytes(rows: np.ndarray, first: int) -> bytes:
    file = io.BytesIO()
    numbers = np.arange(first, first + len(rows))
    table = pa.table({"number": numbers, "vector": list(rows)})
    pyarrow.parquet.write_table(table, file, row_group_size=300)
    return file.getvalue()


def test_a_parquet_data_set_in_a_store_is_converted_there(base: str, tmp_path: Path) -> None:
    rows = vectors()
    put(f"{base}/parts/a.parquet", parquet_bytes(rows[:1000], 0))
    put(f"{base}/parts/b.parquet", parquet_bytes(rows[1000:2000], 1000))
    keys = {"source__ids": "number", "export": []}
    config = store_config(tmp_path, base, f"{base}/parts/*.parquet", **keys)
    run_here(config)
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    put(f"{base}/parts/c.parquet", parquet_bytes(rows[2000:], 2000))
    grown = statuses(run_here(config))
    assert (grown["ingest"], grown["train"], grown["encode"]) == ("done", "skipped", "done")
    codes = vqpipe.open_codes(f"{base}/out")
    learnt = vqpipe.load_codebook(f"{base}/out/v1/codebook.zarr")
    assert (codes["codes"][...] == learnt.encode(rows)).all()
    assert codes["ids"][...].tolist() == list(range(len(rows)))


def requests_of_a_rerun(server: int, monkeypatch: pytest.MonkeyPatch, config: Config) -> list[str]:
    proxy = Proxy(server)
    with proxy.running():
        reach(monkeypatch, proxy.port)
        assert set(statuses(run_here(config)).values()) == {"skipped"}
    return proxy.requests


@pytest.mark.parametrize(
    "parts", [30, pytest.param(1_100, marks=pytest.mark.long)], ids=lambda parts: f"{parts}"
)
def test_a_rerun_with_nothing_to_do_asks_little(
    base: str, server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parts: int
) -> None:
    """At most 20 requests, and one listing for 1,000 source objects."""
    for index, rows in enumerate(np.array_split(vectors(), parts)):
        put(f"{base}/parts/{index}.npy", npy_bytes(rows))
    config = store_config(tmp_path, base, f"{base}/parts/*.npy")
    run_here(config)
    asked = requests_of_a_rerun(server, monkeypatch, config)
    listings = [request for request in asked if "prefix=" in request and "parts%2F" in request]
    assert len(listings) == -(-parts // 1_000)
    assert len(asked) - len(listings) <= 20
    assert not [request for request in asked if "/parts/" in request]


KINDS = ("500", "503", "slow", "reset", "lost")


@pytest.mark.parametrize(
    ("kinds", "share"),
    [(KINDS, 0.05), *(pytest.param((kind,), 0.1, marks=pytest.mark.long) for kind in KINDS)],
    ids=["all", *KINDS],
)
def test_faults_of_the_store_change_nothing(
    base: str, server: int, hasty: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    on_disk: dict[str, bytes], kinds: tuple[str, ...], share: float,
) -> None:  # fmt: skip
    """One request in twenty fails: answers 500 or 503, comes late, is reset, or is done and its answer lost."""
    put_zarr(f"{base}/x.zarr")
    proxy = Proxy(server, share, seed=1, kinds=kinds)
    with proxy.running():
        reach(monkeypatch, proxy.port)
        run_here(store_config(tmp_path, base, f"{base}/x.zarr"))
    assert set(proxy.faults) == set(kinds)
    assert sum(proxy.faults.values()) > 20
    in_store = lasting(objects_of_with(server, monkeypatch, f"{base}/out"))
    for name in ("v1/codes.zarr", "v1/codebook.zarr", "v1/evaluation.json", "v1/index.faiss"):
        assert {key: data for key, data in in_store.items() if key.startswith(name)} == {
            key: data for key, data in on_disk.items() if key.startswith(name)
        }


def objects_of_with(server: int, monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, bytes]:
    reach(monkeypatch, server)
    return objects_of(url)


RACERS = 16


def race(act: Any) -> list[bool]:
    """Have 16 threads act at once; return what each was told."""
    barrier = threading.Barrier(RACERS)
    told: list[bool] = [False] * RACERS

    def run(index: int) -> None:
        barrier.wait()
        told[index] = act(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


@pytest.mark.parametrize("share", [0.0, 0.3], ids=["well", "faulty"])
@pytest.mark.parametrize("round_", range(3))
def test_one_of_many_writers_wins(
    base: str, server: int, hasty: None, monkeypatch: pytest.MonkeyPatch, share: float, round_: int
) -> None:
    """Also where the answer to the winner is lost: it knows that it has won, and nobody else thinks so."""
    proxy = Proxy(server, share, seed=round_, slow_seconds=0.01)
    with proxy.running():
        reach(monkeypatch, proxy.port)
        folder = Folder(base)
        told = race(lambda index: folder.create_bytes("lease.json", b"run %d" % index))
        assert sum(told) == 1
        held = folder.read_bytes("lease.json")
        assert held == b"run %d" % told.index(True)
        told = race(lambda index: folder.replace_bytes("lease.json", b"next %d" % index, held))
        assert sum(told) == 1
        assert folder.read_bytes("lease.json") == b"next %d" % told.index(True)
        assert not folder.replace_bytes("lease.json", b"late", held)
        assert not folder.create_bytes("lease.json", b"late")
        assert not folder.remove_bytes("lease.json", held)
        assert folder.remove_bytes("lease.json", b"next %d" % told.index(True))
        assert not folder.replace_bytes("lease.json", b"late", held)
        # No store removes under a condition: what is removed is empty.
        assert folder.read_bytes("lease.json") == b""


def write_half(folder: Folder) -> None:
    with folder.writing("large") as file:
        file.write(b"half of it")
        raise ZeroDivisionError


@pytest.mark.long
def test_a_large_object_appears_whole_or_not_at_all(base: str) -> None:
    """Above 64 MiB it goes in parts; an error on the way leaves what was there."""
    folder, piece = Folder(base), np.random.default_rng(0).bytes(1 << 20)
    with folder.writing("large") as file:
        file.writelines([piece] * 70)
    with folder.reading("large") as file:
        assert all(file.read(1 << 20) == piece for _ in range(70))
        assert file.read() == b""
    with pytest.raises(ZeroDivisionError):
        write_half(folder)
    assert dict(folder.files()) == {"large": 70 << 20}
    folder.remove("large")
    assert folder.names() == []


def test_few_rows_cost_few_bytes(base: str, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of ten rows takes a chunk of a shard, not the shard."""
    rows = 1 << 20
    codes = CodeArray(f"{base}/codes.zarr", rows, 4, "uint8", rows, masked=False, store_error=False)
    codes.prepare({"codebook_digest": "0" * 64})
    written = np.random.default_rng(0).integers(0, 256, (rows, 4), dtype=np.uint8)
    (shard,) = codes.shards
    size = codes.write(
        shard, written, np.ones(rows, bool), np.zeros(rows), Origin(b"1" * 16, b"2" * 16)
    )
    assert codes.records().is_done(0)
    assert codes.stored_sizes().tolist() == [size]
    proxy = Proxy(server)
    with proxy.running():
        reach(monkeypatch, proxy.port)
        found = find_codes(f"{base}/codes.zarr")
        assert found is not None
        array: Any = zarr.open_array(
            zarr.storage.ObjectStore(requests.open_key(base)[0]), path=f"{requests.open_key(base)[1]}/codes.zarr/codes"
        )  # fmt: skip
        assert (array[800_000:800_010] == written[800_000:800_010]).all()
    assert sum(proxy.sent) < size // 2
