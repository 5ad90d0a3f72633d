"""npz files: members are read where numpy put them, and no zip directory is believed."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vqpipe.errors import SourceError
from vqpipe.sources import npz, open_source
from vqpipe.sources.formats import must_convert
from vqpipe.sources.part import Rows

ROWS = np.random.default_rng(0).standard_normal((50, 6)).astype("f4")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f2", "u1"])
def test_a_member_is_read_as_numpy_reads_it(tmp_path: Path, dtype: str, order: str) -> None:
    wanted = np.asarray(ROWS * 50 + 100, dtype=dtype, order=order)
    np.savez(tmp_path / "a.npz", names=np.arange(50), vectors=wanted, more=np.ones((2, 3, 4)))
    source = open_source(str(tmp_path / "a.npz"))
    assert (source.rows, source.dim, source.parts[0].key) == (50, 6, "vectors")
    for start, stop in ((0, 50), (3, 44), (49, 50), (7, 7)):
        read = source.read(start, stop)
        with np.load(tmp_path / "a.npz") as loaded:
            np.testing.assert_array_equal(read, loaded["vectors"][start:stop])
        assert (read.dtype, read.flags.c_contiguous) == (wanted.dtype.newbyteorder("="), True)


def test_a_compressed_member_is_read_forward_and_back(tmp_path: Path) -> None:
    """Backwards costs unpacking from the first row on, which is good for a few queries."""
    for dtype in ("<f4", ">f2"):
        wanted = ROWS.astype(dtype)
        np.savez_compressed(tmp_path / "a.npz", rows=wanted, names=np.arange(50))
        source = open_source(str(tmp_path / "a.npz"))
        assert must_convert(source.parts[0])
        with closing(npz.open_part(source.parts[0])) as reader:
            for start, stop in ((3, 9), (9, 10), (30, 44), (2, 50)):
                read = reader.read(start, stop)
                np.testing.assert_array_equal(read, wanted[start:stop])
                assert read.dtype.isnative
    np.savez(tmp_path / "b.npz", ROWS)
    assert not must_convert(open_source(str(tmp_path / "b.npz")).parts[0])


def packed_file(path: Path, rows: int) -> Path:
    """Write 50 rows, compressed, under a header that claims another number of them."""
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, 6)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + ROWS.tobytes())
    return path


@pytest.mark.parametrize("rows", [40, 2**40])
def test_a_compressed_member_that_claims_other_rows_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(SourceError, match=rf"\({rows}, 6\).* the file has 1328"):
        open_source(str(packed_file(tmp_path / "a.npz", rows)))


def test_a_compressed_member_that_ends_early_is_an_error_where_it_ends(tmp_path: Path) -> None:
    """Header and directory agree on ten rows more than there are."""
    path = packed_file(tmp_path / "a.npz", 60)
    edited(path, CENTRAL, 24, struct.pack("<I", 128 + 60 * 24))
    source = open_source(str(path))
    assert source.rows == 60
    with pytest.raises(SourceError, match="breaks off"):
        source.read(0, 60)


def test_the_only_member_or_the_one_that_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", ROWS)
    np.savez(tmp_path / "two.npz", **{"a/b": ROWS, "c": ROWS[:, :2]})
    assert (open_source(str(tmp_path / "one.npz")).read(0, 50) == ROWS).all()
    for key in ("a/b", "a/b.npy"):
        assert (open_source(str(tmp_path / "two.npz"), key=key).read(9, 20) == ROWS[9:20]).all()
    with pytest.raises(SourceError, match=r"2 2-D arrays.*set `key`.*a/b \(50, 6\), c \(50, 2\)"):
        open_source(str(tmp_path / "two.npz"))
    with pytest.raises(SourceError, match="no array 'd'; set `key` to one of 'a/b', 'c'"):
        open_source(str(tmp_path / "two.npz"), key="d")


def test_a_member_with_a_long_extra_field_and_bytes_before_the_archive(tmp_path: Path) -> None:
    """What zip programs add moves the member; numpy's own files have neither."""
    path = tmp_path / "a.npz"
    np.save(tmp_path / "x.npy", ROWS)
    path.write_bytes(b"#! a program before it\n")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x.npy")
        info.extra = struct.pack("<2H40s", 0x7777, 40, b"x" * 40)
        archive.writestr(info, (tmp_path / "x.npy").read_bytes())
    assert (open_source(str(path)).read(1, 50) == ROWS[1:]).all()


def rows_file(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=ROWS)
    return folder / "a.npz"


def edited(path: Path, signature: bytes, at: int, value: bytes) -> None:
    """Overwrite bytes of the last structure of a kind."""
    data = bytearray(path.read_bytes())
    place = data.rindex(signature) + at
    data[place : place + len(value)] = value
    path.write_bytes(data)


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"

# name: structure, place in it, its new value, what the message says
DAMAGE: dict[str, tuple[bytes, int, bytes, str]] = {
    "encrypted": (CENTRAL, 8, struct.pack("<H", 1), "encrypted"),
    "another method": (CENTRAL, 10, struct.pack("<H", 12), "method 12"),
    "another name before the member": (LOCAL, 30, b"y", "says otherwise"),
    "encrypted before the member": (LOCAL, 6, struct.pack("<H", 1), "says otherwise"),
    "packed before the member": (LOCAL, 8, struct.pack("<H", 8), "says otherwise"),
    "no member there": (CENTRAL, 42, struct.pack("<I", 40), "says otherwise"),
    "member after the end": (CENTRAL, 42, struct.pack("<I", 1 << 30), "outside of the file"),
    "size": (CENTRAL, 24, struct.pack("<I", 1329), "1329 bytes"),
    "both sizes": (CENTRAL, 20, struct.pack("<2I", 1 << 30, 1 << 30), "the members end at byte"),
    "extra field": (LOCAL, 28, struct.pack("<H", 60_000), "the members end at byte"),
    "directory": (END, 12, struct.pack("<I", 1 << 30), "zip"),
    "directory's place": (END, 16, struct.pack("<I", 1 << 31), "outside of the file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_headers_that_lie_are_refused(tmp_path: Path, name: str) -> None:
    path = rows_file(tmp_path)
    signature, at, value, words = DAMAGE[name]
    edited(path, signature, at, value)
    with pytest.raises(SourceError, match=words) as caught:
        open_source(str(path))
    assert "a.npz" in str(caught.value)


def test_a_directory_beyond_any_is_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqpipe.sources.zip_file._MAX_DIRECTORY_BYTES", 40)
    with pytest.raises(SourceError, match="at most 40"):
        open_source(str(rows_file(tmp_path)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_table_of_numbers_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
        archive.write(tmp_path / "x.npy", "x.npy")
    with zipfile.ZipFile(tmp_path / "none.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    np.savez(tmp_path / "objects.npz", np.array([[None, "a"]]))
    np.savez_compressed(tmp_path / "packed.npz", x=np.asfortranarray(ROWS))
    (tmp_path / "text.npz").write_text("hello")
    wanted = {
        "twice": "2 arrays 'x'",
        "none": "no array",
        "objects": r"\|O",
        "packed": "'x': is compressed and in Fortran order",
        "text": "no zip file",
    }
    for name, words in wanted.items():
        with pytest.raises(SourceError, match=words):
            open_source(str(tmp_path / f"{name}.npz"))


def test_a_file_written_anew_while_it_is_read_is_an_error_unless_it_grew(tmp_path: Path) -> None:
    source = open_source(str(rows_file(tmp_path)))
    more: Rows = np.vstack([ROWS, ROWS])
    np.savez(tmp_path / "a.npz", x=more)
    assert (source.read(0, 50) == ROWS).all()
    np.savez(tmp_path / "a.npz", x=ROWS[:40])
    with pytest.raises(SourceError, match=r"\(50, 6\) float32 .* \(40, 6\) float32"):
        source.read(0, 50)
