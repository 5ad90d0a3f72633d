"""Chunks of a Zarr array that lie in a folder as they are in memory, read without zarr.

zarr takes four to six times as long as the disk's cache for an uncompressed chunk (0.8 GB/s a core), which is half of
what encoding it takes. Here it is one read to where its rows belong and one look at its checksum. Whatever is
not as it should be is left to zarr, which knows what it means: a chunk that is not there holds fill values, a
wrong checksum is an error.
"""

from __future__ import annotations

import os
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from vqpipe.shards import ceil_div
from vqpipe.sources.part import Rows
from vqpipe.sources.zarr_metadata import CHECKSUM_BYTES, Layout


class PlainChunks:
    """Reads whole stored chunks of an array whose layout says that they are plain.

    Parameters
    ----------
    folder : str
        Of the array.
    layout : Layout
    """

    def __init__(self, folder: str, layout: Layout) -> None:
        self._folder, self._layout = folder, layout
        self._row_bytes = layout.shape[1] * layout.dtype.itemsize
        # The stored object that was read last: reading goes through one after the other.
        self._name, self._file = "", -1
        self._index: NDArray[np.uint64] | None = None

    def close(self) -> None:
        """Close the stored object that was read last."""
        if self._file >= 0:
            os.close(self._file)
        self._name, self._file, self._index = "", -1, None

    def read_into(self, rows: Rows, start: int) -> bool:
        """Read the rows from ``start`` on.

        Parameters
        ----------
        rows : array of shape (rows, dim)
            Filled, in C order.
        start : int

        Returns
        -------
        bool
            Whether all chunks were there, of the size that they must have, under their checksums; else the
            content of ``rows`` is of no use.
        """
        height = self._layout.chunk[0]
        stop = start + len(rows)
        for chunk in range(start // height, ceil_div(stop, height)):
            first, last = max(start, chunk * height), min(stop, (chunk + 1) * height)
            whole = last - first == height
            held = rows[first - start : last - start]
            into = held if whole else np.empty((height, rows.shape[1]), rows.dtype)
            if not self._read_chunk(chunk, into):
                return False
            if not whole:
                held[...] = into[first - chunk * height : last - chunk * height]
        return True

    def _read_chunk(self, chunk: int, into: Rows) -> bool:
        in_object = self._layout.unit[0] // self._layout.chunk[0]
        if not self._open(f"{self._layout.prefix}{chunk // in_object}{self._layout.separator}0"):
            return False
        checked = self._layout.plain == "checked"
        size = into.nbytes + (CHECKSUM_BYTES if checked else 0)
        offset = 0
        if self._index is not None:
            offset, stored = (int(value) for value in self._index[chunk % in_object])
            if stored != size or offset > os.fstat(self._file).st_size:
                return False
        elif os.fstat(self._file).st_size != size:
            return False
        values = into.reshape(-1).view(np.uint8)
        return _read_checked(self._file, values, offset, checked=checked)

    def _open(self, name: str) -> bool:
        """Open a stored object, and read its index where it is a shard."""
        if name == self._name:
            return True
        self.close()
        try:
            self._file = os.open(os.path.join(self._folder, name), os.O_RDONLY)
        except OSError:
            return False
        count = self._layout.unit[0] // self._layout.chunk[0]
        if self._layout.sharded:
            index = np.empty((count, 2), "<u8")
            offset = os.fstat(self._file).st_size - index.nbytes - CHECKSUM_BYTES
            values = index.reshape(-1).view(np.uint8)
            if offset < 0 or not _read_checked(self._file, values, offset, checked=True):
                self.close()
                return False
            self._index = index
        self._name = name
        return True


def _read_checked(file: int, values: NDArray[np.uint8], offset: int, *, checked: bool) -> bool:
    """Fill bytes from a file, and say whether they are all there and have the checksum that is behind them."""
    behind = bytearray(CHECKSUM_BYTES if checked else 0)
    wanted, done = len(values) + len(behind), 0
    while done < wanted:
        parts: list[Any] = [values[done:], memoryview(behind)[max(0, done - len(values)) :]]
        count = os.preadv(file, parts, offset + done)
        if not count:
            return False
        done += count
    return not checked or google_crc32c.value(values) == int.from_bytes(behind, "little")
