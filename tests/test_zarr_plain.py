"""Plain Zarr chunks, read without zarr: the same rows, and whatever is odd is left to zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ZstdCodec

from vqpipe.errors import SourceError
from vqpipe.sources import open_source
from vqpipe.sources.zarr_array import _ZarrReader
from vqpipe.sources.zarr_plain import PlainChunks
from vqpipe.sources.zarr_tree import find_array

pytestmark = pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")

RNG = np.random.default_rng(0)
ROWS, DIM = 100, 6


def write(
    path: Path, chunk: int, per_shard: int, dtype: str = "float32", **keys: Any
) -> np.ndarray:
    """Write rows of which some chunks are all fill values, and so not there."""
    vectors = RNG.integers(0, 100, (ROWS, DIM)).astype(dtype)
    vectors[2 * chunk : 3 * chunk] = 0
    shards = {"shards": (chunk * per_shard, DIM)} if per_shard else {}
    made = {"shape": vectors.shape, "chunks": (chunk, DIM), "dtype": dtype, **shards, **keys}
    zarr.create_array(str(path), **{"compressors": None, **made})[...] = vectors
    return vectors


def plain_of(path: Path) -> str:
    return find_array(str(path), None)[1].plain


@pytest.fixture
def by_zarr(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the first rows of the reads that were left to zarr."""
    asked = []
    read_into = PlainChunks.read_into

    def watch(self: PlainChunks, rows: np.ndarray, start: int) -> bool:
        done = read_into(self, rows, start)
        if not done:
            asked.append(start)
        return done

    monkeypatch.setattr(PlainChunks, "read_into", watch)
    return asked


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    chunk=st.integers(1, 40),
    per_shard=st.integers(0, 4),
    version=st.sampled_from([2, 3]),
    dtype=st.sampled_from(["float32", "float16", "uint8", ">f4"]),
    checked=st.booleans(),
    cut=st.tuples(st.integers(0, ROWS - 1), st.integers(1, ROWS)),
)
def test_any_rows_of_any_layout_are_as_zarr_reads_them(
    tmp_path_factory: pytest.TempPathFactory,
    chunk: int,
    per_shard: int,
    version: int,
    dtype: str,
    checked: bool,
    cut: tuple[int, int],
) -> None:
    path = tmp_path_factory.mktemp("plain") / "x.zarr"
    keys: dict[str, Any] = {"zarr_format": version}
    if version == 2:
        per_shard = 0
    elif checked:
        keys["compressors"] = [Crc32cCodec()]
    vectors = write(path, chunk, per_shard, dtype, **keys)
    start, stop = cut[0], min(ROWS, cut[0] + cut[1])
    source = open_source(str(path))
    np.testing.assert_array_equal(source.read(start, stop), vectors[start:stop])
    pieces = list(source.pieces(start, stop, 7))
    np.testing.assert_array_equal(np.concatenate(pieces), vectors[start:stop])


@pytest.mark.parametrize("per_shard", [0, 3])
@pytest.mark.parametrize("checked", [True, False])
def test_only_chunks_that_are_not_there_are_left_to_zarr(
    tmp_path: Path, by_zarr: list[int], per_shard: int, checked: bool
) -> None:
    compressors = [Crc32cCodec()] if checked else None
    vectors = write(tmp_path / "x.zarr", 10, per_shard, compressors=compressors)
    assert plain_of(tmp_path / "x.zarr") == ("checked" if checked else "bare")
    pieces = list(open_source(str(tmp_path / "x.zarr")).pieces(0, ROWS, 10))
    np.testing.assert_array_equal(np.concatenate(pieces), vectors)
    assert by_zarr == [20]


@pytest.mark.parametrize(
    "keys",
    [
        {"compressors": [ZstdCodec()]},
        {"dtype": ">f4", "zarr_format": 2},
        {"order": "F", "zarr_format": 2},
    ],
    ids=["compressed", "big-endian", "columns first"],
)
def test_what_is_not_as_in_memory_is_not_plain(tmp_path: Path, keys: dict[str, Any]) -> None:
    vectors = write(tmp_path / "x.zarr", 10, 0, **keys)
    assert plain_of(tmp_path / "x.zarr") == ""
    np.testing.assert_array_equal(open_source(str(tmp_path / "x.zarr")).read(0, ROWS), vectors)


def test_shards_that_tensorstore_wrote_are_read(tmp_path: Path, by_zarr: list[int]) -> None:
    vectors = RNG.standard_normal((ROWS, DIM)).astype("f4")
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    inner = {"chunk_shape": [10, DIM], "codecs": codecs, "index_codecs": codecs}
    grid = {"name": "regular", "configuration": {"chunk_shape": [30, DIM]}}
    metadata = {
        "shape": [ROWS, DIM],
        "data_type": "float32",
        "chunk_grid": grid,
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
    }
    kvstore = {"driver": "file", "path": str(tmp_path / "x.zarr")}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    tensorstore.open(spec, create=True).result()[:] = vectors
    np.testing.assert_array_equal(open_source(str(tmp_path / "x.zarr")).read(0, ROWS), vectors)
    assert plain_of(tmp_path / "x.zarr") == "checked"
    assert by_zarr == []


def flip(data: bytearray, at: int) -> bytes:
    data[at] ^= 1
    return bytes(data)


DAMAGE = {
    "a flipped value": lambda data: flip(data, 5),
    "a flipped checksum": lambda data: flip(data, 10 * DIM * 4 + 2),
    "a flipped index": lambda data: flip(data, -8),
    "an offset beyond the end": lambda data: flip(data, -4 - 48 + 7),
    "cut": lambda data: bytes(data[:100]),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_an_error_and_never_rows(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "x.zarr", 10, 3, compressors=[Crc32cCodec()])
    source = open_source(str(tmp_path / "x.zarr"))
    shard = tmp_path / "x.zarr" / "c" / "0" / "0"
    shard.write_bytes(DAMAGE[damage](bytearray(shard.read_bytes())))
    with pytest.raises(SourceError, match="rows 0:10 cannot be read"):
        source.read(0, 10)


def test_a_chunk_of_another_size_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", 10, 0)
    source = open_source(str(tmp_path / "x.zarr"))
    chunk = tmp_path / "x.zarr" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes() + b"more")
    with pytest.raises(SourceError, match="rows 0:10 cannot be read"):
        source.read(0, 10)


def test_a_reader_holds_one_stored_object_open_and_none_when_closed(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", 10, 0)
    (part,) = open_source(str(tmp_path / "x.zarr")).parts
    reader = _ZarrReader(part, find_array(part.path, None)[1])
    opened = set()
    for start in range(0, ROWS, 10):
        reader.read(start, start + 10)
        assert reader._plain is not None
        opened.add(reader._plain._file)
    assert len(opened) <= 2
    reader.close()
    assert reader._plain._file == -1
