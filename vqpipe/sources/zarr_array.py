"""Zarr arrays, versions 2 and 3, in a folder or a zip file: this room's door to zarr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import StorePath, ZipStore

from vqpipe.errors import SourceError
from vqpipe.shards import ceil_div
from vqpipe.sources.flat_file import stamp_file
from vqpipe.sources.part import (
    MAX_BYTES,
    Part,
    Reader,
    Rows,
    Stamp,
    check_unchanged,
    cut_at_chunks,
)
from vqpipe.sources.zarr_metadata import Layout
from vqpipe.sources.zarr_plain import PlainChunks
from vqpipe.sources.zarr_tree import find_array
from vqpipe.storage.arrays import store_at
from vqpipe.storage.place import place_of
from vqpipe.urls import is_url, join

# zarr 3.1 reads a 64 MB shard in one call 2-5 times slower than chunk by chunk; below about 4 MB
# the cost of a call shows.
_STEP_BYTES = 4 << 20


def describe(path: str, format: str, key: str | None) -> Part:
    """Check a Zarr array by its metadata, and describe it.

    Raises
    ------
    SourceError
        If there is no such array, or its metadata is refused; then zarr has not seen it.
    """
    place, layout = find_array(path, key)
    part = _make_part(path, format, place, layout)
    # What the metadata check lets through zarr may still refuse: better now than on a worker.
    _ZarrReader(part, layout).close()
    return part


def open_part(part: Part) -> Reader:
    """Open a Zarr array for reading, after checking its metadata once more.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    place, layout = find_array(part.path, part.key)
    check_unchanged(part, _make_part(part.path, part.format, place, layout))
    return _ZarrReader(part, layout)


def stamps(part: Part, start: int, stop: int) -> Iterator[Stamp]:
    """Yield the stamps of the chunks or shards behind rows; of a zip file, its own.

    A chunk that was never written holds fill values: it has size -1 and mtime 0.
    """
    if is_shared(part):
        yield stamp_file(part.path)
        return
    place, layout = find_array(part.path, part.key)
    folder, names = join(part.path, place), list(layout.object_names(start, stop))
    for name, found in zip(names, place_of(folder).stamps(folder, names), strict=True):
        yield (name, -1, 0) if found is None else (name, *found)


def is_shared(part: Part) -> bool:
    """Say whether the part is a zip file: in a folder, chunks are objects of their own."""
    return not is_url(part.path) and not os.path.isdir(part.path)


def _make_part(path: str, format: str, place: str, layout: Layout) -> Part:
    rows, dim = layout.shape
    return Part(
        format,
        path,
        place or None,
        rows,
        dim,
        str(layout.dtype),
        chunk_rows=layout.chunk[0],
        unit_rows=layout.unit[0],
        chunk_dim=ceil_div(dim, layout.chunk[1]) * layout.chunk[1],
    )


class _ZarrReader:
    """Reads rows of a Zarr array whose metadata has been checked."""

    def __init__(self, part: Part, layout: Layout) -> None:
        self._part = part
        self._store: Store = (
            sync(ZipStore.open(part.path, mode="r", read_only=True))
            if is_shared(part)
            else store_at(part.path)
        )
        # A store's requests wait for one another's answers: it is asked for all chunks at once.
        self._step_bytes = _STEP_BYTES if not is_url(part.path) else MAX_BYTES
        folder = os.path.join(part.path, part.key or "")
        in_place = layout.plain and not is_url(part.path) and not is_shared(part)
        self._plain = PlainChunks(folder, layout) if in_place else None
        try:
            # Made from the metadata that was checked: a server could have other metadata for zarr to read.
            array: zarr.Array[Any] = zarr.Array(
                zarr.AsyncArray(
                    metadata=layout.document,  # type: ignore[call-overload]
                    store_path=StorePath(self._store, part.key or ""),
                )
            )
            if array.shape != layout.shape or array.dtype.newbyteorder("=") != part.native_dtype:
                raise SourceError(
                    f"{part}: zarr reads it as {array.shape} {array.dtype}, its metadata says "
                    f"{layout.shape} {layout.dtype}; it changed while it was opened: run again"
                )
        except BaseException:
            self.close()
            raise
        self._array = array

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        part = self._part
        rows = np.empty((stop - start, part.dim), part.native_dtype)
        step = max(1, self._step_bytes // part.row_bytes)
        for begin, end in cut_at_chunks(start, stop, part.chunk_rows, step):
            these = rows[begin - start : end - start]
            if self._plain is None or not self._plain.read_into(these, begin):
                these[...] = self._array[begin:end]
        return rows

    def close(self) -> None:
        """Close the store."""
        if self._plain is not None:
            self._plain.close()
        self._store.close()
