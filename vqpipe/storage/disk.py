"""Files and folders of this machine, and of what it mounts."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vqpipe.errors import OutputError

# Of files that are being written, here and by Zarr.
PARTIAL = ".partial"

# More than any record has: what is longer is damaged.
_MOST_SMALL_BYTES = 64


class IrregularError(OSError):
    """A path leads to a device, a pipe or a socket."""


class Disk:
    """The local file system as a `Place`; see there."""

    def exists(self, path: str) -> bool:
        """Say whether a file or folder is there."""
        return os.path.exists(path)

    def is_folder(self, path: str) -> bool:
        """Say whether a folder is there."""
        return os.path.isdir(path)

    def size(self, path: str) -> int:
        """Return the bytes of an ordinary file."""
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder, where a file is expected", path)
        if not stat.S_ISREG(found.st_mode):
            raise IrregularError(errno.EINVAL, "is no ordinary file", path)
        return found.st_size

    def stamp(self, path: str) -> tuple[int, int]:
        """Return the size in bytes and the mtime in ns."""
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns

    def stamps(self, folder: str, names: Iterable[str]) -> Iterator[tuple[int, int] | None]:
        """Yield the stamps of files in a folder; None where there is none."""
        for name in names:
            try:
                yield self.stamp(os.path.join(folder, name))
            except (FileNotFoundError, NotADirectoryError):
                yield None

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder; none where there is no folder."""
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self, path: str) -> list[str]:
        """Return the sorted names of the folders in a folder."""
        # A link could lead back up and around for ever.
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield the path inside a folder, and the size, of every file below it."""
        for root, _, names in os.walk(path):
            for name in sorted(names):
                whole = os.path.join(root, name)
                # Another process may have finished or removed it meanwhile.
                with suppress(FileNotFoundError):
                    yield os.path.relpath(whole, path), os.path.getsize(whole)

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        return Path(path).read_bytes()

    recall = read

    def read_small(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Yield what small files hold, cut after 64 bytes; None where there is none."""
        for path in paths:
            try:
                # A third of what a file object costs.
                handle = os.open(path, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                yield None
                continue
            try:
                yield os.read(handle, _MOST_SMALL_BYTES)
            finally:
                os.close(handle)

    def opened(self, path: str) -> OpenFile:
        """Open a file for reading at any place."""
        return OpenFile(path)

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        """Give a file to read from."""
        with open(path, "rb") as file:
            yield file

    @contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        """Give a local path that holds a file's bytes: its own."""
        yield path

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """Give a file to write to; what is there afterwards takes the name at once.

        The bytes are on the disk before the name is: a crash leaves the old file or the new one.
        """
        partial = f"{path}.{os.getpid()}{PARTIAL}"
        try:
            with open(partial, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.remove(partial)

    def exchange(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        """Write a file, whole, if it holds what is expected; say whether this call did. One of many callers wins."""
        folder, name = os.path.split(path)
        with _locked(os.path.join(folder, f".{name}.lock")):
            found = self.read(path) if self.exists(path) else None
            if found != expected:
                return False
            if data is None:
                self.remove(path)
                return True
            with self.writing(path) as file:
                file.write(data)
            return True

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all that is in it, if it is there."""
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents.

        Raises
        ------
        OutputError
            If something else is in the way or nothing may be written there.
        """
        try:
            os.makedirs(path, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "no permission to write")
        except (FileExistsError, NotADirectoryError):
            raise OutputError(
                f"output {path}: a file is in the way of the folder; name another output or "
                "move the file"
            ) from None
        except OSError as error:
            raise OutputError(
                f"output {path}: cannot be written ({error.strerror}); give the user who runs this "
                "the right to write there, or name another output"
            ) from error

    def check_writable(self, path: str) -> None:
        """Refuse a folder that could not be made or written to. Writes nothing.

        Raises
        ------
        OutputError
        """
        nearest = _nearest(path)
        if not nearest.is_dir():
            raise OutputError(
                f"output {path}: {nearest} is a file, and the output is a folder; name another output or move "
                "the file"
            )
        # A file system without blocks (/proc, /sys) holds nothing that is written to it.
        if not os.access(nearest, os.W_OK | os.X_OK) or not shutil.disk_usage(nearest).total:
            raise OutputError(
                f"output {path}: {nearest} cannot be written; give the user who runs this the right to write "
                "there, or name another output"
            )

    def free_bytes(self, path: str) -> int | None:
        """Return the free space of the disk that holds, or would hold, a folder."""
        return shutil.disk_usage(_nearest(path)).free


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep others out, of all processes on all hosts, for as long as a process lives."""
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


def _is_file(path: str, handle: int) -> bool:
    """Say whether a path still names the file that a handle is of."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _nearest(path: str) -> Path:
    """Return the nearest path above that exists: the path itself, if it does."""
    nearest = Path(path)
    while not nearest.exists():
        nearest = nearest.parent
    return nearest


class OpenFile:
    """An open file, read at any place by plain reads.

    A memory map would end the process with SIGBUS when the file shrinks under it; a short read is an
    error that can be told.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()

    def fill(self, view: memoryview[Any], offset: int) -> int:
        """Fill a buffer with the bytes from ``offset`` on; return how many there were."""
        self._file.seek(offset)
        filled = 0
        # The kernel hands over at most 2 GiB at a time.
        while filled < len(view):
            count = self._file.readinto(view[filled:])
            if not count:
                break
            filled += count
        return filled

    def close(self) -> None:
        """Close the file."""
        self._file.close()
