"""Sources: what a URI means, how files join along rows, and how ranges are read."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.errors import SourceError
from vqpipe.sources import Part, VectorArray, open_source, open_table
from vqpipe.sources import array as array_module
from vqpipe.sources.location import find_paths
from vqpipe.sources.part import Stamp, cut_at_chunks


def save(folder: Path, name: str, rows: int = 2, dim: int = 3, dtype: str = "f4") -> np.ndarray:
    """Save rows of distinct values under a name."""
    first = sum(map(ord, name)) % 50
    vectors = (np.arange(rows * dim).reshape(rows, dim) + first).astype(dtype)
    np.save(folder / name, vectors)
    return vectors


def test_pattern_is_sorted_by_numbers_and_a_list_is_not(tmp_path: Path) -> None:
    saved = {name: save(tmp_path, name) for name in ("p10.npy", "p9.npy", "p1.npy")}
    by_pattern = open_source(str(tmp_path / "p*.npy"))
    listed = open_source([str(tmp_path / name) for name in saved])
    natural = ["p1.npy", "p9.npy", "p10.npy"]
    assert [Path(path).name for path, _ in by_pattern.files()] == natural
    np.testing.assert_array_equal(
        by_pattern.read(0, 6), np.concatenate([saved[name] for name in natural])
    )
    np.testing.assert_array_equal(listed.read(0, 6), np.concatenate(list(saved.values())))


def test_file_url_and_relative_path_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "a b.npy")
    monkeypatch.chdir(tmp_path)
    wanted = [str(tmp_path / "a b.npy")]
    assert find_paths("a b.npy") == find_paths("./a b.npy") == wanted
    assert find_paths((tmp_path / "a b.npy").as_uri()) == wanted
    assert find_paths("file://localhost" + str(tmp_path / "a%20b.npy")) == wanted


def test_file_named_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    save(tmp_path, "a[1].npy")
    save(tmp_path, "a1.npy")
    assert find_paths(str(tmp_path / "a[1].npy")) == [str(tmp_path / "a[1].npy")]


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("ftp://bucket/a.npy", ["ftp://", "not known"]),
        ("memory://bucket/a.npy", ["memory://bucket/a.npy", "no such object"]),
        ("memory://bucket/a.zarr", ["memory://bucket/a.zarr", "no such object"]),
        ("memory://bucket/*.npy", ["*.npy", "no object matches"]),
        ("file://host/a.npy", ["'host'"]),
        ("{}/none-*.npy", ["none-*.npy", "no file matches"]),
        ("{}/none.npy", ["none.npy", "no such file"]),
        ("{}/none", ["none", "no such file"]),
        ("{}/a.parquet", ["a.parquet", "no such file"]),
        ("{}/a.h5", ["a.h5", "no such file"]),
        ("s3://bucket/a.hdf5", ["a.hdf5", "read from a disk", "copy the file"]),
        ("{}/a.npz", ["a.npz", "no such file"]),
        ("{}/a.csv", ["'.csv'", ".fvecs", ".zarr"]),
        ("{}/folder.npy", ["folder.npy", "is a folder"]),
        ("{}/folder", ["without Zarr metadata"]),
        ("", ["no path"]),
        ([], ["empty"]),
    ],
)
def test_uri_that_means_nothing_is_refused(tmp_path: Path, uri: Any, wanted: list[str]) -> None:
    for folder in ("folder", "folder.npy"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(SourceError) as caught:
        open_source(uri.format(tmp_path) if isinstance(uri, str) else uri)
    for value in wanted:
        assert value in str(caught.value)


def test_format_is_as_given_whatever_the_ending(tmp_path: Path) -> None:
    save(tmp_path, "a.npy")
    (tmp_path / "a.npy").rename(tmp_path / "a.bin")
    assert open_source(str(tmp_path / "a.bin"), format="npy").rows == 2
    with pytest.raises(SourceError, match="'hdf6'"):
        open_source(str(tmp_path / "a.bin"), format="hdf6")
    with pytest.raises(SourceError, match="leave out `key`"):
        open_source(str(tmp_path / "a.bin"), format="npy", key="x")


@pytest.mark.parametrize(("dim", "dtype"), [(4, "f4"), (3, "f2"), (3, "u1")])
def test_files_that_differ_are_both_named(tmp_path: Path, dim: int, dtype: str) -> None:
    save(tmp_path, "a.npy", dim=3)
    save(tmp_path, "b.npy", dim=dim, dtype=dtype)
    with pytest.raises(SourceError) as caught:
        open_source(str(tmp_path / "*.npy"))
    for value in ("a.npy", "b.npy", f"dim {dim}", "dim 3", np.dtype(dtype).name, "float32"):
        assert value in str(caught.value)


def test_byte_order_may_differ(tmp_path: Path) -> None:
    vectors = [save(tmp_path, "a.npy", dtype=">f4"), save(tmp_path, "b.npy", dtype="<f4")]
    source = open_source(str(tmp_path / "*.npy"))
    assert source.dtype == "float32"
    np.testing.assert_array_equal(source.read(0, 4), np.concatenate(vectors))


def test_rows_cut_the_source_and_its_files(tmp_path: Path) -> None:
    vectors = np.concatenate([save(tmp_path, f"{name}.npy", rows=4) for name in "abc"])
    source = open_source(str(tmp_path / "*.npy"), rows=5)
    np.testing.assert_array_equal(source.read(0, 5), vectors[:5])
    assert [rows for _, rows in source.files()] == [4, 1]
    with pytest.raises(SourceError, match=r"rows 3:6 .* 0:5"):
        source.read(3, 6)
    with pytest.raises(SourceError, match=r"13 .* 12"):
        open_source(str(tmp_path / "*.npy"), rows=13)


def test_table_takes_integers_only(tmp_path: Path) -> None:
    for dtype in ("i4", "u4", "i8", ">i8"):
        wanted = save(tmp_path, "a.npy", dtype=dtype)
        np.testing.assert_array_equal(open_table(str(tmp_path / "a.npy")).read(0, 2), wanted)
    save(tmp_path, "a.npy", dtype="f4")
    with pytest.raises(SourceError, match=r"float32.*row numbers are integers"):
        open_table(str(tmp_path / "a.npy"))


def test_description_pickles_small_and_reads_alike(tmp_path: Path) -> None:
    save(tmp_path, "a.npy")
    source = open_source(str(tmp_path / "a.npy"))
    text = pickle.dumps(source)
    assert len(text) < 1000
    assert pickle.loads(text) == source
    assert (source.row_bytes, source.chunk_bytes) == (12, 12)


def test_stamp_tells_changed_and_moved_rows(tmp_path: Path) -> None:
    save(tmp_path, "b.npy", rows=6)
    source = open_source(str(tmp_path / "*.npy"))
    first, rest = source.stamp(0, 3), source.stamp(3, 6)
    assert first != rest
    save(tmp_path, "c.npy", rows=6)
    assert open_source(str(tmp_path / "*.npy")).stamp(0, 3) == first
    save(tmp_path, "a.npy", rows=1)
    assert open_source(str(tmp_path / "*.npy")).stamp(1, 4) == first
    assert open_source(str(tmp_path / "*.npy")).stamp(3, 6) not in (first, rest)


def test_stamp_waits_until_the_next_write_bears_another_time(tmp_path: Path) -> None:
    save(tmp_path, "a.npy")
    source = open_source(str(tmp_path / "a.npy"))
    for _ in range(5):
        written = time.time_ns()
        os.utime(tmp_path / "a.npy", ns=(written, written))
        source.stamp(0, 2)
        # Some kernels give files a time that stands still for 10 ms.
        assert time.time_ns() - written >= 10_000_000


def test_signature_tells_rows_wherever_they_lie_and_however_they_are_stored(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 6)).astype("f4")
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", np.asfortranarray(rows[10:].astype(">f4")))
    first, second = (open_source(str(tmp_path / f"{name}.npy")) for name in "ab")
    assert first.signature(20, 30) == second.signature(10, 20)
    assert first.signature(20, 30) != first.signature(20, 31)
    assert len({first.signature(start, start + 10) for start in range(40)}) == 40
    both = open_source(str(tmp_path / "*.npy"))
    np.save(tmp_path / "c.npy", np.concatenate([rows[45:], rows[10:15]]))
    assert both.signature(45, 55) == open_source(str(tmp_path / "c.npy")).signature(0, 10)


def test_file_gone_before_its_stamp_is_a_source_error(tmp_path: Path) -> None:
    save(tmp_path, "a.npy")
    source = open_source(str(tmp_path / "a.npy"))
    (tmp_path / "a.npy").unlink()
    with pytest.raises(SourceError, match="rows 0:2"):
        source.stamp(0, 2)
    with pytest.raises(SourceError, match="no such file"):
        source.read(0, 2)


@given(
    start=st.integers(0, 50),
    rows=st.integers(0, 50),
    chunk=st.integers(1, 60),
    most=st.integers(1, 60),
)
def test_cuts_cover_the_range_and_share_no_chunk(
    start: int, rows: int, chunk: int, most: int
) -> None:
    cuts = list(cut_at_chunks(start, start + rows, chunk, most))
    assert [row for cut in cuts for row in range(*cut)] == list(range(start, start + rows))
    chunks = [number for a, b in cuts for number in range(a // chunk, (b - 1) // chunk + 1)]
    assert len(chunks) == len(set(chunks))
    assert all(b - a <= max(most, chunk) for a, b in cuts)


class FakeFormat:
    """A format in memory that notes what is opened and which rows are read."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed = 0
        self.reads: list[tuple[str, int, int]] = []

    def describe(self, path: str, format: str, key: str | None) -> Part:
        raise NotImplementedError

    def open_part(self, part: Part) -> FakeReader:
        self.opened.append(part.path)
        return FakeReader(self, part)

    def stamps(self, part: Part, start: int, stop: int) -> list[Stamp]:
        return []


class FakeReader:
    def __init__(self, format: FakeFormat, part: Part) -> None:
        self.format, self.part = format, part

    def read(self, start: int, stop: int) -> np.ndarray:
        self.format.reads.append((self.part.path, start, stop))
        return np.arange(start, stop, dtype="f4").reshape(-1, 1) + int(self.part.path)

    def close(self) -> None:
        self.format.closed += 1


@settings(deadline=None)
@given(data=st.data())
def test_pieces_join_to_read_and_decode_each_chunk_once(data: st.DataObject) -> None:
    sizes = data.draw(
        st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=4)
    )
    parts = tuple(
        Part("fake", str(1000 * number), None, rows, 1, "float32", chunk, chunk)
        for number, (rows, chunk) in enumerate(sizes)
    )
    total = sum(part.rows for part in parts)
    source = VectorArray("x", "fake", None, parts, total, 1, "float32")
    stop = data.draw(st.integers(0, total))
    start, most = data.draw(st.integers(0, stop)), data.draw(st.integers(1, 25))
    whole = [1000 * number + row for number, (rows, _) in enumerate(sizes) for row in range(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(array_module.FORMATS, "fake", FakeFormat())
        assert source.read(start, stop).ravel().tolist() == whole[start:stop]
        format = FakeFormat()
        patch.setitem(array_module.FORMATS, "fake", format)
        pieces = list(source.pieces(start, stop, most))
    assert [value for piece in pieces for value in piece.ravel().tolist()] == whole[start:stop]
    assert len(format.opened) == len(set(format.opened)) == format.closed
    chunk_rows = {part.path: part.chunk_rows for part in parts}
    decoded = [
        (path, chunk)
        for path, a, b in format.reads
        for chunk in range(a // chunk_rows[path], (b - 1) // chunk_rows[path] + 1)
    ]
    assert len(decoded) == len(set(decoded))
    assert all(len(piece) <= max(most, source.chunk_rows) for piece in pieces)


def test_pieces_left_unfinished_close_their_file() -> None:
    format = FakeFormat()
    source = VectorArray(
        "x", "fake", None, (Part("fake", "0", None, 9, 1, "float32", 1, 1),), 9, 1, "float32"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(array_module.FORMATS, "fake", format)
        pieces = source.pieces(0, 9, 2)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
    assert format.closed == 1
