"""Single rows of ``codes.zarr``, wherever they lie, and what the source calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from vqpipe.dtypes import Codes, Int64
from vqpipe.storage.arrays import array_in, found_whole, open_group
from vqpipe.storage.codes import CodeArray

# Integers of some dtype, or an object array of str.
Ids = NDArray[Any]


def pick_codes(codes: CodeArray, rows: Int64) -> Codes:
    """Return the codes of rows in any order; a chunk is decoded once however many of them it holds.

    Parameters
    ----------
    codes : CodeArray
    rows : int64 array of shape (rows,)

    Returns
    -------
    unsigned array of shape (rows, columns)

    Raises
    ------
    DamagedError
    """
    with found_whole(f"{codes.path}: the codes of {len(rows):,} rows"):
        return _pick(array_in(open_group(codes.path), "codes"), rows)


def pick_ids(codes: CodeArray, rows: Int64) -> Ids | None:
    """Return the ids of rows in any order, of the same shape; None where there are none."""
    with found_whole(f"{codes.path}: the ids of {rows.size:,} rows"):
        array = _ids(codes)
        if array is None:
            return None
        return _plain(_pick(array, rows.ravel())).reshape(rows.shape)


def read_ids(codes: CodeArray, start: int, stop: int) -> Ids | None:
    """Return the ids of rows ``start:stop``; None where there are none."""
    with found_whole(f"{codes.path}: the ids of rows {start:,} to {stop:,}"):
        array = _ids(codes)
        return None if array is None else _plain(np.asarray(array[start:stop]))


def has_ids(codes: CodeArray) -> str | None:
    """Return the dtype of the ids, an integer's or ``string``; None where there are none."""
    with found_whole(f"{codes.path}: ids"):
        array = _ids(codes)
        if array is None:
            return None
        return array.dtype.name if np.issubdtype(array.dtype, np.integer) else "string"


def _ids(codes: CodeArray) -> zarr.Array[Any] | None:
    group = open_group(codes.path)
    return array_in(group, "ids") if "ids" in group else None


def _pick(array: zarr.Array[Any], rows: Int64) -> NDArray[Any]:
    wanted, places = np.unique(rows, return_inverse=True)
    if not len(wanted):
        return np.asarray(array[:0])
    return np.asarray(array.oindex[wanted])[places]


def _plain(ids: NDArray[Any]) -> Ids:
    if np.issubdtype(ids.dtype, np.integer):
        return ids
    return np.array([str(value) for value in ids.tolist()], dtype=object)
