"""Parquet sources: files that several programs wrote, converted once, whatever they hold."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import WORDS, config_of, run_command, run_here, statuses

import vqpipe
from vqpipe.config import Config
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import InvalidRowError, SourceError
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.ingest import cut_stretches
from vqpipe.pipeline.inspection import inspect_path
from vqpipe.pipeline.plan import plan_run
from vqpipe.pipeline.prune import prune_output
from vqpipe.pipeline.verify import verify_output
from vqpipe.progress import Silent
from vqpipe.shards import Shard, plan_shards
from vqpipe.sources import conversion, open_source, open_table
from vqpipe.sources.formats import open_stream
from vqpipe.storage import codes as codes_module
from vqpipe.storage import vectors as vectors_module
from vqpipe.storage.arrays import store_at
from vqpipe.storage.folder import Folder
from vqpipe.storage.place import place_of

KEYS: dict[str, Any] = {"encode__shard_rows": 512, "train__rounds": 3, "evaluate__queries": 20}


def rows(count: int = 2500, dtype: str = "float32") -> np.ndarray:
    found = np.load(WORDS)[:count].astype("float32")
    if np.dtype(dtype).kind in "iu":
        found = np.clip(found * 10 + 100, 0, 127)
    return found.astype(dtype)


def lists(vectors: np.ndarray, *, fixed: bool = False, nulls: tuple[int, ...] = ()) -> pa.Array:
    """Return rows as a column of lists, some of them null."""
    mask = pa.array([row in nulls for row in range(len(vectors))])
    flat = pa.array(vectors.reshape(-1))
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=mask)
    offsets = pa.array(np.arange(0, vectors.size + 1, vectors.shape[1], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, flat, mask=mask)


def save(path: Path, vectors: np.ndarray, first_id: int = 0, **keys: Any) -> None:
    ids = pa.array(np.arange(first_id, first_id + len(vectors)))
    names = pa.array([f"row {number} é" for number in ids.to_pylist()])
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"number": ids, "name": names, "vector": lists(vectors)})
    pq.write_table(table, path, **{"row_group_size": 700, **keys})


def write_duckdb(path: Path, vectors: np.ndarray, cast: str, options: str) -> None:
    table = pa.table({"number": np.arange(len(vectors)), "vector": lists(vectors)})
    with duckdb.connect() as base:
        base.register("rows", table)
        base.execute(
            f"COPY (SELECT number, vector::{cast} AS vector FROM rows ORDER BY number) "
            f"TO '{path}' (FORMAT parquet, {options})"
        )


def write_polars(path: Path, vectors: np.ndarray, *, fixed: bool, **keys: Any) -> None:
    dtype = pl.Array(pl.Float32, vectors.shape[1]) if fixed else pl.List(pl.Float32)
    pl.DataFrame({"vector": pl.Series(vectors.tolist(), dtype=dtype)}).write_parquet(path, **keys)


WRITERS = {
    "pyarrow lists snappy": lambda path, x: save(path, x, compression="snappy"),
    "pyarrow plain v1": lambda path, x: save(
        path, x, compression="none", use_dictionary=False, version="1.0", data_page_version="2.0"
    ),
    "pyarrow tiny row groups and pages": lambda path, x: save(
        path, x, compression="gzip", row_group_size=7, data_page_size=64
    ),
    "pyarrow byte stream split": lambda path, x: save(
        path, x, use_dictionary=False, column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"}
    ),
    "pyarrow one row group lz4": lambda path, x: save(path, x, row_group_size=10**6, compression="lz4"),
    "pyarrow fixed brotli": lambda path, x: pq.write_table(
        pa.table({"v": lists(x, fixed=True)}), path, compression="brotli"
    ),
    "pyarrow tensors": lambda path, x: pq.write_table(
        pa.table(
            {"t": pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.float32(), (x.shape[1],)), lists(x, fixed=True))}
        ), path
    ),
    "duckdb lists zstd": lambda path, x: write_duckdb(path, x, "FLOAT[]", "COMPRESSION zstd, ROW_GROUP_SIZE 2048"),
    "duckdb arrays": lambda path, x: write_duckdb(path, x, f"FLOAT[{x.shape[1]}]", "COMPRESSION snappy"),
    "duckdb v2 pages": lambda path, x: write_duckdb(path, x, "FLOAT[]", "PARQUET_VERSION v2"),
    "polars arrays": lambda path, x: write_polars(path, x, fixed=True),
    "polars lists": lambda path, x: write_polars(path, x, fixed=False, compression="lz4", row_group_size=333),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_those_that_another_program_wrote(tmp_path: Path, name: str) -> None:
    vectors = rows()
    WRITERS[name](tmp_path / "x.parquet", vectors)
    source = open_source(str(tmp_path / "x.parquet"))
    assert (source.format, source.rows, source.dim) == ("parquet", *vectors.shape)
    stream = open_stream(source.parts[0])
    # Forward with a gap, back again, and over the borders of row groups.
    for start, stop in ((0, 1), (1, 900), (1400, 1401), (1401, 2500), (3, 50), (49, 51)):
        np.testing.assert_array_equal(stream.read(start, stop).rows, vectors[start:stop])
    stream.close()
    np.testing.assert_array_equal(source.read(690, 1410), vectors[690:1410])


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_dtypes_are_kept(tmp_path: Path, dtype: str) -> None:
    vectors = rows(60, dtype)
    pq.write_table(pa.table({"v": lists(vectors)}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.dtype == dtype
    np.testing.assert_array_equal(source.read(0, 60), vectors)


def test_doubles_become_float32(tmp_path: Path) -> None:
    """Python's lists are doubles wherever nobody said otherwise, and a data set may have files of both."""
    pq.write_table(
        pa.table({"v": [[1.1, -2.0], None, [1e300, 0.5], [1, None]]}), tmp_path / "a.parquet"
    )
    pq.write_table(pa.table({"v": lists(rows(3)[:, :2].copy())}), tmp_path / "b.parquet")
    source = open_source(str(tmp_path / "*.parquet"))
    assert (source.dtype, source.rows, source.dim) == ("float32", 7, 2)
    read = source.read(0, 7)
    assert read.dtype == np.float32
    nan, inf = np.nan, np.inf
    wanted = np.float32([[1.1, -2], [nan, nan], [inf, 0.5], [1, nan]])
    np.testing.assert_array_equal(read[:4], wanted)
    np.testing.assert_array_equal(read[4:], rows(3)[:, :2])


def test_a_table_of_row_numbers_may_be_parquet(tmp_path: Path) -> None:
    numbers = np.arange(12).reshape(4, 3)
    pq.write_table(pa.table({"nearest": lists(numbers)}), tmp_path / "t.parquet")
    np.testing.assert_array_equal(open_table(str(tmp_path / "t.parquet")).read(0, 4), numbers)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 60), max_size=6),
    group=st.integers(1, 40),
    reads=st.lists(st.tuples(st.integers(0, 79), st.integers(1, 80)), min_size=1, max_size=8),
)
def test_any_reads_of_any_files_give_the_rows(
    cuts: list[int], group: int, reads: list[tuple[int, int]], tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    vectors = rows(80)[:, :3].copy()
    ends = sorted({*cuts, 80})
    for number, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        save(folder / f"{number}.parquet", vectors[start:stop], row_group_size=group)
    source = open_source(str(folder))
    assert [row for row in conversion.starting_rows(source, 0, 80) if row in (0, *ends[:-1])] == [
        0,
        *ends[:-1],
    ]
    for start, count in reads:
        stop = min(start + count, 80)
        np.testing.assert_array_equal(source.read(start, stop), vectors[start:stop])


# --- Whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 256 rows of 100 floats: many for so few rows."""
    monkeypatch.setattr(vectors_module, "CHUNK_BYTES", 6400)


def write_set(folder: Path, vectors: np.ndarray, first: int = 0) -> None:
    """Write rows as three files, whose names sort by number."""
    for number, (start, stop) in enumerate(((0, 900), (900, 901), (901, len(vectors)))):
        save(folder / f"part-{first + number * 5}.parquet", vectors[start:stop], start)


def config_in(folder: Path, **keys: Any) -> Config:
    return config_of(folder, folder / "set", "PQ10x4", **{**KEYS, **keys})


def codes_of(folder: Path) -> np.ndarray:
    return np.asarray(vqpipe.open_codes(folder / "out")["codes"][...])


@pytest.fixture(scope="module")
def from_npy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("npy")
    np.save(folder / "set.npy", rows())
    run_here(config_of(folder, folder / "set.npy", "PQ10x4", **KEYS))
    return folder


@pytest.mark.parametrize("cluster", ["serial", "dask"])
def test_codes_are_those_of_the_same_rows_in_npy(
    tmp_path: Path, from_npy: Path, cluster: str
) -> None:
    write_set(tmp_path / "set", rows())
    keys = {} if cluster == "serial" else {"cluster": {"scale": 2, "options": {"processes": False}}}
    run_here(config_in(tmp_path, source__ids="name", **keys))
    theirs, ours = (folder / "out/v1/codes.zarr" for folder in (from_npy, tmp_path))
    np.testing.assert_array_equal(codes_of(tmp_path), codes_of(from_npy))
    book = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr").codebook.digest
    assert book == vqpipe.load_codebook(from_npy / "out/v1/codebook.zarr").codebook.digest
    assert (
        zarr.open_group(ours).attrs["codebook_digest"]
        == zarr.open_group(theirs).attrs["codebook_digest"]
    )
    ids = vqpipe.open_codes(tmp_path / "out")["ids"]
    assert ids[898:903].tolist() == [f"row {number} é" for number in range(898, 903)]
    assert ids.shape == (2500,)
    converted = zarr.open_array(tmp_path / "out/vectors.zarr/vectors", mode="r")
    assert converted.shape == (2500, 100)
    np.testing.assert_array_equal(converted[...], rows())


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record which shards are converted."""
    seen: list[int] = []
    write = vectors_module.Vectors.write

    def noted(self: Any, shard: Shard, *rest: Any) -> None:
        write(self, shard, *rest)
        seen.append(shard.index)

    monkeypatch.setattr(vectors_module.Vectors, "write", noted)
    return seen


def reason(summary: dict[str, Any], stage: str) -> str:
    return str(next(one["reason"] for one in summary["stages"] if one["name"] == stage))


def test_a_conversion_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, from_npy: Path, converted: list[int]
) -> None:
    write_set(tmp_path / "set", rows())
    text = (
        f"name: test\nsource: {{uri: {tmp_path / 'set'}, ids: number}}\noutput: out\ncodebook: PQ10x4\n"
        "encode: {shard_rows: 512}\ntrain: {rounds: 3}\nevaluate: {queries: 20}\ncluster: serial\n"
    )
    (tmp_path / "config.yaml").write_text(text)
    patch = (
        "import os\nfrom vqpipe.storage import vectors as v\nv.CHUNK_BYTES = 6400\nwrite, left = v.Vectors.write, [4]\n"
        "def cut(self, *rest):\n    left[0] -= 1\n    left[0] or os._exit(9)\n    write(self, *rest)\n"
        "v.Vectors.write = cut"
    )
    killed = run_command("run", "--direct", str(tmp_path / "config.yaml"), patch=patch)
    killed.communicate()
    assert killed.returncode == 9
    done = {
        int(path.name) for path in (tmp_path / "out/vectors.zarr/shards/stored_bytes/c").iterdir()
    }
    assert len(done) == 3
    found = inspect_path(str(tmp_path / "out"))["vectors"]
    assert found == {"rows": 2500, "shards": 10, "shards_done": 3}
    # A shard that was written in part, and the mark of a write that never ended.
    (tmp_path / "out/vectors.zarr/vectors/c/7").mkdir(exist_ok=True)
    (tmp_path / "out/vectors.zarr/vectors/c/7/0").write_bytes(b"half")
    (tmp_path / "out/vectors.zarr/vectors/c/7/0.abc.partial").write_bytes(b"half")
    run_here(config_of(tmp_path, tmp_path / "set", "PQ10x4", source__ids="number", **KEYS))
    assert sorted(converted) == sorted(set(range(10)) - done)
    assert not list((tmp_path / "out").rglob("*.partial"))
    np.testing.assert_array_equal(codes_of(tmp_path), codes_of(from_npy))
    np.testing.assert_array_equal(vqpipe.open_codes(tmp_path / "out")["ids"][...], np.arange(2500))


def test_codes_in_chunks_whose_shard_was_cut_are_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr looks into a shard before it writes it anew: one that it cannot read must not stand in the way."""
    monkeypatch.setattr(codes_module, "CHUNK_BYTES", 1280)
    np.save(tmp_path / "x.npy", rows())
    config = config_of(tmp_path, tmp_path / "x.npy", "PQ10x4", **KEYS)
    run_here(config)
    before = codes_of(tmp_path)
    assert zarr.open_array(tmp_path / "out/v1/codes.zarr/codes").shards == (512, 10)
    stored = tmp_path / "out/v1/codes.zarr/codes/c/1/0"
    stored.write_bytes(stored.read_bytes()[:100])
    run_here(config)
    np.testing.assert_array_equal(codes_of(tmp_path), before)


def test_only_new_files_are_converted_and_only_new_rows_encoded(
    tmp_path: Path, converted: list[int]
) -> None:
    vectors = rows(4000)
    write_set(tmp_path / "set", vectors[:2560], first=100)
    run_here(config_in(tmp_path, source__ids="number"))
    assert statuses(run_here(config_in(tmp_path, source__ids="number")))["ingest"] == "skipped"
    before = codes_of(tmp_path)
    converted.clear()
    # Its name comes before all others; its rows come after theirs.
    save(tmp_path / "set/part-1.parquet", vectors[2560:], 2560)
    summary = run_here(config_in(tmp_path, source__ids="number"))
    assert sorted(converted) == list(range(10, 16))
    assert "3 shards" in reason(summary, "encode").partition("(")[0]
    np.testing.assert_array_equal(codes_of(tmp_path)[:2560], before)
    group = vqpipe.open_codes(tmp_path / "out")
    np.testing.assert_array_equal(group["ids"][...], np.arange(4000))
    stored = zarr.open_array(tmp_path / "out/vectors.zarr/vectors", mode="r")
    np.testing.assert_array_equal(stored[...], vectors)


def test_a_file_that_was_touched_is_converted_again_and_nothing_else_follows(
    tmp_path: Path, converted: list[int]
) -> None:
    write_set(tmp_path / "set", rows())
    run_here(config_in(tmp_path))
    before = (tmp_path / "out/v1/codes.zarr/codes/c/0/0").stat().st_mtime_ns
    converted.clear()
    save(tmp_path / "set/part-0.parquet", rows()[:900], 0, compression="zstd")
    summary = run_here(config_in(tmp_path))
    assert sorted(converted) == [0, 1, 2, 3]
    assert "0 rows in 0 shards" in reason(summary, "encode")
    assert (tmp_path / "out/v1/codes.zarr/codes/c/0/0").stat().st_mtime_ns == before
    assert statuses(summary)["evaluate"] == "skipped"


@pytest.mark.parametrize("change", ["vectors", "ids"])
def test_a_file_that_changed_is_encoded_again_whatever_changed(tmp_path: Path, change: str) -> None:
    write_set(tmp_path / "set", rows())
    run_here(config_in(tmp_path, source__ids="number"))
    vectors, first = rows()[:900], 0
    if change == "vectors":
        vectors = vectors[::-1]
    else:
        first = 10_000
    save(tmp_path / "set/part-0.parquet", np.ascontiguousarray(vectors), first)
    run_here(config_in(tmp_path, source__ids="number"))
    whole = np.concatenate([vectors, rows()[900:]])
    book = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    group = vqpipe.open_codes(tmp_path / "out")
    assert (group["codes"][...] != book.encode(whole)).mean() < 0.001
    ids = np.concatenate([np.arange(first, first + 900), np.arange(900, 2500)])
    np.testing.assert_array_equal(group["ids"][...], ids)


def test_a_file_that_went_is_refused_until_ingest_is_forced(tmp_path: Path) -> None:
    write_set(tmp_path / "set", rows())
    run_here(config_in(tmp_path))
    (tmp_path / "set/part-0.parquet").unlink()
    with pytest.raises(
        vqpipe.errors.OutputError, match=r"part-0.parquet are no longer.*--force ingest"
    ):
        run_here(config_in(tmp_path))
    summary = run_here(config_in(tmp_path), force="ingest")
    assert (summary["generation"], summary["rows"]) == ("v2", 1600)
    stored = zarr.open_array(tmp_path / "out/vectors.zarr/vectors", mode="r")
    np.testing.assert_array_equal(stored[...], rows()[900:])


def test_ids_start_a_generation_that_keeps_the_codebook(tmp_path: Path) -> None:
    write_set(tmp_path / "set", rows())
    digest = vqpipe.load_codebook
    run_here(config_in(tmp_path))
    summary = run_here(config_in(tmp_path, source__ids="name"))
    assert summary["generation"] == "v2"
    assert statuses(summary)["train"] == "skipped"
    first, second = (
        digest(tmp_path / f"out/{name}/codebook.zarr").codebook.digest for name in ("v1", "v2")
    )
    assert first == second
    assert vqpipe.open_codes(tmp_path / "out")["ids"][900] == "row 900 é"


# --- Nulls, and rows that are no vectors -----------------------------------------------------------------------------


def write_nulls(path: Path, dtype: str) -> np.ndarray:
    """Write rows of which one is null and one holds a null; return which they are."""
    vectors = rows(1200, dtype)
    plain = [row.tolist() for row in vectors]
    plain[700] = None
    plain[3][99] = None
    column = pa.array(plain, pa.list_(pa.from_numpy_dtype(np.dtype(dtype))))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"id": np.arange(1200, dtype="uint16"), "v": column}), path, row_group_size=300
    )
    return np.array([3, 700])


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_null_rows_are_invalid_rows(tmp_path: Path, dtype: str) -> None:
    nulls = write_nulls(tmp_path / "set/x.parquet", dtype)
    keys = {**KEYS, "evaluate__queries": 5, "source__ids": "id"}
    with pytest.raises(
        InvalidRowError, match=r"row 3 .*NaN.*null is read as NaN.*invalid_rows: mask"
    ):
        run_here(config_in(tmp_path, **keys))
    summary = run_here(config_in(tmp_path, source__invalid_rows="mask", **keys))
    assert summary["masked_rows"] == 2
    group = vqpipe.open_codes(tmp_path / "out")
    np.testing.assert_array_equal(np.flatnonzero(~group["valid"][...]), nulls)
    np.testing.assert_array_equal(group["ids"][...], np.arange(1200))
    assert group["ids"].dtype == np.uint16
    stored = zarr.open_group(tmp_path / "out/vectors.zarr", mode="r")
    assert stored["vectors"].dtype == np.dtype(dtype)
    assert ("valid" in stored) == (np.dtype(dtype).kind in "iu")


def test_nulls_that_move_are_other_rows(tmp_path: Path) -> None:
    """A null row of integers is stored as zeros: a row of zeros in its place must be encoded."""
    vectors = np.zeros((600, 4), np.uint8)
    vectors[:, 0] = np.arange(600) % 251
    vectors[5] = 0
    (tmp_path / "set").mkdir()
    for null in (5, 251):
        pq.write_table(pa.table({"v": lists(vectors, nulls=(null,))}), tmp_path / "set/x.parquet")
        run_here(config_of(tmp_path, tmp_path / "set", "KM4", source__invalid_rows="mask", **KEYS))
        valid = vqpipe.open_codes(tmp_path / "out")["valid"][...]
        np.testing.assert_array_equal(np.flatnonzero(~valid), [null])


BAD = {
    "another length": (
        {"v": [[1.0, 2.0]] * 40 + [[1.0]]},
        {},
        r"row 40 has 1 values, and the first one has 2",
    ),
    "an empty row": ({"v": [[1.0, 2.0], []]}, {}, r"row 1 has 0 values"),
    "a longer row": ({"v": [[1.0], [1.0, 2.0]]}, {}, r"counts 3 values in a row group of at most 2 rows"),
    "nothing but nulls": ({"v": [None, None]}, {}, r"all its rows are null"),
    "no rows": ({"v": []}, {}, r"no vectors"),
    "no list": ({"a": [1.0]}, {}, r"no column of lists.*'a' \(double\)"),
    "two lists": ({"v": [[1.0]], "w": [[1.0]]}, {}, r"2 columns of lists.*'v'.*'w'"),
    "no such key": ({"v": [[1.0]]}, {"key": "w"}, r"has no column 'w'.*'v'"),
    "a key of numbers": ({"v": [[1.0]], "n": [1]}, {"key": "n"}, r"'n' is of type int64"),
    "no such ids": ({"v": [[1.0]]}, {"ids": "n"}, r"has no such column.*'v'"),
    "ids of floats": ({"v": [[1.0]], "n": [1.0]}, {"ids": "n"}, r"of type double; ids are integers or text"),
    "an id that is null": ({"v": [[1.0]] * 2, "n": ["a", None]}, {"ids": "n"}, r"row 1 has no id"),
    "a long id": ({"v": [[1.0]], "n": ["é" * 513]}, {"ids": "n"}, r"row 0 takes more than 1024 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    columns, keys, message = BAD[name]
    table = {
        key: pa.array(values, pa.list_(pa.float32())) if key in "vw" else pa.array(values)
        for key, values in columns.items()
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    named = {f"source__{key}": value for key, value in keys.items()}
    with pytest.raises(SourceError, match=rf"(?s)x\.parquet.*{message}|{message}.*x\.parquet"):
        run_here(config_of(tmp_path, tmp_path / "x.parquet", "KM1", **named), until="ingest")


def test_ids_of_other_formats_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rows(20))
    with pytest.raises(SourceError, match=r"source.ids 'n'.*parquet files have.*of format npy"):
        run_here(config_of(tmp_path, tmp_path / "x.npy", "KM1", source__ids="n"))


@pytest.mark.parametrize("cut", [0, 3, 11, 500, -1])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, cut: int) -> None:
    save(tmp_path / "x.parquet", rows(100))
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[:cut])
    with pytest.raises(SourceError, match=r"x\.parquet.*(was cut|cannot be read as Parquet)"):
        open_source(str(tmp_path / "x.parquet"))


def test_without_pyarrow_one_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "x.parquet", rows(10))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(SourceError, match=r"pip install 'vqpipe\[parquet\]'"):
        open_source(str(tmp_path / "x.parquet"))


# --- Around it -------------------------------------------------------------------------------------------------------


def test_a_folder_means_its_parquet_files_and_no_marks_of_engines(tmp_path: Path) -> None:
    spark = tmp_path / "table.parquet"
    for part, (start, stop) in {"year=9/a": (0, 10), "year=10/b": (10, 20)}.items():
        save(spark / f"{part}.parquet", rows()[start:stop], start)
    (spark / "_SUCCESS").write_text("")
    (spark / "_metadata.parquet").write_text("none")
    (spark / "_temporary").mkdir()
    shutil.copy(spark / "year=9/a.parquet", spark / "_temporary/c.parquet")
    (spark / "year=9/.a.parquet.crc").write_bytes(b"crc")
    source = open_source(str(spark))
    assert [Path(path).name for path, _ in source.files()] == ["a.parquet", "b.parquet"]
    np.testing.assert_array_equal(source.read(0, 20), rows()[:20])


def test_source_and_output_may_lie_in_an_object_store(tmp_path: Path, from_npy: Path) -> None:
    """In this process's memory, which goes through the same door as any other store."""
    write_set(tmp_path / "set", rows())
    store = "memory://parquet"
    for path in sorted((tmp_path / "set").iterdir()):
        place_of(store).make_folder(f"{store}/set")
        with place_of(store).writing(f"{store}/set/{path.name}") as file:
            file.write(path.read_bytes())
    keys = {"source__ids": "number", "output": f"{store}/out", **KEYS}
    for uri, wanted in ((f"{store}/set", "done"), (f"{store}/set", "skipped")):
        summary = run_here(config_of(tmp_path, uri, "PQ10x4", **keys), until="encode")
        assert statuses(summary) == dict.fromkeys(("ingest", "sample", "train", "encode"), wanted)
    group = zarr.open_group(store_at(f"{store}/out/v1/codes.zarr"), mode="r")
    np.testing.assert_array_equal(group["codes"][...], codes_of(from_npy))
    np.testing.assert_array_equal(group["ids"][...], np.arange(2500))


def test_parquet_and_files_that_are_read_in_place_are_one_source(tmp_path: Path) -> None:
    save(tmp_path / "a.parquet", rows()[:900])
    np.save(tmp_path / "b.npy", rows()[900:])
    config = config_of(
        tmp_path, "", "PQ10x4", source__uri=[str(tmp_path / "a.parquet"), str(tmp_path / "b.npy")], **KEYS
    )  # fmt: skip
    run_here(config, until="ingest")
    stored = zarr.open_array(tmp_path / "out/vectors.zarr/vectors", mode="r")
    np.testing.assert_array_equal(stored[...], rows())


def test_queries_and_truth_are_read_in_place(tmp_path: Path) -> None:
    write_set(tmp_path / "set", rows())
    queries = rows()[100:130]
    save(tmp_path / "queries.parquet", queries)
    nearest = np.arange(100, 130)[:, None]
    pq.write_table(pa.table({"n": lists(nearest)}), tmp_path / "truth.parquet")
    files = {"queries": {"uri": str(tmp_path / "queries.parquet"), "key": "vector"},
             "truth": {"uri": str(tmp_path / "truth.parquet")}, "recall_at": [10]}  # fmt: skip
    summary = run_here(
        config_in(tmp_path, **{**KEYS, "evaluate": files, "evaluate__queries": files["queries"]})
    )
    assert summary["recall"]["10"] > 0.8


def test_verify_finds_what_is_damaged_and_the_next_run_makes_it_again(
    tmp_path: Path, from_npy: Path, converted: list[int]
) -> None:
    write_set(tmp_path / "set", rows())
    config = config_in(tmp_path, source__ids="number")
    run_here(config)
    stored = tmp_path / "out/vectors.zarr/vectors/c/4/0"
    data = bytearray(stored.read_bytes())
    data[1000] ^= 1
    stored.write_bytes(data)
    (tmp_path / "out/vectors.zarr/ids/c/6").unlink()
    (tmp_path / "out/v1/codes.zarr/ids/c/2").unlink()
    checked = verify_output(Folder(config.output), config, SerialRunner(), Silent(), repair=True)
    found = {(one["what"], one["path"], one["shard"]) for one in checked["findings"]}
    assert found >= {
        ("vectors", "vectors.zarr", 4),
        ("vectors", "vectors.zarr", 6),
        ("shard", "v1/codes.zarr", 2),
    }
    converted.clear()
    run_here(config)
    assert sorted(converted) == [4, 6]
    np.testing.assert_array_equal(codes_of(tmp_path), codes_of(from_npy))
    np.testing.assert_array_equal(vqpipe.open_codes(tmp_path / "out")["ids"][...], np.arange(2500))
    again = verify_output(Folder(config.output), config, SerialRunner(), Silent())
    assert again["well"], again["findings"]


def test_ids_that_were_swapped_on_the_disk_are_found(tmp_path: Path) -> None:
    write_set(tmp_path / "set", rows())
    config = config_in(tmp_path, source__ids="number")
    run_here(config)
    ids = tmp_path / "out/v1/codes.zarr/ids/c"
    (ids / "0").rename(ids / "x")
    (ids / "1").rename(ids / "0")
    (ids / "x").rename(ids / "1")
    checked = verify_output(Folder(config.output), config, SerialRunner(), Silent())
    assert [(one["what"], one["shard"]) for one in checked["findings"]] == [
        ("shard", 0),
        ("shard", 1),
    ]
    assert "its ids are not those that were written" in checked["findings"][0]["why"]


def test_plan_says_what_ingest_would_do_and_counts_its_memory(tmp_path: Path) -> None:
    write_set(tmp_path / "set", rows())
    (stage,) = planned(config_in(tmp_path))
    assert (stage["state"], stage["rows"]) == ("to do", 2500)
    assert stage["worker_bytes"] > 400_000_000
    assert not (tmp_path / "out").exists()
    run_here(config_in(tmp_path))
    (stage,) = planned(config_in(tmp_path))
    assert (stage["state"], stage["rows"]) == ("done", 0)
    save(tmp_path / "set/part-7.parquet", rows()[:300], 2500)
    (stage, encode) = planned(config_in(tmp_path), "ingest", "encode")
    # 2500 rows end inside the tenth shard of 256.
    assert (stage["state"], stage["rows"]) == ("partial", 2800 - 9 * 256)
    assert encode["state"] == "partial"


def planned(config: Config, *names: str) -> list[dict[str, Any]]:
    plan = plan_run(begin_run(config, SerialRunner(), Silent()))
    return [stage for stage in plan["stages"] if stage["name"] in (names or ("ingest",))]


def test_vectors_that_no_generation_is_made_from_are_pruned(tmp_path: Path) -> None:
    write_set(tmp_path / "set", rows())
    run_here(config_in(tmp_path))
    np.save(tmp_path / "x.npy", rows())
    run_here(config_of(tmp_path, tmp_path / "x.npy", "PQ10x4", **KEYS), force="ingest")
    kept = prune_output(Folder(str(tmp_path / "out")), keep=2, remove=False)
    assert "vectors.zarr" not in [one["path"] for one in kept["removals"]]
    prune_output(Folder(str(tmp_path / "out")), keep=1, remove=True)
    assert not (tmp_path / "out/vectors.zarr").exists()


@given(
    rows=st.integers(1, 60), shard=st.integers(1, 9), starts=st.sets(st.integers(1, 59)), wanted=st.integers(1, 5)
)  # fmt: skip
def test_stretches_cover_all_shards_and_begin_where_reading_can(
    rows: int, shard: int, starts: set[int], wanted: int
) -> None:
    shards = list(plan_shards(rows, shard))
    begins = [0, *sorted(starts)]
    stretches = cut_stretches(shards, begins, wanted)
    assert [one for stretch in stretches for one in stretch.shards] == shards
    for stretch in stretches[:-1]:
        assert len(stretch.shards) >= wanted
    for before, after in pairwise(stretches):
        # The rows that a stretch decodes in vain are less than a shard's.
        start = max(begin for begin in begins if begin <= after.shards[0].start)
        assert start > before.shards[-1].start
