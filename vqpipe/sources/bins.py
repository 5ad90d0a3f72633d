"""fbin, u8bin and i8bin files of the big-ann benchmarks: uint32 rows, uint32 dim, then the rows.

Source: https://big-ann-benchmarks.com (little-endian throughout).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.flat_file import (
    RowsReader,
    file_size,
    file_stamps,
    read_at,
    refuse_key,
    share_file,
)
from vqpipe.sources.part import Part, Reader, check_shape, check_unchanged

DTYPES: dict[str, np.dtype[Any]] = {
    "fbin": np.dtype("<f4"),
    "u8bin": np.dtype("u1"),
    "i8bin": np.dtype("i1"),
}

_HEAD = struct.Struct("<II")

stamps = file_stamps
is_shared = share_file


def describe(path: str, format: str, key: str | None) -> Part:
    """Check a bin file by its header and size, and describe it.

    Raises
    ------
    SourceError
        For a header that promises more, or fewer, bytes than the file has.
    """
    refuse_key(path, format, key)
    size, where, dtype = file_size(path), f"source {path}", DTYPES[format]
    if size < _HEAD.size:
        raise SourceError(
            f"{where}: has {size} bytes, fewer than the {_HEAD.size} of a {format} header; it was "
            "cut: fetch it again"
        )
    head = read_at(path, 0, _HEAD.size)
    if len(head) < _HEAD.size:
        raise SourceError(f"{where}: was cut while it was opened; run again when it is complete")
    rows, dim = check_shape(_HEAD.unpack(head), dtype, where)
    promised = _HEAD.size + rows * dim * dtype.itemsize
    if promised != size:
        raise SourceError(
            f"{where}: its header says {rows} rows of dim {dim}, that is {promised} bytes, but the "
            f"file has {size}; it was cut, has bytes left over, or is no {format} file: fetch it "
            "again, correct its header, or set `format`"
        )
    return Part(format, path, None, rows, dim, str(dtype), 1, 1)


def open_part(part: Part) -> Reader:
    """Open a bin file for reading.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    check_unchanged(part, describe(part.path, part.format, part.key))
    return RowsReader(part, _HEAD.size)
