"""What an HDF5 file holds and how a table lies in it, checked before anything is read: this room's door to h5py.

A data set can send its reader to other files (external links, external storage, virtual data sets) and to
libraries that unpack it (filters): what is read here lies in the file itself and is unpacked by us, or by LZF.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.shards import ceil_div
from vqpipe.sources.flat_file import file_size
from vqpipe.sources.part import check_shape, clean_key, parse_dtype, shorten
from vqpipe.urls import is_url

# The filters' numbers are HDF5's own; LZF is h5py's.
DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
_NAMES = {DEFLATE: "gzip", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", LZF: "lzf"}

# LZF's reader takes as much memory as a chunk unpacks to, and three bytes can stand for 264. h5py's own
# choice of chunks stays below 1 MiB.
_MOST_LZF_BYTES = 4 << 20

# Looked at to find the only table among them.
_MOST_OBJECTS = 10_000

# A message that lists more data sets than this is not read.
_MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class Layout:
    """How a 2-D data set lies in its file.

    Attributes
    ----------
    rows, dim : int
    dtype : numpy.dtype
        As stored.
    offset : int or None
        Byte of the first value in the file; None where rows are not stored one after another.
    chunk : tuple of int
        Rows and columns that are packed together; (1, dim) where none are.
    filters : tuple of (int, tuple of int)
        Number and settings of each, in the order in which they packed a chunk.
    """

    rows: int
    dim: int
    dtype: np.dtype[Any]
    offset: int | None
    chunk: tuple[int, int]
    filters: tuple[tuple[int, tuple[int, ...]], ...]


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a file for reading; an h5py.File.

    Raises
    ------
    SourceError
        If it lies in a store, is no HDF5 file, is being written, or h5py is not there.
    """
    file = open_file(path)
    try:
        yield file
    finally:
        file.close()


def open_file(path: str) -> Any:
    """Return the open h5py.File, as `opened` does; the caller closes it."""
    h5py = _h5py(path)
    if is_url(path):
        raise SourceError(
            f"source {path}: HDF5 files are read from a disk: their many small pieces lie anywhere, and each would be "
            "a request; copy the file to a folder that all workers mount, or convert it to Zarr or .npy"
        )
    file_size(path)
    try:
        # Where a file system knows no locks, there are none to wait for.
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES) and "lock" in str(error):
            raise SourceError(
                f"source {path}: another program has it open for writing; run again when that has closed it"
            ) from error
        raise SourceError(
            f"source {path}: cannot be opened as HDF5 ({error}); it was cut, or is of another format: fetch it again, "
            "or set `format`"
        ) from error


def _h5py(path: str) -> Any:
    try:
        # Of the sources only these files need it, and it takes a third of a second.
        import h5py  # noqa: PLC0415
    except ImportError as error:
        raise SourceError(
            f"source {path}: HDF5 files are read with h5py, which is not installed: pip install 'vqpipe[hdf5]'"
        ) from error
    return h5py


def find_table(file: Any, path: str, key: str | None, default: str | None) -> tuple[str, Any]:
    """Find the data set that is meant.

    Parameters
    ----------
    file : h5py.File
    path : str
        Of the file, for messages.
    key : str or None
        The data set, or a group that holds exactly one 2-D data set.
    default : str or None
        The data set that is taken without a key, whatever else is there.

    Returns
    -------
    str
        The data set's place in the file.
    h5py.Dataset

    Raises
    ------
    SourceError
        If there is none, more than one could be meant, or a link leads there.
    """
    place = clean_key(path, default if key is None and default is not None else key)
    found = follow(file, path, place)
    if _is_dataset(file, found):
        return place, found
    sets = dict(_walk(file, found, place))
    tables = [name for name, one in sets.items() if one.shape is not None and len(one.shape) == 2]
    if len(tables) == 1:
        return tables[0], sets[tables[0]]
    group = f"source {path}" + (f", group {place!r}" if place else "")
    if not sets:
        raise SourceError(f"{group}: holds no data set; check the path and `key`")
    listed = [f"{name} {one.shape}" for name, one in sorted(sets.items())]
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    raise SourceError(
        f"{group}: holds {len(tables)} 2-D data sets, so one must be named: set `key`. It holds "
        f"{', '.join(listed[:_MOST_LISTED])}{more}"
    )


def follow(file: Any, path: str, place: str) -> Any:
    """Return the object at a place, reached by no link that could lead out of the file.

    Raises
    ------
    SourceError
    """
    h5py, found = _h5py(path), file
    names = place.split("/") if place else []
    for index, name in enumerate(names):
        where = "/".join(names[: index + 1])
        inside = isinstance(found, h5py.Group) and found.id.links.exists(name.encode())
        if not inside:
            there = ", ".join(list(found)[:_MOST_LISTED]) if isinstance(found, h5py.Group) else ""
            raise SourceError(
                f"source {path}: holds no {where!r}; set `key` to a data set in it"
                + (f" (there are {there})" if there else "")
            )
        if found.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise SourceError(
                f"source {path}: {where!r} is a link, which may lead into another file; set `key` to the data set "
                "itself, or to the file that holds it"
            )
        found = found[name]
    return found


def _is_dataset(file: Any, found: Any) -> bool:
    return isinstance(found, _h5py(file.filename).Dataset)


def _walk(file: Any, group: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the data sets below a group, each once: hard links can go round in a circle."""
    h5py = _h5py(file.filename)
    waiting, seen = [(place, group)], set()
    while waiting:
        place, found = waiting.pop()
        info = h5py.h5o.get_info(found.id)
        if (info.fileno, info.addr) in seen:
            continue
        seen.add((info.fileno, info.addr))
        if isinstance(found, h5py.Dataset):
            yield place, found
        elif isinstance(found, h5py.Group):
            for name in found:
                if len(waiting) + len(seen) > _MOST_OBJECTS:
                    raise SourceError(
                        f"source {file.filename}: holds more than {_MOST_OBJECTS} objects, so one must be named: set "
                        "`key`"
                    )
                if found.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD:
                    waiting.append((f"{place}/{name}" if place else name, found[name]))


def read_layout(dataset: Any, path: str, where: str, *, whole: bool) -> Layout:
    """Check how a data set is stored.

    Parameters
    ----------
    dataset : h5py.Dataset
    path : str
        Of its file.
    where : str
        Begins the message.
    whole : bool
        Also count the chunks that are there.

    Raises
    ------
    SourceError
        For what is not plain numbers in this file under filters that are known, or is not there.
    """
    h5py = _h5py(path)
    settings = dataset.id.get_create_plist()
    kind = settings.get_layout()
    if kind == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise SourceError(
            f"{where}: its values lie in other files (a virtual data set, or external storage); name those files as "
            "the source, or copy it with h5repack"
        )
    dtype = _plain_dtype(h5py, dataset, where)
    rows, dim = check_shape(dataset.shape or (), dtype, where)
    stored = dataset.id.get_storage_size()
    if kind != h5py.h5d.CHUNKED:
        offset = dataset.id.get_offset() if kind == h5py.h5d.CONTIGUOUS else None
        _check_stored(rows * dim * dtype.itemsize, stored, offset, file_size(path), where)
        return Layout(rows, dim, dtype, offset, (1, dim), ())
    chunk = tuple(dataset.chunks)
    if len(chunk) != 2 or min(chunk) < 1:
        raise SourceError(
            f"{where}: its chunks are said to be {shorten(chunk)}; the file is damaged"
        )
    filters = tuple(_filters(settings, math.prod(chunk) * dtype.itemsize, where))
    wanted = ceil_div(rows, chunk[0]) * ceil_div(dim, chunk[1])
    found = dataset.id.get_num_chunks() if whole else wanted
    if found < wanted:
        raise SourceError(
            f"{where}: has shape ({rows}, {dim}), that is {wanted} chunks, but {found} were written; rows that are "
            "not there would read as zeros: write it to its end"
        )
    return Layout(rows, dim, dtype, None, chunk, filters)


def _plain_dtype(h5py: Any, dataset: Any, where: str) -> np.dtype[Any]:
    stored = dataset.id.get_type()
    if stored.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        # Text, records, enumerations (h5py's bool), references, opaque bytes.
        raise SourceError(
            f"{where}: its dtype is {shorten(str(dataset.dtype))}, not one plain number type; vectors are float32, "
            "float16, uint8 or int8: convert it"
        )
    dtype = parse_dtype(stored.dtype.str, where)
    # Bits of a number may lie otherwise than NumPy's, and are read as they are.
    if not h5py.h5t.py_create(dtype).equal(stored):
        raise SourceError(
            f"{where}: its numbers have another layout than {dtype}; copy it with h5repack or h5py"
        )
    return dtype


def _check_stored(
    promised: int, stored: int, offset: int | None, file_bytes: int, where: str
) -> None:
    if stored == 0:
        raise SourceError(f"{where}: nothing was written into it; check that its writer finished")
    if stored != promised or (offset is not None and offset + promised > file_bytes):
        raise SourceError(
            f"{where}: its values take {promised} bytes, but {stored} are stored"
            + ("" if offset is None else f" from byte {offset} on in a file of {file_bytes}")
            + "; it was cut or damaged: write it again"
        )


def _filters(settings: Any, chunk_bytes: int, where: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    for index in range(settings.get_nfilters()):
        number, _, values, name = settings.get_filter(index)
        if number not in _NAMES:
            raise SourceError(
                f"{where}: is packed by the filter {number} ({shorten(name.decode('utf-8', 'replace'))}), which would "
                f"load a library; known are {', '.join(_NAMES.values())}: copy it with h5repack -f GZIP=1"
            )
        if number == LZF and chunk_bytes > _MOST_LZF_BYTES:
            raise SourceError(
                f"{where}: has chunks of {chunk_bytes} bytes under lzf, whose reader cannot be held to that size; at "
                f"most {_MOST_LZF_BYTES} are read: copy it with smaller chunks, or under gzip"
            )
        yield number, tuple(values)
