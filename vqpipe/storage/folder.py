"""A folder whose files appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

from vqpipe.errors import OutputError
from vqpipe.storage.place import Place, place_of
from vqpipe.urls import join


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, on this machine or in an object store.

    Attributes
    ----------
    path : str
        Absolute, or a URL.
    """

    path: str

    def __truediv__(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(join(self.path, name))

    @property
    def _place(self) -> Place:
        return place_of(self.path)

    def file(self, name: str) -> str:
        """Return the path of a file in this folder."""
        return join(self.path, name)

    def has(self, name: str) -> bool:
        """Say whether a file or folder of this name is there."""
        return self._place.exists(self.file(name))

    def names(self) -> list[str]:
        """Return the sorted names of what is in the folder; none where there is no folder."""
        return self._place.names(self.path)

    def create(self) -> None:
        """Make the folder and its parents.

        Raises
        ------
        OutputError
            If something else is in the way or nothing may be written there.
        """
        self._place.make_folder(self.path)

    def check_writable(self) -> None:
        """Refuse a folder that could not be made or written to. Writes nothing.

        Raises
        ------
        OutputError
        """
        self._place.check_writable(self.path)

    def read_bytes(self, name: str) -> bytes:
        """Return a file's bytes."""
        return self._place.read(self.file(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.writing(name) as file:
            file.write(data)

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write a file, whole, unless there is one; say whether it was written. One of many callers wins."""
        return self._place.exchange(self.file(name), None, data)

    def replace_bytes(self, name: str, data: bytes, expected: bytes) -> bool:
        """Write a file, whole, if it holds what is expected; say whether it was written. One of many callers wins."""
        return self._place.exchange(self.file(name), expected, data)

    def remove_bytes(self, name: str, expected: bytes) -> bool:
        """Remove a file if it holds what is expected; say whether it was removed."""
        return self._place.exchange(self.file(name), expected, None)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a file's JSON object.

        Raises
        ------
        OutputError
            If the file holds something else.
        """
        try:
            value = json.loads(self._place.recall(self.file(name)))
        # What is nested too deep ends in a RecursionError.
        except (ValueError, RecursionError) as error:
            raise OutputError(
                f"{self.file(name)}: is not JSON ({error}), so what was done here is not known"
            ) from error
        if not isinstance(value, dict):
            raise OutputError(f"{self.file(name)}: holds no JSON object; restore the file")
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON object, whole or not at all."""
        self.write_bytes(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Give a file to read from."""
        return self._place.reading(self.file(name))

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Give a file to write to; at the end, and only without an error, it takes its name, whole.

        It can be sought in and read back. A crash leaves what was there before.
        """
        return self._place.writing(self.file(name))

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it, if it is there."""
        self._place.remove(self.file(name))

    def free_bytes(self) -> int | None:
        """Return the free space where this folder is, or would be; None where there is no bound."""
        return self._place.free_bytes(self.path)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the path inside this folder, and the size, of every file below it."""
        return self._place.walk(self.path)

    def size_bytes(self) -> int:
        """Return the size of all files in the folder."""
        return sum(size for _, size in self.files())
