"""Ids of rows: integers, or text as Zarr's ``string`` (UTF-8 of any length); chunk by chunk, hashed as they come."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from vqpipe.storage.arrays import AXES, divisor_at_most, make_integers

# Integers of a dtype, or NumPy's strings.
Ids = NDArray[Any]

# What ids of text are called, as Zarr calls them.
TEXT = "string"

# An id is a key, not a text: chunks of them are held in memory.
MOST_ID_BYTES = 1024

# Ids of so many rows are held, and stored, together: of text 64 MB at the very most.
CHUNK_ROWS = 1 << 16

# NumPy's strings take 16 bytes beside their UTF-8, Python's, which Zarr's codec makes of them, about 50.
_TEXT_BYTES = 66


def chunk_bytes(dtype: str) -> int:
    """Return the most bytes that the ids of one chunk take in memory."""
    if dtype == TEXT:
        return CHUNK_ROWS * (2 * MOST_ID_BYTES + _TEXT_BYTES)
    return CHUNK_ROWS * np.dtype(dtype).itemsize


def make_ids(
    group: zarr.Group, name: str, rows: int, dtype: str, chunk_rows: int
) -> zarr.Array[Any]:
    """Create an array of ids, one object a chunk."""
    if dtype != TEXT:
        return make_integers(group, name, (rows,), dtype, chunk_rows)
    return group.create_array(
        name,
        shape=(rows,),
        chunks=(chunk_rows,),
        dtype=TEXT,
        compressors=[ZstdCodec(), Crc32cCodec()],
        fill_value="",
        # An id may be empty: what is missing is damaged.
        config={"write_empty_chunks": True},
        dimension_names=AXES.get(name),
        overwrite=True,
    )


def chunk_rows_in(shard_rows: int) -> int:
    """Return the rows of a chunk of ids: a divisor of the shard's rows, or all of them where none is worth it."""
    chunk = divisor_at_most(shard_rows, CHUNK_ROWS)
    return chunk if chunk >= CHUNK_ROWS // 64 else shard_rows


def dtype_of(array: zarr.Array[Any]) -> str:
    """Return what ids are called: numpy's name of their integers, or ``string``."""
    return array.dtype.name if array.dtype.kind in "iu" else TEXT


class IdsHash:
    """The SHA-256 of ids, the same however they are cut into pieces."""

    def __init__(self) -> None:
        self._values = hashlib.sha256()
        self._lengths = hashlib.sha256()

    def update(self, ids: Ids) -> None:
        """Add the ids of further rows, as they are stored."""
        if ids.dtype.kind in "iu":
            self._values.update(ids.astype(ids.dtype.newbyteorder("<")).tobytes())
            return
        # Lengths tell "ab", "c" from "a", "bc".
        self._lengths.update(np.strings.str_len(ids).astype("<i8").tobytes())
        self._values.update("".join(ids.tolist()).encode())

    def digest(self) -> bytes:
        """Return 32 bytes."""
        return hashlib.sha256(self._lengths.digest() + self._values.digest()).digest()
