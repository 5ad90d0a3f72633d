"""``.npz`` files (numpy.savez): a zip file of npy files; a member that is stored as it is, is read in place."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from vqpipe.errors import SourceError
from vqpipe.sources import npy
from vqpipe.sources.flat_file import file_size, file_stamps, read_at, share_file
from vqpipe.sources.part import Part, Reader, check_unchanged, shorten
from vqpipe.storage.place import place_of

# A member takes some 60 bytes in the directory, and ten times that once it is unpacked.
_MAX_DIRECTORY_BYTES = 4 << 20

# Each member's header is read to find the only table among them.
_MOST_MEMBERS = 1000

# A message that lists more members than this is not read.
_MOST_LISTED = 10

# What stands before a member's name: signature, version, flags, method, 16 bytes that the directory has too, lengths.
_LOCAL_HEAD = struct.Struct("<4s3H16x2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000

stamps = file_stamps
is_shared = share_file


class Member(NamedTuple):
    """A member of the zip file: its name, and where its bytes lie as they are."""

    name: str
    offset: int
    size: int


def describe(path: str, format: str, key: str | None) -> Part:
    """Check a member by the zip file's directory and its own headers, and describe it.

    Raises
    ------
    SourceError
        If there is no such member, more than one could be meant, it is compressed or encrypted, or no npy file.
    """
    return _find(path, format, key)[0]


def open_part(part: Part) -> Reader:
    """Open a member for reading.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    now, header, offset = _find(part.path, part.format, part.key)
    check_unchanged(part, now)
    return npy.reader_of(now, header, offset)


def _find(path: str, format: str, key: str | None) -> tuple[Part, npy.Header, int]:
    """Return the member as a part, its header, and the place of its first value in the zip file."""
    with _directory(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        info = _only_table(archive, members, path) if key is None else _named(members, path, key)
        member = _place_of_member(archive, info, path)
    where = f"source {path}, array {member.name!r}"
    head = read_at(path, member.offset, min(member.size, npy.HEAD_BYTES))
    header = npy.parse_header(head, where)
    rows, dim = npy.check_size(header, member.size, where)
    part = Part(format, path, member.name, rows, dim, str(header.dtype), 1, 1)
    return part, header, member.offset + header.offset


@contextmanager
def _directory(path: str) -> Iterator[zipfile.ZipFile]:
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


def _named(members: list[zipfile.ZipInfo], path: str, key: str) -> zipfile.ZipInfo:
    names = Counter(info.filename for info in members)
    name = key if key in names else f"{key}.npy"
    if not names[name]:
        raise SourceError(
            f"source {path}: holds no array {key!r}; set `key` to one of {_listed(sorted(names))}"
        )
    if names[name] > 1:
        raise SourceError(
            f"source {path}: holds {names[name]} arrays {key!r}, and only one can be meant: {_DAMAGED}"
        )
    return next(info for info in members if info.filename == name)


def _only_table(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], path: str
) -> zipfile.ZipInfo:
    if not members:
        raise SourceError(
            f"source {path}: holds no array (no member that ends in .npy); write it with numpy.savez"
        )
    names = [info.filename for info in members]
    if len(set(names)) == 1:
        return _named(members, path, names[0].removesuffix(".npy"))
    if len(members) > _MOST_MEMBERS:
        raise SourceError(
            f"source {path}: holds {len(members)} arrays, so one must be named: set `key`. It holds {_listed(names)}"
        )
    shapes = {info.filename.removesuffix(".npy"): _shape(archive, info, path) for info in members}
    tables = [name for name, shape in shapes.items() if len(shape) == 2]
    if len(tables) != 1:
        listed = _listed([f"{name} {shape}" for name, shape in sorted(shapes.items())], plain=True)
        raise SourceError(
            f"source {path}: holds {len(tables)} 2-D arrays, so one must be named: set `key`. It holds {listed}"
        )
    return _named(members, path, tables[0])


def _shape(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> tuple[int, ...]:
    """Return the shape that a member's header gives, compressed or not."""
    _check_readable(info, path)
    with archive.open(info) as file:
        head = file.read(npy.HEAD_BYTES)
    return npy.parse_header(head, _where(info, path)).shape


def _listed(names: list[str], *, plain: bool = False) -> str:
    shown = [name if plain else shorten(name.removesuffix(".npy")) for name in names[:_MOST_LISTED]]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(shown) + more


def _where(info: zipfile.ZipInfo, path: str) -> str:
    return f"source {path}, array {shorten(info.filename.removesuffix('.npy'))}"


def _check_readable(info: zipfile.ZipInfo, path: str) -> None:
    where = _where(info, path)
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(f"{where}: is encrypted; write it again with numpy.savez")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(
            f"{where}: is packed by method {info.compress_type}, which numpy does not write; write it again with "
            "numpy.savez"
        )


def _place_of_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> Member:
    """Hold what the directory says of a member against what stands before it, and return where its bytes lie."""
    where = _where(info, path)
    _check_readable(info, path)
    if info.compress_type != zipfile.ZIP_STORED:
        raise SourceError(
            f"{where}: is compressed (numpy.savez_compressed), so no row can be found in it without unpacking all "
            "before it; write it again with numpy.savez, or as .npy or Zarr"
        )
    begin = info.header_offset
    head = read_at(path, begin, _LOCAL_HEAD.size) if begin >= 0 else b""
    if len(head) < _LOCAL_HEAD.size:
        raise SourceError(f"{where}: should begin at byte {begin}, outside of the file: {_DAMAGED}")
    signature, _, flags, method, name_length, extra_length = _LOCAL_HEAD.unpack(head)
    name_at = begin + _LOCAL_HEAD.size
    name = read_at(path, name_at, name_length)
    alike = (signature, flags & _ENCRYPTED, method) == (b"PK\3\4", 0, zipfile.ZIP_STORED)
    if not alike or name != info.orig_filename.encode("utf-8" if flags & 0x800 else "cp437"):
        raise SourceError(
            f"{where}: what stands before it at byte {begin} says otherwise than the zip file's "
            f"directory: {_DAMAGED}"
        )
    offset = name_at + name_length + extra_length
    if info.compress_size != info.file_size or offset + info.file_size > archive.start_dir:
        raise SourceError(
            f"{where}: should have {info.file_size} bytes from byte {offset} on ({info.compress_size} as stored), and "
            f"the members end at byte {archive.start_dir}: {_DAMAGED}"
        )
    return Member(info.filename.removesuffix(".npy"), offset, info.file_size)


_DAMAGED = "the file is damaged; write it again with numpy.savez"


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
                f"read: {_DAMAGED}, or with fewer arrays"
            )
        data = bytearray(count)
        filled = self._ranges.fill(memoryview(data), self._at)
        self._at += filled
        return bytes(data[:filled])

    def close(self) -> None:
        self._ranges.close()
        super().close()
