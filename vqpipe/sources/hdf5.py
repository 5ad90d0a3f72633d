"""HDF5 files: a 2-D data set, read in place by plain reads, or chunk by chunk.

Files of ann-benchmarks (https://github.com/erikbern/ann-benchmarks) hold ``train``, ``test``, ``neighbors`` and
``distances``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numcodecs.fletcher32 import Fletcher32

from vqpipe.errors import SourceError
from vqpipe.shards import ceil_div
from vqpipe.sources.flat_file import RowsReader, file_stamps, share_file
from vqpipe.sources.hdf5_file import (
    DEFLATE,
    FLETCHER32,
    LZF,
    SHUFFLE,
    Layout,
    find_table,
    open_file,
    opened,
    read_layout,
)
from vqpipe.sources.part import Part, Reader, Rows, check_unchanged

# gzip stores what it cannot shrink with a thousandth more, and a checksum takes 4 bytes.
_MOST_GROWTH = 1.001
_MOST_ADDED_BYTES = 256

# Data sets of a file of ann-benchmarks: rows, queries, and the numbers of the rows nearest to each query.
BENCHMARK_ROWS, BENCHMARK_QUERIES, BENCHMARK_TRUTH = "train", "test", "neighbors"

stamps = file_stamps
is_shared = share_file


def describe(path: str, format: str, key: str | None) -> Part:
    """Check a data set by what the file says of it, and describe it.

    Raises
    ------
    SourceError
        If there is no such data set, more than one could be meant, or it is refused.
    """
    return _describe(path, format, key, whole=True)[0]


def open_part(part: Part) -> Reader:
    """Open a data set for reading.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    now, layout = _describe(part.path, part.format, part.key, whole=False)
    check_unchanged(part, now)
    # No lock of h5py's is held for plain reads, so that threads read side by side.
    return _ChunksReader(now) if layout.offset is None else RowsReader(now, layout.offset)


def is_benchmark(path: str) -> bool:
    """Say whether a file is laid out as those of ann-benchmarks are.

    Raises
    ------
    SourceError
        If it cannot be opened.
    """
    with opened(path) as file:
        return _is_benchmark(file)


def _describe(path: str, format: str, key: str | None, *, whole: bool) -> tuple[Part, Layout]:
    with opened(path) as file:
        default = BENCHMARK_ROWS if key is None and _is_benchmark(file) else None
        place, dataset = find_table(file, path, key, default)
        layout = read_layout(dataset, path, f"source {path}, array {place!r}", whole=whole)
    rows, columns = layout.chunk
    padded = ceil_div(layout.dim, columns) * columns
    part = Part(format, path, place, layout.rows, layout.dim, str(layout.dtype), rows, rows, padded)
    return part, layout


def _is_benchmark(file: Any) -> bool:
    names = (BENCHMARK_ROWS, BENCHMARK_QUERIES, BENCHMARK_TRUTH)
    return all(file.id.links.exists(name.encode()) for name in names)


class _ChunksReader:
    """Reads rows of a data set in chunks, packed or not.

    Parameters
    ----------
    part : Part
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._file = open_file(part.path)
        try:
            self._where = str(part)
            _, self._dataset = find_table(self._file, part.path, part.key, None)
            self._layout = read_layout(self._dataset, part.path, self._where, whole=False)
        except BaseException:
            self.close()
            raise

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        layout, part = self._layout, self._part
        if self._dataset.chunks is None:
            # At most 64 KiB, which lie in the data set's own description.
            return np.ascontiguousarray(self._dataset[start:stop], part.native_dtype)
        rows = np.empty((stop - start, part.dim), part.native_dtype)
        height, width = layout.chunk
        for top in range(start // height * height, stop, height):
            first, last = max(start, top), min(stop, top + height)
            for left in range(0, part.dim, width):
                chunk = self._chunk(top, left)[first - top : last - top, : part.dim - left]
                rows[first - start : last - start, left : left + width] = chunk
        return rows

    def _chunk(self, top: int, left: int) -> Rows:
        """Return the chunk that begins at a row and a column, whole."""
        layout = self._layout
        if any(number == LZF for number, _ in layout.filters):
            height, width = layout.chunk
            block: Rows = self._dataset[top : top + height, left : left + width]
            return block
        size = layout.chunk[0] * layout.chunk[1] * layout.dtype.itemsize
        # What is larger than its values, no filter of these has made: h5py refuses it by this buffer.
        packed = np.empty(int(size * _MOST_GROWTH) + _MOST_ADDED_BYTES, np.uint8)
        skipped, data = self._dataset.id.read_direct_chunk((top, left), out=packed)
        plain = unpack(data, layout.filters, skipped, size)
        if len(plain) != size:
            raise SourceError(
                f"{self._where}: the chunk at row {top}, column {left} holds {len(plain)} bytes of {size}; the file "
                "is damaged: write it again"
            )
        return np.frombuffer(plain, layout.dtype).reshape(layout.chunk)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def unpack(
    data: Any, filters: tuple[tuple[int, tuple[int, ...]], ...], skipped: int, size: int
) -> Any:
    """Undo a chunk's filters, last first.

    Parameters
    ----------
    data : bytes-like
        As stored.
    filters : tuple of (int, tuple of int)
        Number and settings of each.
    skipped : int
        Bits of those that this chunk went without.
    size : int
        Bytes that the chunk should have in the end: no more memory is taken for it.

    Raises
    ------
    ValueError, RuntimeError, zlib.error
        If it is damaged.
    """
    for index, (number, values) in _last_first(filters):
        if skipped >> index & 1:
            continue
        if number == FLETCHER32:
            data = Fletcher32().decode(data)
        elif number == DEFLATE:
            data = _inflate(data, size + _MOST_ADDED_BYTES)
        elif number == SHUFFLE:
            data = _unshuffle(data, values[0] if values else 1)
    return data


def _last_first(
    filters: tuple[tuple[int, tuple[int, ...]], ...],
) -> Iterator[tuple[int, tuple[int, tuple[int, ...]]]]:
    yield from reversed(list(enumerate(filters)))


def _inflate(data: Any, most: int) -> bytes:
    stream = zlib.decompressobj()
    plain = stream.decompress(data, most)
    if not stream.eof:
        raise ValueError(f"a chunk unpacks to more than {most} bytes, or breaks off")
    return plain


def _unshuffle(data: Any, width: int) -> bytes:
    """Put the bytes of each value together again, which shuffle has put at equal distances."""
    if not 1 <= width <= len(data):
        raise ValueError(f"a chunk of {len(data)} bytes was shuffled by values of {width}")
    values = len(data) // width
    shuffled = np.frombuffer(data, np.uint8)
    plain = shuffled[: values * width].reshape(width, values).T
    # What fills no value stays where it is.
    return plain.tobytes() + shuffled[values * width :].tobytes()
