"""A folder whose files appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqpipe.errors import OutputError

# Of files that are being written, here and by Zarr.
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Folder:
    """A local folder.

    Attributes
    ----------
    path : str
        Absolute.
    """

    path: str

    def __truediv__(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(os.path.join(self.path, name))

    def file(self, name: str) -> str:
        """Return the path of a file in this folder."""
        return os.path.join(self.path, name)

    def has(self, name: str) -> bool:
        """Say whether a file or folder of this name is there."""
        return os.path.exists(self.file(name))

    def names(self) -> list[str]:
        """Return the sorted names of what is in the folder; none where there is no folder."""
        try:
            return sorted(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def create(self) -> None:
        """Make the folder and its parents.

        Raises
        ------
        OutputError
            If something else is in the way or nothing may be written there.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "no permission to write")
        except (FileExistsError, NotADirectoryError):
            raise OutputError(
                f"output {self.path}: a file is in the way of the folder; name another output or "
                "move the file"
            ) from None
        except OSError as error:
            raise OutputError(
                f"output {self.path}: cannot be written ({error.strerror}); give the user who runs this "
                "the right to write there, or name another output"
            ) from error

    def read_bytes(self, name: str) -> bytes:
        """Return a file's bytes."""
        return Path(self.file(name)).read_bytes()

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.writing(name) as path:
            Path(path).write_bytes(data)

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write a file, whole, unless there is one; say whether it was written. One of many callers wins."""
        return self._exchange(name, None, data)

    def replace_bytes(self, name: str, data: bytes, expected: bytes) -> bool:
        """Write a file, whole, if it holds what is expected; say whether it was written. One of many callers wins."""
        return self._exchange(name, expected, data)

    def remove_bytes(self, name: str, expected: bytes) -> bool:
        """Remove a file if it holds what is expected; say whether it was removed."""
        return self._exchange(name, expected, None)

    def _exchange(self, name: str, expected: bytes | None, data: bytes | None) -> bool:
        with self._locked(f".{name}.lock"):
            found = self.read_bytes(name) if self.has(name) else None
            if found != expected:
                return False
            if data is None:
                self.remove(name)
            else:
                self.write_bytes(name, data)
            return True

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Keep others out, of all processes on all hosts, for as long as a process lives."""
        path = self.file(name)
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Whoever had it before has removed it: then it locks nobody out.
                if _is_file(path, lock):
                    try:
                        yield
                    finally:
                        os.remove(path)
                    return
            finally:
                os.close(lock)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a file's JSON object.

        Raises
        ------
        OutputError
            If the file holds something else.
        """
        try:
            value = json.loads(self.read_bytes(name))
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

    @contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """Give a path to write to; what is there afterwards takes the name at once.

        The bytes are on the disk before the name is: a crash leaves the old file or the new one.
        """
        partial = self.file(f"{name}.{os.getpid()}{PARTIAL}")
        try:
            yield partial
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, self.file(name))
        finally:
            if os.path.exists(partial):
                os.remove(partial)

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it, if it is there."""
        path = self.file(name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)

    def free_bytes(self) -> int:
        """Return the free space of the disk that holds, or would hold, this folder."""
        return shutil.disk_usage(self.nearest()).free

    def nearest(self) -> Path:
        """Return the nearest path above that exists: this folder, if it does."""
        path = Path(self.path)
        while not path.exists():
            path = path.parent
        return path

    def size_bytes(self) -> int:
        """Return the size of all files in the folder."""
        found = (
            os.path.join(root, name) for root, _, names in os.walk(self.path) for name in names
        )
        return sum(os.path.getsize(path) for path in found)


def _is_file(path: str, handle: int) -> bool:
    """Say whether a path still names the file that a handle is of."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
