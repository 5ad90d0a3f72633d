"""Web servers as places that are read: what they give to everyone, each file by its own address. They list nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, NoReturn

from vqpipe.errors import AccessError, OutputError
from vqpipe.storage.objects import requests
from vqpipe.storage.objects.objects import Objects
from vqpipe.storage.objects.view import Meta
from vqpipe.urls import join

# Without a listing nothing else tells a folder.
_METADATA = ("zarr.json", ".zarray", ".zgroup")


class Web(Objects):
    """Web servers as a `Place`; see there. The only folders are Zarr's, told by their metadata; nothing is written."""

    def exists(self, path: str) -> bool:
        """Say whether a file, or a Zarr folder, is there."""
        return self._head(path) is not None or self.is_folder(path)

    def is_folder(self, path: str) -> bool:
        """Say whether Zarr's metadata lies under an address."""
        return bool(self.names(path))

    def names(self, path: str) -> list[str]:
        """Return the names of Zarr's metadata under an address: a server lists nothing, and has these by name."""
        return sorted(name for name in _METADATA if self._head(join(path, name)) is not None)

    def folders(self, path: str) -> list[str]:
        """Refuse to list."""
        raise AccessError(
            f"{path}: a web server lists no folders, so what is in one must be named by its address"
        )

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Refuse to list."""
        self.folders(path)
        yield from ()

    def stamp(self, path: str) -> Meta:
        """Return the size in bytes and the ETag, or else the time of the last change."""
        found = self._head(path)
        if found is not None:
            return found
        if self.is_folder(path):
            raise IsADirectoryError(21, "is a folder, where a file is expected", path)
        raise FileNotFoundError(2, "there is no such file", path)

    def stamps(self, folder: str, names: Iterable[str]) -> Iterator[Meta | None]:
        """Yield the stamps of files under an address, many asked for at once; None where there is none."""
        yield from requests.head_many([join(folder, name) for name in names])

    def recall(self, path: str) -> bytes:
        """Return a file's bytes, through the view."""
        try:
            return super().recall(path)
        except AccessError:
            # Buckets that are open to the web but not listed say 403 of what they do not have.
            raise FileNotFoundError(2, "there is no such file, or not for everyone", path) from None

    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:  # type: ignore[override]
        """Refuse to write."""
        _refuse(path)

    def exchange(self, path: str, expected: bytes | None, data: bytes | None) -> bool:  # noqa: ARG002
        """Refuse to write."""
        _refuse(path)

    def remove(self, path: str) -> None:
        """Refuse to remove."""
        _refuse(path)

    def make_folder(self, path: str) -> None:
        """Refuse to write."""
        _refuse(path)

    def check_writable(self, path: str) -> None:
        """Refuse every address."""
        _refuse(path)

    def _head(self, path: str) -> Meta | None:
        try:
            return requests.ask_head(path)
        except AccessError:
            return None


def _refuse(path: str) -> NoReturn:
    raise OutputError(
        f"output {path}: a web server is only read from; name a folder, or a URL of s3, gs or az"
    )
