"""A place: what a folder of this machine and a prefix of an object store can both do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Protocol

from vqpipe.storage.disk import Disk
from vqpipe.storage.objects.objects import Objects
from vqpipe.storage.objects.web import Web
from vqpipe.urls import is_url, is_web

# What tells the state of a stored object: its size in bytes and its mtime in ns; in an object store, its ETag.
State = tuple[int, int | str]


class RangeReader(Protocol):
    """Something open, read at any place."""

    def fill(self, view: memoryview[Any], offset: int) -> int:
        """Fill a buffer with the bytes from ``offset`` on; return how many there were."""

    def close(self) -> None:
        """Close what is open."""


class Place(Protocol):
    """Where things are stored. All paths are whole: absolute, or URLs.

    What is not there is a FileNotFoundError unless said otherwise.
    """

    def exists(self, path: str) -> bool:
        """Say whether a file or folder is there."""

    def is_folder(self, path: str) -> bool:
        """Say whether a folder is there."""

    def size(self, path: str) -> int:
        """Return a file's bytes; of a folder, an IsADirectoryError."""

    def stamp(self, path: str) -> State:
        """Return what tells a file's state."""

    def stamps(self, folder: str, names: Iterable[str]) -> Iterator[State | None]:
        """Yield the stamps of files in a folder; None where there is none."""

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder; none where there is no folder."""

    def folders(self, path: str) -> list[str]:
        """Return the sorted names of the folders in a folder."""

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield the path inside a folder, and the size, of every file below it."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""

    def recall(self, path: str) -> bytes:
        """Return a file's bytes as `read` does, or as this process has seen them within a view (see there)."""

    def read_small(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Yield what many small files hold, in order; None where there is none."""

    def opened(self, path: str) -> RangeReader:
        """Open a file for reading at any place."""

    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Give a file to read from, which can be sought in."""

    def local_copy(self, path: str) -> AbstractContextManager[str]:
        """Give a local path that holds a file's bytes."""

    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Give a file to write to; at the end, and only without an error, it takes its name, whole."""

    def exchange(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        """Write a file, whole, if it holds what is expected; say whether this call did. One of many callers wins.

        None stands for no file, in either place.
        """

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all that is in it, if it is there."""

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents; OutputError where that cannot be."""

    def check_writable(self, path: str) -> None:
        """Refuse a folder that could not be made or written to, with an OutputError. Writes nothing."""

    def free_bytes(self, path: str) -> int | None:
        """Return the free space where a folder is or would be; None where there is no bound."""


_DISK, _OBJECTS, _WEB = Disk(), Objects(), Web()


def place_of(path: str) -> Place:
    """Return where a path leads."""
    if is_web(path):
        return _WEB
    return _OBJECTS if is_url(path) else _DISK
