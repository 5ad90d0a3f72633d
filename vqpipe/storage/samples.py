"""The sample: shuffled rows for training, held-out rows and database rows, in one Zarr group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from vqpipe.dtypes import Float32, Int64
from vqpipe.shards import ceil_div
from vqpipe.storage.arrays import (
    CHUNK_BYTES,
    SHARD_BYTES,
    array_in,
    check_stored,
    found_whole,
    make_floats,
    make_group,
    open_group,
    with_rows,
)

SetName = Literal["train", "heldout", "database"]
SETS: tuple[SetName, ...] = ("train", "heldout", "database")

# At most 256 tasks gather one target shard each, over all three sets.
MOST_SHARDS_PER_SET = 85


@dataclass(frozen=True, slots=True)
class Sample:
    """A description of a finished sample.

    Attributes
    ----------
    path : str
    rows : dict of str to int
        Rows per set.
    invalid_rows : int
        Rows that were drawn but have no nearest codeword and were left out.
    mean : tuple of float
        Mean of the training rows.
    """

    path: str
    rows: dict[SetName, int]
    invalid_rows: int
    mean: tuple[float, ...]

    def vectors(self, name: SetName, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start:stop`` of a set in the source's dtype."""
        array = _open(self.path, name)
        rows = array.chunks[0]
        parts = [
            _chunk(self.path, self.mean, name, at)[max(0, start - at * rows) : stop - at * rows]
            for at in range(start // rows, ceil_div(stop, rows))
        ]
        # One chunk's rows are that chunk's own memory, which others will read: never written to.
        return (
            parts[0]
            if len(parts) == 1
            else np.concatenate(parts or [_chunk(self.path, self.mean, name, 0)[:0]])
        )

    def row_numbers(self, name: SetName, start: int = 0, stop: int | None = None) -> Int64:
        """Return the row numbers in the source of rows ``start:stop`` of a set."""
        with found_whole(f"{self.path}/{name}_rows"):
            stored = _open(self.path, f"{name}_rows")
            check_stored(stored, start, stored.shape[0] if stop is None else stop)
            numbers: Int64 = np.asarray(stored[start:stop])
            return numbers

    def read_stored(self, name: SetName, start: int, stop: int) -> Int64:
        """Read rows ``start:stop`` of a set as they are stored now, past what is kept in memory.

        Returns
        -------
        int64 array of shape (stop - start,)
            Their row numbers in the source.

        Raises
        ------
        DamagedError
        """
        with found_whole(f"{self.path}/{name}: rows {start:,} to {stop:,}"):
            group = open_group(self.path)
            rows: Any = group[name]
            numbers: Any = group[f"{name}_rows"]
            for array in (rows, numbers):
                check_stored(array, start, stop)
            step = int(rows.chunks[0])
            for first in range(start, stop, step):
                rows[first : min(first + step, stop)]
            return np.asarray(numbers[start:stop])

    def shard_rows(self, name: SetName) -> int:
        """Return the rows of a set that are stored together."""
        array = _open(self.path, name)
        return int((array.shards or array.chunks)[0])

    def pieces(self, name: SetName, piece_rows: int) -> Iterator[NDArray[Any]]:
        """Yield a set's rows in order."""
        for start in range(0, self.rows[name], piece_rows):
            yield self.vectors(name, start, min(start + piece_rows, self.rows[name]))


# Slices of a batch are smaller than chunks and follow one another. The mean tells a sample from one that
# was drawn anew, and lies at the same path, while a worker lives on.
@lru_cache(maxsize=2)
def _chunk(path: str, mean: tuple[float, ...], name: str, index: int) -> NDArray[Any]:
    array = _open(path, name)
    rows = array.chunks[0]
    with found_whole(f"{path}/{name}: rows {index * rows:,} to {(index + 1) * rows:,}"):
        check_stored(array, index * rows, min((index + 1) * rows, array.shape[0]))
        values: NDArray[Any] = np.asarray(array[index * rows : (index + 1) * rows])
    values.flags.writeable = False
    return values


@lru_cache(maxsize=16)
def _open(path: str, name: str) -> zarr.Array[Any]:
    with found_whole(f"{path}/{name}"):
        return array_in(open_group(path), name)


def target_shard_rows(rows: int, row_bytes: int) -> tuple[int, int]:
    """Return chunk rows and shard rows of a set: about 4 MB and 64 MB, and not too many shards."""
    # A chunk is stored whole: a small set has a small one.
    chunk = max(1, min(rows, CHUNK_BYTES // row_bytes))
    shard = max(SHARD_BYTES // row_bytes, ceil_div(rows, MOST_SHARDS_PER_SET), 1)
    return chunk, max(1, ceil_div(shard, chunk)) * chunk


def create_sample(path: str, rows: dict[SetName, int], dim: int, dtype: str) -> None:
    """Write the metadata of a sample, before any task writes rows."""
    _open.cache_clear()
    _chunk.cache_clear()
    group = make_group(path)
    row_bytes = dim * np.dtype(dtype).itemsize
    for name, count in rows.items():
        chunk, shard = target_shard_rows(count, row_bytes)
        make_floats(group, name, (count, dim), dtype, chunk, shard)
        make_floats(group, f"{name}_rows", (count,), "int64", min(shard, max(1, count)))


def write_sample_shard(
    path: str, name: SetName, start: int, vectors: NDArray[Any], rows: Int64
) -> None:
    """Write one whole target shard of a set."""
    group: Any = open_group(path, writable=True)
    for array, values in ((group[name], vectors), (group[f"{name}_rows"], rows)):
        # Rows of nothing but zeros are stored like any others: what is missing is damaged.
        with_rows(array, array.shape[0])[start : start + len(rows)] = values


def finish_sample(path: str, rows: dict[SetName, int], invalid_rows: int, mean: Float32) -> Sample:
    """Mark a sample complete: readers take it from here on."""
    facts: dict[str, Any] = {
        "rows": {str(name): count for name, count in rows.items()},
        "invalid_rows": invalid_rows,
        "mean": [float(value) for value in mean],
    }
    attributes = {**facts, "digest": _digest(facts), "complete": True}
    open_group(path, writable=True).attrs.update(attributes)
    return Sample(path, rows, invalid_rows, tuple(facts["mean"]))


def _digest(facts: dict[str, Any]) -> str:
    """Return what tells whether facts are as they were written: chunks have checksums, attributes have none."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def find_sample(path: str) -> Sample | None:
    """Return the finished sample at a path, or None.

    Raises
    ------
    DamagedError
        If its metadata cannot be read.
    """
    with found_whole(path):
        try:
            facts: Any = dict(open_group(path).attrs)
        except FileNotFoundError:
            return None
        if not facts.get("complete"):
            return None
        told = {key: facts[key] for key in ("rows", "invalid_rows", "mean")}
        if facts.get("digest", _digest(told)) != _digest(told):
            raise ValueError("its attributes are not those of their digest")
        rows = {name: int(facts["rows"][name]) for name in SETS}
        return Sample(path, rows, int(facts["invalid_rows"]), tuple(map(float, facts["mean"])))
