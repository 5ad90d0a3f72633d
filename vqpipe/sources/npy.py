"""``.npy`` files (NumPy's NEP 1), both orders, both byte orders."""

from __future__ import annotations

import ast
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.flat_file import (
    FlatFile,
    RowsReader,
    file_size,
    file_stamps,
    read_at,
    refuse_key,
    share_file,
)
from vqpipe.sources.part import (
    Part,
    Reader,
    Rows,
    check_shape,
    check_unchanged,
    parse_dtype,
    shorten,
)

_MAGIC = b"\x93NUMPY"

# Bytes of the header's length, and the header's encoding, by the format's major version.
_VERSIONS = {1: (2, "latin1"), 2: (4, "latin1"), 3: (4, "utf8")}

# NumPy's own limit: literal_eval of a longer text can exhaust the stack.
_MAX_HEADER_BYTES = 10_000

# Where the header ends at the latest.
HEAD_BYTES = len(_MAGIC) + 6 + _MAX_HEADER_BYTES

stamps = file_stamps
is_shared = share_file


@dataclass(frozen=True, slots=True)
class Header:
    """What an npy file says of its array; ``offset`` is the place of the first value."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


def describe(path: str, format: str, key: str | None) -> Part:
    """Check an npy file by its header and size, and describe it.

    Raises
    ------
    SourceError
        For another kind of file, another shape than (rows, dim), objects, a wrong size.
    """
    refuse_key(path, format, key)
    size, where = file_size(path), f"source {path}"
    # One request where each costs its own time: headers are shorter than this, and long ones are refused.
    header = parse_header(read_at(path, 0, HEAD_BYTES), where)
    rows, dim = check_size(header, size, where)
    return Part(format, path, None, rows, dim, str(header.dtype), 1, 1)


def open_part(part: Part) -> Reader:
    """Open an npy file for reading.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    now = describe(part.path, part.format, part.key)
    check_unchanged(part, now)
    header = parse_header(read_at(part.path, 0, HEAD_BYTES), f"source {part.path}")
    return reader_of(now, header, header.offset)


def reader_of(part: Part, header: Header, offset: int) -> Reader:
    """Open the values of an array, the first of which is ``offset`` bytes into the part's file."""
    return _ColumnsReader(part, offset) if header.fortran else RowsReader(part, offset)


def check_size(header: Header, size: int, where: str) -> tuple[int, int]:
    """Return rows and dim of an array that takes ``size`` bytes together with its header.

    Raises
    ------
    SourceError
        For another shape than (rows, dim), or another size.
    """
    rows, dim = check_shape(header.shape, header.dtype, where)
    promised = header.offset + rows * dim * header.dtype.itemsize
    if promised != size:
        raise SourceError(
            f"{where}: its header says shape ({rows}, {dim}) of {header.dtype}, that is {promised} "
            f"bytes, but the file has {size}; it was cut or written over: write it again"
        )
    return rows, dim


class _ColumnsReader(FlatFile):
    """Reads rows of an array in Fortran order: each column lies whole, one after another."""

    def __init__(self, part: Part, offset: int) -> None:
        super().__init__(part.path)
        self._part = part
        self._offset = offset

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        part = self._part
        rows = np.empty((stop - start, part.dim), part.native_dtype)
        column = np.empty(stop - start, part.dtype)
        for index in range(part.dim):
            self.fill(column, self._offset + (index * part.rows + start) * column.itemsize)
            rows[:, index] = column
        return rows


def parse_header(head: bytes, where: str) -> Header:
    """Read a header without trusting its length: numpy takes memory by it before it reads.

    Parameters
    ----------
    head : bytes
        The first `HEAD_BYTES` bytes of the file, or all of a shorter one.
    where : str
        Begins the message.

    Raises
    ------
    SourceError
    """
    with io.BytesIO(head) as file:
        start = file.read(len(_MAGIC) + 2)
        if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + 2:
            raise SourceError(
                f"{where}: is no npy file: it begins with {start!r}, not with {_MAGIC!r}; set "
                "`format` to what it is, or write it again with numpy.save"
            )
        version = start[len(_MAGIC)]
        if version not in _VERSIONS:
            raise SourceError(
                f"{where}: has npy version {version}; known are {sorted(_VERSIONS)}: write it "
                "again with numpy.save"
            )
        width, encoding = _VERSIONS[version]
        length = int.from_bytes(file.read(width), "little")
        if length > _MAX_HEADER_BYTES:
            raise SourceError(
                f"{where}: its header claims {length} bytes; at most {_MAX_HEADER_BYTES} are read, "
                "as numpy does: the file is damaged"
            )
        text = file.read(length)
        offset = file.tell()
    fields = _parse_header(text, length, encoding, where)
    shape = fields["shape"]
    if not isinstance(shape, tuple) or any(type(count) is not int for count in shape):
        raise SourceError(
            f"{where}: its header gives the shape {shorten(shape)}, not whole numbers"
        )
    return Header(offset, shape, parse_dtype(fields["descr"], where), bool(fields["fortran_order"]))


def _parse_header(text: bytes, length: int, encoding: str, where: str) -> dict[str, Any]:
    try:
        fields = ast.literal_eval(text.decode(encoding))
    # The parser gives up on deep nesting with RecursionError or MemoryError.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise SourceError(
            f"{where}: its npy header cannot be read ({type(error).__name__}): "
            f"{shorten(text)}; the file is damaged: write it again with numpy.save"
        ) from error
    wanted = {"descr", "fortran_order", "shape"}
    if len(text) != length or not isinstance(fields, dict) or set(fields) != wanted:
        raise SourceError(
            f"{where}: its npy header is {shorten(text)}, where {sorted(wanted)} are expected; the "
            "file is damaged: write it again with numpy.save"
        )
    return fields
