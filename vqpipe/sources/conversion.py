"""A source that is read by way of ``vectors.zarr``, into which the ingest stage converts it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vqpipe.sources.array import VectorArray
from vqpipe.sources.formats import must_convert, starts
from vqpipe.storage.vectors import Vectors, find_vectors, plan_layout


def by_way_of_vectors(source: VectorArray, path: str) -> VectorArray:
    """Return a source as it is read: where a part of it must be converted, all rows from the array at a path.

    Nothing need be there yet. An array that was made from the same source keeps its chunks and shards.
    """
    if not any(map(must_convert, source.parts)):
        return source
    there = find_vectors(path, made_from(source))
    layout = plan_layout(source.row_bytes, with_ids=source.ids is not None)
    if there is not None:
        layout = there.chunk_rows, there.shard_rows
    vectors = Vectors(path, source.rows, source.dim, source.dtype, *layout, source.ids_dtype)
    return replace(source, converted=vectors)


def made_from(source: VectorArray) -> dict[str, Any]:
    """Return what tells of which source an array is: files that changed or came are told by stamps."""
    return {
        "uri": list(source.uri) if isinstance(source.uri, tuple) else source.uri,
        "key": source.key,
        "ids": source.ids,
        "ids_dtype": source.ids_dtype,
        "dim": source.dim,
        "dtype": source.dtype,
    }


def starting_rows(source: VectorArray, start: int, stop: int) -> list[int]:
    """Return the rows of a source, ascending, where reading forward can begin, for files behind ``start:stop``.

    Raises
    ------
    SourceError
    """
    found = []
    row = start
    for _, part, first, last in source.spans(start, stop):
        found += [row - first + begin for begin in starts(part)]
        row += last - first
    return found
