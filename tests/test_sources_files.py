"""Flat files: what is read is what another writer wrote, and no header is believed."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.errors import SourceError
from vqpipe.sources import VectorArray, open_source, open_table

VALUES = {"fvecs": "f", "bvecs": "B", "ivecs": "i", "fbin": "f", "u8bin": "B", "i8bin": "b"}


def pack_vecs(rows: list[list[float]], letter: str) -> bytes:
    return b"".join(struct.pack(f"<i{len(row)}{letter}", len(row), *row) for row in rows)


def pack_bin(rows: list[list[float]], letter: str, claim: tuple[int, int] | None = None) -> bytes:
    head = claim or (len(rows), len(rows[0]))
    body = b"".join(struct.pack(f"<{len(row)}{letter}", *row) for row in rows)
    return struct.pack("<II", *head) + body


def npy_header(text: str | bytes, claimed: int | None = None, version: int = 1) -> bytes:
    text = text if isinstance(text, bytes) else text.encode()
    length = len(text) if claimed is None else claimed
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 * version, "little") + text


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("format", VALUES)
def test_reads_what_struct_wrote(tmp_path: Path, format: str) -> None:
    rows = [[row * 3 + column for column in range(5)] for row in range(7)]
    pack = pack_bin if format.endswith("bin") else pack_vecs
    path = write(tmp_path, f"a.{format}", pack(rows, VALUES[format]))
    source = open_table(path) if format == "ivecs" else open_source(path)
    assert (source.rows, source.dim, source.chunk_rows, source.unit_rows) == (7, 5, 1, 1)
    read = source.read(2, 6)
    assert read.tolist() == rows[2:6]
    assert str(read.dtype) == source.dtype
    assert read.flags.c_contiguous
    assert read.flags.owndata


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2", "u1", "i1"])
def test_npy_is_read_in_any_order_and_native_bytes(tmp_path: Path, dtype: str, order: str) -> None:
    wanted = np.asarray(np.arange(33).reshape(11, 3), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", wanted)
    read = open_source(str(tmp_path / "a.npy")).read(3, 9)
    np.testing.assert_array_equal(read, wanted[3:9])
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    assert type(read) is np.ndarray


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_npy_versions_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    wanted = np.eye(3, dtype="f4")
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, wanted, version=version)
    np.testing.assert_array_equal(open_source(str(tmp_path / "a.npy")).read(0, 3), wanted)


F4 = np.zeros((4, 3), "f4")
ROWS = [[0.0, 1.0, 2.0]] * 4
OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }"
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 4), }"

BAD = {
    "empty.npy": (b"", ["is no npy file"]),
    "text.npy": (b"hello, I am text", ["is no npy file", "hello"]),
    "cut.npy": (npy_bytes(F4)[:-4], ["(4, 3)", "176", "172"]),
    "long.npy": (npy_bytes(F4) + b"\0", ["176", "177"]),
    "cut-header.npy": (npy_bytes(F4)[:40], ["header", "numpy.save"]),
    "huge-header.npy": (npy_header("{}", 2**32 - 1, 2), [str(2**32 - 1)]),
    "version.npy": (b"\x93NUMPY\x09\0", ["version 9"]),
    "claim.npy": (npy_header(HUGE % 10**12), [str(10**12)]),
    "overflow.npy": (npy_header(HUGE % 10**30), [str(10**30)]),
    "negative.npy": (npy_header(HUGE % -3), ["(-3, 4)"]),
    "bool.npy": (npy_header(HUGE.replace("%d", "True")), ["True"]),
    "list.npy": (npy_header("['descr', 'fortran_order', 'shape']"), ["expected"]),
    "code.npy": (npy_header("__import__('os').abort()"), ["header cannot be read"]),
    "nested.npy": (npy_header("(" * 5000), ["header cannot be read"]),
    "pickle.npy": (npy_header(OBJECTS) + b"cos\nabort\n(tR.", ["'|O'"]),
    "fields.npy": (npy_bytes(np.zeros(2, [("a", "f4")])), ["dtype", "'a'"]),
    "one.npy": (npy_bytes(np.zeros(5, "f4")), ["(5,)", "2-D"]),
    "three.npy": (npy_bytes(np.zeros((1, 2, 3), "f4")), ["(1, 2, 3)"]),
    "none.npy": (npy_bytes(np.zeros((0, 3), "f4")), ["(0, 3)", "no vectors"]),
    "nodim.npy": (npy_bytes(np.zeros((3, 0), "f4")), ["(3, 0)", "no vectors"]),
    "double.npy": (npy_bytes(np.zeros((2, 2))), ["float64", "float32"]),
    "int.npy": (npy_bytes(np.zeros((2, 2), "i4")), ["int32", "float32"]),
    "text-dtype.npy": (npy_bytes(np.array([["a"]])), ["<U1"]),
    "empty.fvecs": (b"", ["0 bytes", "no vectors"]),
    "cut.fvecs": (pack_vecs(ROWS, "f")[:-1], ["63", "16", "dim 3"]),
    "ragged.fvecs": (pack_vecs([[1, 2], [1, 2, 3]], "f"), ["28", "12"]),
    "last.bvecs": (
        pack_vecs([[1] * 4] * 3, "B") + pack_vecs([[1] * 3], "B") + b"1",
        ["row 3", "3"],
    ),
    "zero.fvecs": (struct.pack("<i", 0) * 4, ["no vectors"]),
    "negative.bvecs": (struct.pack("<i", -8) * 4, ["-8"]),
    "absurd.fvecs": (struct.pack("<i", 2**31 - 1) * 4, [str(2**31 - 1)]),
    "row-numbers.ivecs": (pack_vecs([[1, 2]], "i"), ["int32", "row numbers"]),
    "head.fbin": (b"1234567", ["7 bytes"]),
    "more.fbin": (pack_bin(ROWS, "f", (5, 3)), ["68", "56", "5 rows"]),
    "fewer.u8bin": (pack_bin(ROWS, "f", (3, 3)), ["17", "56"]),
    "zero.i8bin": (struct.pack("<II", 0, 8), ["no vectors"]),
    "absurd.fbin": (struct.pack("<II", 2**32 - 1, 2**32 - 1), [str(2**32 - 1)]),
    "rows.fbin": (struct.pack("<II", 2**32 - 1, 1000), [str(2**32 - 1)]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_with_its_values(tmp_path: Path, name: str) -> None:
    content, wanted = BAD[name]
    path = write(tmp_path, name, content)
    with pytest.raises(SourceError) as caught:
        open_source(path)
    for value in [path, *wanted]:
        assert value in str(caught.value)


def test_vecs_dim_is_checked_in_every_row_that_is_read(tmp_path: Path) -> None:
    content = bytearray(pack_vecs([[0.0] * 3] * 9, "f"))
    content[16 * 5 : 16 * 5 + 4] = struct.pack("<i", 7)
    source = open_source(write(tmp_path, "a.fvecs", bytes(content)))
    assert len(source.read(0, 5)) == 5
    with pytest.raises(SourceError, match="row 5 says dim 7, but row 0 says dim 3"):
        source.read(2, 9)


@pytest.mark.parametrize("name", ["a.npy", "a.fvecs", "a.fbin"])
def test_file_cut_after_it_was_described_is_an_error(tmp_path: Path, name: str) -> None:
    content = {
        "a.npy": npy_bytes(F4),
        "a.fvecs": pack_vecs(ROWS, "f"),
        "a.fbin": pack_bin(ROWS, "f"),
    }[name]
    source = open_source(write(tmp_path, name, content))
    os.truncate(tmp_path / name, 32)
    with pytest.raises(SourceError, match=name):
        source.read(0, 4)
    pieces = open_source(write(tmp_path, name, content)).pieces(0, 4, 1)
    next(pieces)
    os.truncate(tmp_path / name, 32)
    with pytest.raises(SourceError, match=name):
        list(pieces)


def test_file_that_became_another_is_an_error_and_one_that_grew_is_not(tmp_path: Path) -> None:
    path = write(tmp_path, "a.fvecs", pack_vecs(ROWS, "f"))
    source = open_source(path)
    write(tmp_path, "a.fvecs", pack_vecs(ROWS * 2, "f"))
    assert source.read(0, 4).tolist() == ROWS
    write(tmp_path, "a.fvecs", pack_vecs([[1.0, 2.0]] * 9, "f"))
    with pytest.raises(SourceError, match=r"\(4, 3\) float32 .* \(9, 2\) float32"):
        source.read(0, 4)


GOOD = {
    "a.npy": npy_bytes(F4),
    "a.fvecs": pack_vecs(ROWS, "f"),
    "a.bvecs": pack_vecs([[1, 2, 3]] * 4, "B"),
    "a.fbin": pack_bin(ROWS, "f"),
}


def open_or_refuse(path: str) -> VectorArray | None:
    try:
        source = open_source(path)
        assert source.read(0, source.rows).shape == (source.rows, source.dim)
    except SourceError:
        return None
    return source


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(GOOD)), content=st.binary(max_size=64), magic=st.booleans())
def test_random_bytes_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes, magic: bool
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    open_or_refuse(write(folder, name, (npy_header(content) if magic else content)))


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(GOOD)),
    changes=st.lists(st.tuples(st.integers(0, 140), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 20) | st.just(0),
)
def test_damaged_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[int, int]],
    cut: int,
) -> None:
    content = bytearray(GOOD[name])
    for place, value in changes:
        content[place % len(content)] = value
    folder = tmp_path_factory.mktemp("fuzz")
    open_or_refuse(write(folder, name, bytes(content[: len(content) - cut])))
