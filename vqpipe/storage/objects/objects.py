"""Prefixes of object stores as places: what a folder is to a disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import obstore

from vqpipe.storage.objects import requests
from vqpipe.storage.objects.view import Meta, current_view
from vqpipe.urls import join, split


class Objects:
    """Object stores as a `Place`; see there. A folder is there while something is in it."""

    def exists(self, path: str) -> bool:
        """Say whether an object, or anything under its name as a prefix, is there."""
        folder, name = split(path)
        if not name:
            return True
        view = current_view()
        if view is not None:
            return name in requests.listing(folder)
        return requests.head(path) is not None or self.is_folder(path)

    def is_folder(self, path: str) -> bool:
        """Say whether anything lies under a prefix."""
        folder, name = split(path)
        if not name:
            return True
        view = current_view()
        if view is not None:
            return name in requests.listing(folder).folders
        found = requests.list_here(path)
        return bool(found.folders or found.objects)

    def size(self, path: str) -> int:
        """Return an object's bytes."""
        return self.stamp(path)[0]

    def stamp(self, path: str) -> Meta:
        """Return the size in bytes and the ETag."""
        found = requests.head(path)
        if found is not None:
            return found
        if self.is_folder(path):
            raise IsADirectoryError(21, "is a folder, where a file is expected", path)
        raise FileNotFoundError(2, "there is no such object", path)

    def stamps(self, folder: str, names: Iterable[str]) -> Iterator[Meta | None]:
        """Yield the stamps of objects in a folder; None where there is none."""
        wanted = list(names)
        # A listing tells a thousand; for a few it may list a thousand others.
        if current_view() is not None or len(wanted) > requests.REQUESTS_AT_ONCE:
            tree = requests.tree(folder)
            yield from (tree.get(name) for name in wanted)
        else:
            yield from (requests.head(join(folder, name)) for name in wanted)

    def names(self, path: str) -> list[str]:
        """Return the sorted names under a prefix."""
        found = requests.listing(path)
        return sorted({*found.folders, *found.objects})

    def folders(self, path: str) -> list[str]:
        """Return the sorted names of the prefixes under a prefix."""
        return sorted(requests.listing(path).folders)

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield the path under a prefix, and the size, of every object below it."""
        yield from ((name, meta.size) for name, meta in sorted(requests.tree(path).items()))

    def read(self, path: str) -> bytes:
        """Return an object's bytes, as they are now."""
        data = requests.read_version(path)
        if data is None:
            raise FileNotFoundError(2, "there is no such object", path)
        return data

    def recall(self, path: str) -> bytes:
        """Return an object's bytes, through the view."""
        data = requests.recall(path)
        if data is None:
            raise FileNotFoundError(2, "there is no such object", path)
        return data

    def read_small(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Yield what objects hold, in order, many asked for at once; None where there is none."""
        yield from requests.get_many(list(paths))

    def opened(self, path: str) -> ObjectRanges:
        """Open an object for reading at any place."""
        return ObjectRanges(path)

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        """Give a file that holds an object's bytes."""
        with tempfile.SpooledTemporaryFile(requests.BUFFER_BYTES) as file:
            requests.download(path, file)  # type: ignore[arg-type]
            yield file  # type: ignore[misc]

    @contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        """Give the path of a temporary file that holds an object's bytes."""
        with tempfile.NamedTemporaryFile(suffix=f"-{split(path)[1]}") as file:
            requests.download(path, file)  # type: ignore[arg-type]
            file.flush()
            yield file.name

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """Give a file to write to; at the end, and only without an error, the object takes its name, whole."""
        with tempfile.SpooledTemporaryFile(requests.BUFFER_BYTES) as file:
            yield file  # type: ignore[misc]
            requests.upload(path, file)  # type: ignore[arg-type]

    def exchange(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        """Write an object, whole, if it holds what is expected; say whether this call did.

        No store removes under a condition, so what is removed is an empty object from then on.
        """
        return requests.put_once(path, data or b"", expected)

    def remove(self, path: str) -> None:
        """Remove an object, and everything under its name as a prefix."""
        store, key = requests.open_key(path)
        below = [f"{key}/{name}" for name in requests.list_tree(path)]
        if below:
            requests.persistently(path, lambda: obstore.delete(store, below))
        requests.delete(path)

    def make_folder(self, path: str) -> None:
        """Do nothing: a prefix is there with the first object in it."""

    def check_writable(self, path: str) -> None:
        """Refuse a prefix of a bucket that is not there or may not be listed. Writes nothing."""
        requests.listing(path)

    def free_bytes(self, path: str) -> int | None:  # noqa: ARG002 - as every place is asked
        """Return None: a store has no bound that is known."""
        return None


class ObjectRanges:
    """An object, read by ranges."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._store, self._key = requests.open_key(url)

    def fill(self, view: memoryview[Any], offset: int) -> int:
        """Fill a buffer with the bytes from ``offset`` on; return how many there were."""
        if not len(view):
            return 0
        try:
            found = requests.persistently(
                self._url,
                lambda: obstore.get_range(self._store, self._key, start=offset, length=len(view)),
            )
        except EOFError:
            return 0
        view[: len(found)] = memoryview(found)
        return len(found)

    def close(self) -> None:
        """Do nothing: the bucket keeps its connections."""
