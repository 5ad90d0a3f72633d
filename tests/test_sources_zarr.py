"""Zarr: read as other implementations wrote it, and no codec runs that was not allowed."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from zarr.storage import LocalStore

from vqpipe.errors import SourceError
from vqpipe.sources import open_source, open_table
from vqpipe.sources.zarr_plain import PlainChunks

# zarr warns that such arrays are slow; one test per layout says how they are described.
pytestmark = pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")

VECTORS = np.random.default_rng(0).integers(-100, 100, (50, 6)).astype("f4")


def write_tensorstore(path: Path, driver: str, array: np.ndarray, metadata: dict[str, Any]) -> str:
    """Write an array with the other implementation."""
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}
    spec["metadata"] = {"shape": list(array.shape), **metadata}
    tensorstore.open(spec, create=True).result()[:] = array
    return str(path)


def v3(*chunk: int, codecs: list[Any] | None = None, data_type: str = "float32") -> dict[str, Any]:
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
    return {"chunk_grid": grid, "codecs": codecs or plain, "data_type": data_type}


def v2(*chunk: int, **fields: Any) -> dict[str, Any]:
    return {"chunks": list(chunk), "dtype": "<f4", "compressor": None} | fields


def shards(*chunk: int) -> list[Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    index = [little, {"name": "crc32c"}]
    inner = {"chunk_shape": list(chunk), "codecs": index, "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": inner}]


BIG = [{"name": "bytes", "configuration": {"endian": "big"}}]
TURN = {"name": "transpose", "configuration": {"order": [1, 0]}}
GZIP = {"name": "gzip", "configuration": {"level": 1}}

# name: driver, metadata, chunk rows, unit rows
LAYOUTS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "one-row": ("zarr", v2(1, 6), 1, 1),
    "seven": ("zarr", v2(7, 6, compressor={"id": "zlib", "level": 1}), 7, 7),
    "all-rows": ("zarr", v2(50, 6, compressor={"id": "zstd", "level": 1}), 50, 50),
    "beyond-the-end": ("zarr", v2(1000, 64), 1000, 1000),
    "split-columns": ("zarr", v2(7, 4, compressor={"id": "blosc"}), 7, 7),
    "fortran": ("zarr", v2(7, 4, order="F"), 7, 7),
    "big-endian": ("zarr", v2(7, 6, dtype=">f4"), 7, 7),
    "slash": ("zarr", v2(7, 4, dimension_separator="/"), 7, 7),
    "v3": ("zarr3", v3(7, 6), 7, 7),
    "v3-split": ("zarr3", v3(7, 4, codecs=[*BIG, GZIP]), 7, 7),
    "v3-turned": ("zarr3", v3(7, 4, codecs=[TURN, *BIG]), 7, 7),
    "v3-shards": ("zarr3", v3(20, 6, codecs=shards(5, 3)), 5, 20),
    "v3-turned-shards": ("zarr3", v3(20, 6, codecs=[TURN, *shards(2, 2)]), 20, 20),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_reads_what_tensorstore_wrote(tmp_path: Path, name: str) -> None:
    driver, metadata, chunk_rows, unit_rows = LAYOUTS[name]
    source = open_source(write_tensorstore(tmp_path / "a.zarr", driver, VECTORS, metadata))
    assert (source.rows, source.dim, source.dtype) == (50, 6, "float32")
    assert (source.chunk_rows, source.unit_rows) == (chunk_rows, unit_rows)
    for start, stop in ((0, 50), (3, 22), (49, 50), (20, 20)):
        read = source.read(start, stop)
        np.testing.assert_array_equal(read, VECTORS[start:stop])
        assert (read.dtype, read.flags.c_contiguous) == (np.dtype("f4"), True)


@pytest.mark.parametrize("name", LAYOUTS)
def test_pieces_read_each_stored_range_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, metadata, _, _ = LAYOUTS[name]
    source = open_source(write_tensorstore(tmp_path / "a.zarr", driver, VECTORS, metadata))
    asked: list[tuple[str, str]] = []
    get = LocalStore.get

    async def spy(store: LocalStore, key: str, prototype: Any, byte_range: Any = None) -> Any:
        # A shard's index lies at its end and is read with each call; it is no chunk.
        if not key.endswith(("json", ".zarray", ".zattrs")) and "Suffix" not in repr(byte_range):
            asked.append((key, repr(byte_range)))
        return await get(store, key, prototype, byte_range)

    monkeypatch.setattr(LocalStore, "get", spy)
    read_chunk = PlainChunks._read_chunk

    def spy_plain(chunks: PlainChunks, chunk: int, into: np.ndarray) -> bool:
        asked.append(("plain", str(chunk)))
        return read_chunk(chunks, chunk, into)

    monkeypatch.setattr(PlainChunks, "_read_chunk", spy_plain)
    pieces = list(source.pieces(3, 48, 9))
    np.testing.assert_array_equal(np.concatenate(pieces), VECTORS[3:48])
    assert asked
    assert len(asked) == len(set(asked))


def test_shards_inside_a_codec_decode_whole(tmp_path: Path) -> None:
    little = zarr.codecs.BytesCodec()
    packed = zarr.codecs.ShardingCodec(chunk_shape=(5, 3), codecs=[little])
    serializer, compressors = packed, [zarr.codecs.GzipCodec()]
    zarr.create_array(
        tmp_path / "a.zarr",
        data=VECTORS,
        chunks=(20, 6),
        serializer=serializer,
        compressors=compressors,
    )
    source = open_source(str(tmp_path / "a.zarr"))
    assert (source.chunk_rows, source.unit_rows) == (20, 20)
    np.testing.assert_array_equal(source.read(3, 44), VECTORS[3:44])


def test_padding_counts_as_chunk_bytes(tmp_path: Path) -> None:
    source = open_source(
        write_tensorstore(
            tmp_path / "a.zarr", *LAYOUTS["beyond-the-end"][:1], VECTORS, v2(1000, 64)
        )
    )
    assert source.chunk_bytes == 1000 * 64 * 4


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_missing_chunks_read_as_the_fill_value(tmp_path: Path, zarr_format: Any) -> None:
    zarr.create_array(
        tmp_path / "a.zarr",
        shape=(9, 2),
        dtype="f4",
        chunks=(4, 2),
        fill_value=7,
        zarr_format=zarr_format,
    )
    source = open_source(str(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(source.read(0, 9), np.full((9, 2), 7, "f4"))
    assert [stamp[1:] for stamp in source.stamps(0, 9)] == [(-1, 0)] * 3


def make_group(path: Path) -> None:
    group = zarr.create_group(path)
    group.create_array("deep/er/vectors", data=VECTORS)
    group.create_array("names", data=np.arange(50))


def test_array_in_a_group_is_found_by_key_or_alone(tmp_path: Path) -> None:
    make_group(tmp_path / "g.zarr")
    for key in ("deep/er/vectors", "/deep/er/vectors/", "deep", None):
        source = open_source(str(tmp_path / "g.zarr"), key=key)
        np.testing.assert_array_equal(source.read(1, 4), VECTORS[1:4])
        assert source.parts[0].key == "deep/er/vectors"


def test_zip_is_read_as_its_folder(tmp_path: Path) -> None:
    make_group(tmp_path / "g")
    shutil.make_archive(str(tmp_path / "g.zarr"), "zip", tmp_path / "g")
    source = open_source(str(tmp_path / "g.zarr.zip"))
    np.testing.assert_array_equal(source.read(1, 40), VECTORS[1:40])
    ((name, size, _),) = source.stamps(0, 50)
    assert (name, size) == ("g.zarr.zip", os.path.getsize(tmp_path / "g.zarr.zip"))


def test_group_with_two_tables_needs_a_key(tmp_path: Path) -> None:
    make_group(tmp_path / "g.zarr")
    zarr.open_group(tmp_path / "g.zarr").create_array("other", data=VECTORS)
    with pytest.raises(SourceError, match=r"set `key`.*deep/er/vectors \[50, 6\].*names.*other"):
        open_source(str(tmp_path / "g.zarr"))


@pytest.mark.parametrize("key", ["../a.zarr", "deep/../deep", "deep//er", ".", "a\\b", "..", "no"])
def test_key_stays_inside_the_store(tmp_path: Path, key: str) -> None:
    make_group(tmp_path / "g.zarr")
    with pytest.raises(SourceError, match=r"g\.zarr"):
        open_source(str(tmp_path / "g.zarr"), key=key)


def test_array_takes_no_key(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=VECTORS)
    with pytest.raises(SourceError, match="'x': leave out `key`"):
        open_source(str(tmp_path / "a.zarr"), key="x")


def test_stamps_name_the_objects_behind_rows(tmp_path: Path) -> None:
    path = write_tensorstore(tmp_path / "a.zarr", "zarr3", VECTORS, v3(20, 4))
    wanted = []
    for name in ("c/1/0", "c/1/1", "c/2/0", "c/2/1"):
        found = os.stat(Path(path) / name)
        wanted.append((name, found.st_size, found.st_mtime_ns))
    assert list(open_source(path).stamps(25, 41)) == wanted


def test_stamp_follows_its_own_chunks_only(tmp_path: Path) -> None:
    path = write_tensorstore(tmp_path / "a.zarr", "zarr3", VECTORS, v3(10, 6))
    before = [open_source(path).stamp(start, start + 10) for start in range(0, 50, 10)]
    os.utime(Path(path) / "c/2/0", ns=(1, 1))
    (Path(path) / "c/4/0").unlink()
    after = [open_source(path).stamp(start, start + 10) for start in range(0, 50, 10)]
    assert [old != new for old, new in zip(before, after, strict=True)] == [0, 0, 1, 0, 1]
    assert {len(signature) for signature in after} == {16}


def test_table_takes_any_integers(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.arange(6, dtype="u8").reshape(2, 3))
    assert open_table(str(tmp_path / "a.zarr")).read(0, 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(SourceError, match="uint64"):
        open_source(str(tmp_path / "a.zarr"))


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_allowed_filters_are_read(tmp_path: Path) -> None:
    filters = [zarr.codecs.numcodecs.Delta(dtype="float32")]
    zarr.create_array(tmp_path / "a.zarr", data=VECTORS, filters=filters)
    np.testing.assert_array_equal(open_source(str(tmp_path / "a.zarr")).read(0, 50), VECTORS)


def test_damaged_chunk_names_file_and_rows(tmp_path: Path) -> None:
    path = write_tensorstore(tmp_path / "a.zarr", "zarr3", VECTORS, v3(10, 6, codecs=[*BIG, GZIP]))
    (Path(path) / "c/2/0").write_bytes(b"no gzip")
    source = open_source(path)
    assert len(source.read(0, 20)) == 20
    with pytest.raises(SourceError, match=r"a.zarr: rows 15:25 cannot be read") as caught:
        source.read(15, 25)
    assert caught.value.__cause__ is not None


def test_what_is_no_zarr_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").write_text("no folder")
    (tmp_path / "empty.zarr").mkdir()
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    for name in ("a.zarr", "empty.zarr", "empty.zip", "none.zarr"):
        with pytest.raises(SourceError, match=name):
            open_source(str(tmp_path / name))
