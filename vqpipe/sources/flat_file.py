"""A flat file: values at places that can be computed, on a disk or in an object store. Read by ranges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.part import Part, Rows, Stamp
from vqpipe.storage.disk import IrregularError
from vqpipe.storage.place import place_of
from vqpipe.urls import is_url, is_web, split


def file_size(path: str) -> int:
    """Return the bytes of an ordinary file.

    Raises
    ------
    SourceError
        If there is none, or it is a folder or a device.
    """
    try:
        return place_of(path).size(path)
    except FileNotFoundError:
        raise SourceError(f"source {path}: {missing(path, 'file')}") from None
    except IsADirectoryError:
        raise SourceError(
            f"source {path}: is a folder, where a file is expected; for all files of one kind in "
            "it write a pattern such as FOLDER/*.npy"
        ) from None
    except IrregularError:
        raise SourceError(
            f"source {path}: is no ordinary file, so no row can be found in it"
        ) from None


def read_at(path: str, offset: int, count: int) -> bytes:
    """Return ``count`` bytes of a file from ``offset`` on; fewer where it ends before."""
    data = bytearray(count)
    with closing(place_of(path).opened(path)) as file:
        return bytes(data[: file.fill(memoryview(data), offset)])


def missing(path: str, what: str) -> str:
    """Say that there is no such file or folder, and what to look at."""
    if is_web(path):
        return "the web server has no such file, or does not give it to everyone; check the address"
    if is_url(path):
        return "there is no such object; check the bucket and the name"
    return f"there is no such {what}; check the path, and that this machine mounts it"


def refuse_key(path: str, format: str, key: str | None) -> None:
    """Refuse a key where a file holds one array only.

    Raises
    ------
    SourceError
    """
    if key is not None:
        raise SourceError(
            f"source {path}: key {key!r} names an array among several, but a {format} file "
            "holds one: leave out `key`"
        )


def stamp_file(path: str) -> Stamp:
    """Return the file's name without its folder, its size in bytes and its mtime in ns, or ETag."""
    size, state = place_of(path).stamp(path)
    return split(path)[1], size, state


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
        self._file = place_of(path).opened(path)

    def fill(self, array: Rows, offset: int) -> None:
        """Fill a contiguous array with the bytes from ``offset`` on.

        Raises
        ------
        SourceError
            If the file ends before the array is full.
        """
        view = memoryview(array.reshape(-1).view(np.uint8).data)
        filled = self._file.fill(view, offset)
        if filled < len(view):
            raise SourceError(
                f"source {self.path}: ends at byte {offset + filled}, {len(view) - filled} bytes "
                "before the end of these rows; it was cut since it was opened: write it again"
            )

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
