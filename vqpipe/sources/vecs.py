"""fvecs, bvecs and ivecs files of the TEXMEX benchmarks: each row is an int32 dim, then its values.

Source: http://corpus-texmex.irisa.fr (little-endian throughout).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.flat_file import (
    FlatFile,
    file_size,
    file_stamps,
    read_at,
    refuse_key,
    share_file,
)
from vqpipe.sources.part import Part, Reader, Rows, check_shape, check_unchanged

DTYPES: dict[str, np.dtype[Any]] = {
    "fvecs": np.dtype("<f4"),
    "bvecs": np.dtype("u1"),
    "ivecs": np.dtype("<i4"),
}

_HEAD_BYTES = 4

stamps = file_stamps
is_shared = share_file


def describe(path: str, format: str, key: str | None) -> Part:
    """Check a vecs file by its size and its first and last dim, and describe it.

    Raises
    ------
    SourceError
        For a size that is no multiple of a row's, an absurd dim, or a last row of another dim.
    """
    refuse_key(path, format, key)
    size, where, dtype = file_size(path), f"source {path}", DTYPES[format]
    if size < _HEAD_BYTES:
        raise SourceError(
            f"{where}: has {size} bytes and so no vectors; check that it was written to its end"
        )
    dim = int.from_bytes(read_at(path, 0, _HEAD_BYTES), "little", signed=True)
    check_shape((1, dim), dtype, where)
    record = _HEAD_BYTES + dim * dtype.itemsize
    rows, rest = divmod(size, record)
    if rest:
        raise SourceError(
            f"{where}: has {size} bytes, no multiple of the {record} bytes of one {format} row "
            f"of dim {dim} ({rest} bytes are left over after {rows} rows); it was cut, its "
            f"rows differ in dim, or it is no {format} file: fetch it again, or set `format`"
        )
    last = int.from_bytes(read_at(path, size - record, _HEAD_BYTES), "little", signed=True)
    _check_dim(where, dim, rows - 1, last)
    return Part(format, path, None, rows, dim, str(dtype), 1, 1)


def open_part(part: Part) -> Reader:
    """Open a vecs file for reading.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    check_unchanged(part, describe(part.path, part.format, part.key))
    return _VecsReader(part)


class _VecsReader(FlatFile):
    """Reads rows and checks the dim that each of them carries."""

    def __init__(self, part: Part) -> None:
        super().__init__(part.path)
        self._part = part
        self._record: np.dtype[Any] = np.dtype(
            [("dim", "<i4"), ("values", DTYPES[part.format], (part.dim,))]
        )

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        records = np.empty(stop - start, self._record)
        self.fill(records, start * self._record.itemsize)
        others = np.flatnonzero(records["dim"] != self._part.dim)
        if others.size:
            first = int(others[0])
            where = f"source {self.path}"
            _check_dim(where, self._part.dim, start + first, int(records["dim"][first]))
        return np.ascontiguousarray(records["values"], self._part.native_dtype)


def _check_dim(where: str, dim: int, row: int, found: int) -> None:
    if found != dim:
        raise SourceError(
            f"{where}: row {row} says dim {found}, but row 0 says dim {dim}; all rows must have "
            "one dim: the file is damaged or of another format (set `format`)"
        )
