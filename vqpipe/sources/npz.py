"""``.npz`` files (numpy.savez): a zip file of npy files.

A member that is stored as it is, is read in place. A compressed one (numpy.savez_compressed) can only be read
forward, so the ingest stage converts it.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources import npy
from vqpipe.sources.flat_file import file_stamps, read_at, share_file
from vqpipe.sources.part import Batch, Part, Reader, Rows, Stream, check_unchanged, shorten
from vqpipe.sources.zip_file import DAMAGED, is_packed, opened_zip, stored_offset

# Each member's header is read to find the only table among them.
_MOST_MEMBERS = 1000

# A message that lists more members than this is not read.
_MOST_LISTED = 10

# Of a compressed member so much is unpacked at a time.
_STEP_BYTES = 1 << 20

stamps = file_stamps
is_shared = share_file


class _Member(NamedTuple):
    """A member as a part, what its own header says, and where its values lie; None where they are compressed."""

    part: Part
    header: npy.Header
    offset: int | None


def describe(path: str, format: str, key: str | None) -> Part:
    """Check a member by the zip file's directory and its own headers, and describe it.

    Raises
    ------
    SourceError
        If there is no such member, more than one could be meant, it is encrypted, or no npy file.
    """
    return _find(path, format, key).part


def open_part(part: Part) -> Reader:
    """Open a member for reading; of a compressed one, as is good for a few rows such as queries.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    now, header, offset = _find(part.path, part.format, part.key)
    check_unchanged(part, now)
    if offset is None:
        return _PackedReader(now, header)
    return npy.reader_of(now, header, offset)


def must_convert(part: Part) -> bool:
    """Say whether a member is compressed."""
    with opened_zip(part.path) as archive:
        info = _choose(archive, part.path, part.key)
        return is_packed(info, _where(info, part.path))


def starts(part: Part) -> tuple[int, ...]:
    """Return the one row where unpacking can begin: the first."""
    return (0,)


def ids_dtype(part: Part, ids: str) -> str:
    """Refuse ids.

    Raises
    ------
    SourceError
    """
    raise SourceError(
        f"source.ids {ids!r}: {part} holds no column of ids beside its vectors; leave out source.ids"
    )


def open_stream(part: Part, ids: str | None) -> Stream:
    """Open a compressed member for reading forward.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    now, header, _ = _find(part.path, part.format, part.key)
    check_unchanged(part, now)
    return _PackedStream(now, header)


def _find(path: str, format: str, key: str | None) -> _Member:
    with opened_zip(path) as archive:
        info = _choose(archive, path, key)
        where = _where(info, path)
        packed = is_packed(info, where)
        if packed:
            begin, head = 0, _head(archive, info)
        else:
            begin = stored_offset(archive, info, path, where)
            head = read_at(path, begin, min(info.file_size, npy.HEAD_BYTES))
    header = npy.parse_header(head, where)
    rows, dim = npy.check_size(header, info.file_size, where)
    if packed and header.fortran and rows > 1 and dim > 1:
        raise SourceError(
            f"{where}: is compressed and in Fortran order, so its first row is complete only when all is unpacked; "
            "write it again in C order (numpy.ascontiguousarray), or with numpy.savez"
        )
    name = info.filename.removesuffix(".npy")
    part = Part(format, path, name, rows, dim, str(header.dtype), 1, 1)
    return _Member(part, header, None if packed else begin + header.offset)


def _choose(archive: zipfile.ZipFile, path: str, key: str | None) -> zipfile.ZipInfo:
    members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    return _only_table(archive, members, path) if key is None else _named(members, path, key)


def _named(members: list[zipfile.ZipInfo], path: str, key: str) -> zipfile.ZipInfo:
    names = Counter(info.filename for info in members)
    name = key if key in names else f"{key}.npy"
    if not names[name]:
        raise SourceError(
            f"source {path}: holds no array {key!r}; set `key` to one of {_listed(sorted(names))}"
        )
    if names[name] > 1:
        raise SourceError(
            f"source {path}: holds {names[name]} arrays {key!r}, and only one can be meant: {DAMAGED}"
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
    where = _where(info, path)
    is_packed(info, where)
    return npy.parse_header(_head(archive, info), where).shape


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        return file.read(npy.HEAD_BYTES)


def _listed(names: list[str], *, plain: bool = False) -> str:
    shown = [name if plain else shorten(name.removesuffix(".npy")) for name in names[:_MOST_LISTED]]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(shown) + more


def _where(info: zipfile.ZipInfo, path: str) -> str:
    return f"source {path}, array {shorten(info.filename.removesuffix('.npy'))}"


class _PackedStream:
    """Reads the rows of a compressed member forward.

    Parameters
    ----------
    part : Part
    header : npy.Header
    """

    def __init__(self, part: Part, header: npy.Header) -> None:
        self._part, self._header = part, header
        self._stack = ExitStack()
        try:
            archive = self._stack.enter_context(opened_zip(part.path))
            info = _choose(archive, part.path, part.key)
            self._file = self._stack.enter_context(archive.open(info))
            self._row = 0
            self._skip(header.offset)
        except BaseException:
            self.close()
            raise

    @property
    def row(self) -> int:
        """The row that comes next."""
        return self._row

    def read(self, start: int, stop: int) -> Batch:
        """Return the part's rows ``start:stop``, which are not before those that were read."""
        part = self._part
        self._skip((start - self._row) * part.row_bytes)
        rows: Rows = np.empty((stop - start, part.dim), part.dtype)
        view = memoryview(rows.reshape(-1).view(np.uint8).data)
        filled = 0
        while filled < len(view):
            data = self._take(len(view) - filled)
            view[filled : filled + len(data)] = data
            filled += len(data)
        self._row = stop
        return Batch(rows.astype(part.native_dtype, copy=False))

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self._take(count))

    def _take(self, most: int) -> bytes:
        data = self._file.read(min(most, _STEP_BYTES))
        if not data:
            raise SourceError(f"{self._part}: breaks off when it is unpacked: {DAMAGED}")
        return data

    def close(self) -> None:
        """Close the file."""
        self._stack.close()


class _PackedReader:
    """Reads rows in place: what lies before the last ones is found by unpacking from the first on."""

    def __init__(self, part: Part, header: npy.Header) -> None:
        self._part, self._header = part, header
        self._stream = _PackedStream(part, header)

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        if start < self._stream.row:
            self._stream.close()
            self._stream = _PackedStream(self._part, self._header)
        return self._stream.read(start, stop).rows

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
