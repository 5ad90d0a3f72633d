"""A zip file, on a disk or in a store: its directory, and where a member's bytes lie. Nothing it says is believed."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager

from vqpipe.errors import SourceError
from vqpipe.sources.flat_file import file_size, read_at
from vqpipe.storage.place import place_of

# A member takes some 60 bytes in the directory, and ten times that once it is unpacked.
_MAX_DIRECTORY_BYTES = 4 << 20

# What stands before a member's name: signature, version, flags, method, 16 bytes that the directory has too, lengths.
_LOCAL_HEAD = struct.Struct("<4s3H16x2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000

DAMAGED = "the file is damaged; write it again with numpy.savez"


@contextmanager
def opened_zip(path: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip file.

    Raises
    ------
    SourceError
        If there is none, or its directory is damaged or too large.
    """
    with closing(_RangeFile(path)) as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise SourceError(
                f"source {path}: is no zip file, which an npz file is ({error}); it was cut, or is of another "
                "format: write it again with numpy.savez, or set `format`"
            ) from error
        with archive:
            yield archive


def is_packed(info: zipfile.ZipInfo, where: str) -> bool:
    """Say whether a member is compressed.

    Raises
    ------
    SourceError
        If it is encrypted, or compressed by a method that numpy does not use.
    """
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(f"{where}: is encrypted; write it again with numpy.savez")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(
            f"{where}: is packed by method {info.compress_type}, which numpy does not write; write it again with "
            "numpy.savez"
        )
    return info.compress_type != zipfile.ZIP_STORED


def stored_offset(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str, where: str) -> int:
    """Return the place in the file of the first byte of a member that is stored as it is.

    Raises
    ------
    SourceError
        If what stands before the member, or its size, is not what the directory says.
    """
    begin = info.header_offset
    head = read_at(path, begin, _LOCAL_HEAD.size) if begin >= 0 else b""
    if len(head) < _LOCAL_HEAD.size:
        raise SourceError(f"{where}: should begin at byte {begin}, outside of the file: {DAMAGED}")
    signature, _, flags, method, name_length, extra_length = _LOCAL_HEAD.unpack(head)
    name_at = begin + _LOCAL_HEAD.size
    name = read_at(path, name_at, name_length)
    alike = (signature, flags & _ENCRYPTED, method) == (b"PK\3\4", 0, zipfile.ZIP_STORED)
    if not alike or name != info.orig_filename.encode("utf-8" if flags & 0x800 else "cp437"):
        raise SourceError(
            f"{where}: what stands before it at byte {begin} says otherwise than the zip file's directory: {DAMAGED}"
        )
    offset: int = name_at + name_length + extra_length
    if info.compress_size != info.file_size or offset + info.file_size > archive.start_dir:
        raise SourceError(
            f"{where}: should have {info.file_size} bytes from byte {offset} on ({info.compress_size} as stored), and "
            f"the members end at byte {archive.start_dir}: {DAMAGED}"
        )
    return offset


class _RangeFile(io.RawIOBase):
    """A file, on a disk or in a store, as `zipfile` reads it: only as much at once as a directory may have."""

    def __init__(self, path: str) -> None:
        self._path, self._at, self._size = path, 0, file_size(path)
        self._ranges = place_of(path).opened(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"{self._path}: byte {base + offset} lies before the file")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        if count > _MAX_DIRECTORY_BYTES:
            raise SourceError(
                f"source {self._path}: its zip directory should have {count} bytes; at most {_MAX_DIRECTORY_BYTES} are "
                f"read: {DAMAGED}, or with fewer arrays"
            )
        data = bytearray(count)
        filled = self._ranges.fill(memoryview(data), self._at)
        self._at += filled
        return bytes(data[:filled])

    def close(self) -> None:
        self._ranges.close()
        super().close()
