"""A flat file: values at places that can be computed. Read by plain reads.

A memory map would end the worker with SIGBUS when the file shrinks under it; a short read is an
error that can be told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.part import Part, Rows, Stamp


def file_size(path: str) -> int:
    """Return the bytes of an ordinary file.

    Raises
    ------
    SourceError
        If there is none, or it is a folder or a device.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise SourceError(
            f"source {path}: there is no such file; check the path, and that this machine mounts it"
        ) from None
    if stat.S_ISDIR(found.st_mode):
        raise SourceError(
            f"source {path}: is a folder, where a file is expected; for all files of one kind in "
            "it write a pattern such as FOLDER/*.npy"
        )
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"source {path}: is no ordinary file, so no row can be found in it")
    return found.st_size


def refuse_key(path: str, format: str, key: str | None) -> None:
    """Refuse a key where a file holds one array only.

    Raises
    ------
    SourceError
    """
    if key is not None:
        raise SourceError(
            f"source {path}: key {key!r} names an array inside a Zarr group, but a {format} file "
            "holds one array: leave out `key`"
        )


def stamp_file(path: str) -> Stamp:
    """Return the file's name without its folder, its size in bytes and its mtime in ns."""
    found = os.stat(path)
    return os.path.basename(path), found.st_size, found.st_mtime_ns


def file_stamps(part: Part, start: int, stop: int) -> Iterator[Stamp]:
    """Yield the one stamp of a flat file, whatever its rows."""
    yield stamp_file(part.path)


def share_file(part: Part) -> bool:
    """Say that all rows share the one file."""
    return True


class FlatFile:
    """An open flat file.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()

    def fill(self, array: Rows, offset: int) -> None:
        """Fill a contiguous array with the bytes from ``offset`` on.

        Raises
        ------
        SourceError
            If the file ends before the array is full.
        """
        view = memoryview(array.reshape(-1).view(np.uint8).data)
        self._file.seek(offset)
        # The kernel hands over at most 2 GiB at a time.
        while view:
            count = self._file.readinto(view)
            if not count:
                raise SourceError(
                    f"source {self.path}: ends at byte {self._file.tell()}, {len(view)} bytes "
                    "before the end of these rows; it was cut since it was opened: write it again"
                )
            view = view[count:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RowsReader(FlatFile):
    """Reads rows that lie one after another from ``offset`` on.

    Parameters
    ----------
    part : Part
    offset : int
        Bytes before the first row.
    """

    def __init__(self, part: Part, offset: int) -> None:
        super().__init__(part.path)
        self._part = part
        self._offset = offset

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        part = self._part
        rows = np.empty((stop - start, part.dim), part.dtype)
        self.fill(rows, self._offset + start * part.row_bytes)
        return rows.astype(part.native_dtype, copy=False)
