"""``vectors.zarr``: what ingest made of sources that cannot be read by row range, and a record for every shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from vqpipe.dtypes import Mask
from vqpipe.shards import TARGET_SHARD_ROWS, Shard, ceil_div, plan_shards
from vqpipe.storage.arrays import (
    CHUNK_BYTES,
    array_in,
    check_stored,
    found_whole,
    make_floats,
    make_group,
    make_integers,
    open_group,
    with_rows,
    write_shards,
)
from vqpipe.storage.ids import CHUNK_ROWS, Ids, dtype_of, make_ids
from vqpipe.storage.place import place_of
from vqpipe.storage.vector_records import (
    NOT_STORED,
    VectorRecords,
    extend_vector_records,
    make_vector_records,
    read_vector_records,
)
from vqpipe.urls import is_url, join

VECTORS_NAME = "vectors.zarr"

# Of about 4 MB each: a shard has 32 to 64 MB.
CHUNKS_PER_SHARD = 16


@dataclass(frozen=True, slots=True)
class Vectors:
    """A description of ``vectors.zarr``, opened where it is used.

    Attributes
    ----------
    path : str
    rows : int
        Rows that there are to be; more than are stored while a source's new rows are converted.
    dim : int
    dtype : str
        As in the source.
    chunk_rows, shard_rows : int
        Powers of two, so that shards of codes are as large as for a source that is read row by row.
    ids : str or None
        Dtype of the ids that are carried along: numpy's name of an integer, or ``string``.
    """

    path: str
    rows: int
    dim: int
    dtype: str
    chunk_rows: int
    shard_rows: int
    ids: str | None = None

    def __str__(self) -> str:
        return self.path

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes that decode together."""
        return self.chunk_rows * self.row_bytes

    @property
    def shards(self) -> Iterator[Shard]:
        """All shards, in order."""
        return plan_shards(self.rows, self.shard_rows)

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return ceil_div(self.rows, self.shard_rows)

    @property
    def masked(self) -> bool:
        """Whether `valid` is kept: no integer stands for null, as NaN does."""
        return np.dtype(self.dtype).kind in "iu"

    def prepare(self, facts: dict[str, Any]) -> None:
        """Write the metadata once, before any task writes a shard; what was made from the same source stays."""
        if find_vectors(self.path, facts) is None:
            group = make_group(self.path)
            make_floats(
                group,
                "vectors",
                (self.rows, self.dim),
                self.dtype,
                self.chunk_rows,
                self.shard_rows,
            )
            if self.masked:
                shape = (self.rows,)
                make_integers(
                    group, "valid", shape, "bool", self.chunk_rows, self.shard_rows, fill_value=1
                )
            if self.ids is not None:
                make_ids(group, "ids", self.rows, self.ids, self.shard_rows)
            make_vector_records(group, self.shard_count)
            group.attrs.update({**facts, "shard_rows": self.shard_rows})
            return
        group = open_group(self.path, writable=True)
        extend_vector_records(group, self.shard_count)

    def write(
        self, shard: Shard, rows: NDArray[Any], valid: Mask, ids: Ids | None, stamp: bytes
    ) -> None:
        """Write one whole shard, its record last. A shard that is written again is first marked not done."""
        group = open_group(self.path, writable=True)
        stored_bytes = array_in(group, "shards/stored_bytes")
        stored_bytes[shard.index] = NOT_STORED
        for name, values in (("vectors", rows), ("valid", valid), ("ids", ids)):
            if name in self._names():
                array = with_rows(array_in(group, name), self.rows)
                write_shards(array, shard.start, shard.stop, values)
        array_in(group, "shards/source_stamp")[shard.index] = np.frombuffer(stamp, np.uint8)
        stored_bytes[shard.index] = int(self.stored_sizes([shard.index])[0])

    def publish_rows(self) -> None:
        """Store the larger shape, after all new shards are written; that of the vectors last."""
        group = open_group(self.path, writable=True)
        for name in reversed(self._names()):
            array = array_in(group, name)
            if array.shape[0] != self.rows:
                array.resize((self.rows, *array.shape[1:]))

    def _names(self) -> list[str]:
        return ["vectors", *["valid"] * self.masked, *["ids"] * (self.ids is not None)]

    def records(self) -> VectorRecords:
        """Return the records of all shards."""
        return read_vector_records(self.path)

    def stored_sizes(self, indexes: Iterable[int] | None = None) -> NDArray[np.int64]:
        """Return the bytes that shards take now, int64 of shape (shards,); -1 where a part of one is gone."""
        wanted = list(range(self.shard_count) if indexes is None else indexes)
        total = np.zeros(len(wanted), dtype=np.int64)
        for name in self._names():
            folder = join(self.path, name, "c")
            names = [_object_name(name, index) for index in wanted]
            stamps = place_of(folder).stamps(folder, names)
            sizes = np.array([NOT_STORED if stamp is None else stamp[0] for stamp in stamps])
            total = np.where((sizes < 0) | (total < 0), NOT_STORED, total + sizes)
        return total

    def stamps(self, start: int, stop: int) -> Iterator[tuple[str, int, int | str]]:
        """Yield name, bytes and mtime in ns (or ETag) of each object that holds vectors of rows ``start:stop``."""
        first, last = start // self.shard_rows, ceil_div(stop, self.shard_rows)
        folder = join(self.path, "vectors", "c")
        names = [_object_name("vectors", index) for index in range(first, last)]
        for name, found in zip(names, place_of(folder).stamps(folder, names), strict=True):
            yield (name, NOT_STORED, 0) if found is None else (name, *found)

    def forget(self, indexes: Iterable[int]) -> None:
        """Set shards pending: no record says that they are there."""
        with found_whole(f"{self.path}: the records"):
            stored_bytes = array_in(open_group(self.path, writable=True), "shards/stored_bytes")
            for index in indexes:
                stored_bytes[index] = NOT_STORED

    def open(self) -> VectorsReader:
        """Open the arrays for reading.

        Raises
        ------
        DamagedError
            If there are none, or not of this shape.
        """
        return VectorsReader(self)


class VectorsReader:
    """Reads rows, and their ids, of a ``vectors.zarr``."""

    def __init__(self, vectors: Vectors) -> None:
        self._told = vectors
        self._step = vectors.rows if is_url(vectors.path) else vectors.chunk_rows
        with found_whole(vectors.path):
            group = open_group(vectors.path)
            self._arrays = {name: array_in(group, name) for name in vectors._names()}  # noqa: SLF001
            for name, array in self._arrays.items():
                if array.shape[0] < vectors.rows:
                    raise ValueError(f"{name} has {array.shape[0]} rows of {vectors.rows}")
        self._seen: set[tuple[str, int]] = set()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start:stop``: of the stored dtype, or float32 where integers are null, which are NaN."""
        told = self._told
        with found_whole(f"{told}: rows {start:,} to {stop:,}"):
            rows = np.empty((stop - start, told.dim), told.dtype)
            begin = start
            while begin < stop:
                # zarr 3.1 reads a shard in one call 2-5 times slower than chunk by chunk.
                end = min(stop, (begin // self._step + 1) * self._step)
                rows[begin - start : end - start] = self._array("vectors", begin, end)[begin:end]
                begin = end
            if told.masked:
                valid = np.asarray(self._array("valid", start, stop)[start:stop])
                if not valid.all():
                    rows = rows.astype(np.float32)
                    rows[~valid] = np.nan
        return rows

    def read_ids(self, start: int, stop: int) -> Ids:
        """Return the ids of rows ``start:stop``."""
        with found_whole(f"{self._told}: ids of rows {start:,} to {stop:,}"):
            return np.asarray(self._array("ids", start, stop)[start:stop])

    def _array(self, name: str, start: int, stop: int) -> zarr.Array[Any]:
        """Return an array, once its objects are known to be there: Zarr gives the fill value for others."""
        array, rows = self._arrays[name], self._told.shard_rows
        for index in range(start // rows, ceil_div(stop, rows)):
            if (name, index) not in self._seen:
                check_stored(array, index * rows, min((index + 1) * rows, self._told.rows))
                self._seen.add((name, index))
        return array

    def close(self) -> None:
        """Do nothing: a store of Zarr's holds nothing open."""


def _object_name(name: str, index: int) -> str:
    return f"{index}/0" if name == "vectors" else f"{index}"


def find_vectors(path: str, facts: Mapping[str, Any] | None = None) -> Vectors | None:
    """Return the description of the ``vectors.zarr`` at a path.

    Parameters
    ----------
    path : str
    facts : mapping, optional
        What it must have been made from.

    Returns
    -------
    Vectors or None
        None where there is none, or it is damaged or of something else: it is made anew.
    """
    try:
        group = open_group(path)
        attributes: Any = dict(group.attrs)
        if any(attributes.get(key) != value for key, value in (facts or {}).items()):
            return None
        array = array_in(group, "vectors")
        ids = None
        if "ids" in group:
            ids = dtype_of(array_in(group, "ids"))
        shard_rows = (array.shards or array.chunks)[0]
        if attributes.get("shard_rows") != shard_rows or array.ndim != 2:
            return None
        rows, dim = array.shape
        return Vectors(path, rows, dim, array.dtype.name, array.chunks[0], shard_rows, ids)
    # What is damaged makes Zarr raise whatever it meets first; OSErrors other than this say nothing of the bytes.
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def plan_layout(row_bytes: int, *, with_ids: bool) -> tuple[int, int]:
    """Return chunk rows and shard rows: powers of two, chunks of at most 4 MB.

    Examples
    --------
    >>> plan_layout(3072, with_ids=False)
    (1024, 16384)
    """
    most = CHUNK_ROWS if with_ids else TARGET_SHARD_ROWS
    shard = min(most, CHUNKS_PER_SHARD << (max(1, CHUNK_BYTES // row_bytes).bit_length() - 1))
    return max(1, shard // CHUNKS_PER_SHARD), shard
