"""Drawing the sample: rows are scattered by their place in the shuffled order, then gathered."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import Metric
from vqpipe.dtypes import Float64, Int64
from vqpipe.errors import DamagedError, OutputError
from vqpipe.permutation import Permutation
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard, ceil_div
from vqpipe.sources import VectorArray
from vqpipe.storage.arrays import check_stored, found_whole, make_group, open_group, write_array
from vqpipe.storage.folder import Folder
from vqpipe.storage.samples import SetName, write_sample_shard
from vqpipe.urls import join

# Rows are read in pieces of about this size, so that a task holds what it keeps and little more.
PIECE_BYTES = 16 << 20

# A worker lists the rows of a draw once, 16 bytes a row, and looks each task's up; of a larger draw it asks of
# every row of the source whether it was drawn: no more work than reading it, but 10^9 rows take minutes.
MOST_LISTED_ROWS = 1 << 22


@dataclass(frozen=True, slots=True)
class Draw:
    """Which places of a permutation make a set.

    Attributes
    ----------
    name : str
    permutation : Permutation
    start, stop : int
        Places of the permuted order, half open.
    shard_rows : int
        Rows of a target shard.
    """

    name: SetName
    permutation: Permutation
    start: int
    stop: int
    shard_rows: int

    @property
    def shard_count(self) -> int:
        """Number of target shards."""
        return ceil_div(self.stop - self.start, self.shard_rows)

    @property
    def listed_rows(self) -> int:
        """Rows that a worker lists to find those of its stretch; 0 where they are too many."""
        rows = self.stop - self.start
        return rows if rows <= MOST_LISTED_ROWS else 0

    def find(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """Return the drawn ones among rows ``start:stop`` and their places in the set."""
        if self.listed_rows or self.start == self.stop:
            rows, places = _list_rows(self.permutation, self.start, self.stop)
            here = slice(*np.searchsorted(rows, (start, stop)).tolist())
            return rows[here], places[here]
        rows = np.arange(start, stop)
        places = self.permutation.places_of(rows)
        mine = (places >= self.start) & (places < self.stop)
        return rows[mine], places[mine] - self.start


@lru_cache(maxsize=3)
def _list_rows(permutation: Permutation, start: int, stop: int) -> tuple[Int64, Int64]:
    """Return the rows at places ``start:stop``, in order, and the place of each among them."""
    rows = permutation.rows_at(np.arange(start, stop))
    places = np.argsort(rows)
    rows = rows[places]
    # Other tasks of this process read them too.
    rows.flags.writeable = places.flags.writeable = False
    return rows, places


@dataclass(frozen=True, slots=True)
class ScatterJob:
    """What every scatter task is told: the source, the draws, and where to leave its rows."""

    source: VectorArray
    metric: Metric
    draws: tuple[Draw, ...]
    scratch: str


@dataclass(frozen=True, slots=True)
class Scattered:
    """What a scatter task did.

    Attributes
    ----------
    index : int
        Of the task.
    valid : dict of str to list of int
        Usable rows per target shard of each set.
    invalid_rows : int
        Rows that were drawn for training or held out but cannot be used.
    """

    index: int
    valid: dict[str, list[int]]
    invalid_rows: int


def scatter_rows(shard: Shard, job: ScatterJob) -> Scattered:
    """Read a stretch of the source once and keep its drawn, usable rows, ordered by their place.

    A task that was done before returns its record: a run that was killed goes on from there.
    """
    scratch = Folder(job.scratch)
    record = f"{shard.index}.json"
    if scratch.has(record):
        done = _read_record(scratch, record)
        if done is not None:
            return Scattered(shard.index, **done)
    found = {draw.name: draw.find(shard.start, shard.stop) for draw in job.draws}
    kept = {name: [(rows[:0], places[:0])] for name, (rows, places) in found.items()}
    empty = np.empty((0, job.source.dim), dtype=np.dtype(job.source.dtype).newbyteorder("="))
    vectors: dict[str, list[NDArray[Any]]] = {name: [empty] for name in found}
    invalid_rows, start = 0, shard.start
    for piece in job.source.pieces(
        shard.start, shard.stop, max(1, PIECE_BYTES // job.source.row_bytes)
    ):
        for name, (rows, places) in found.items():
            here = slice(*np.searchsorted(rows, (start, start + len(piece))))
            picked = piece[rows[here] - start]
            usable = prepare_rows(picked, job.metric)[1]
            if name != "database":
                # A row may be drawn for the database as well: it is one row all the same.
                invalid_rows += int((~usable).sum())
            kept[name].append((rows[here][usable], places[here][usable]))
            # Integers may come as floats, beside a null.
            vectors[name].append(picked[usable].astype(empty.dtype, copy=False))
        start += len(piece)
    group = make_group(join(job.scratch, f"{shard.index}.zarr"))
    valid: dict[str, list[int]] = {}
    for draw in job.draws:
        rows, places = (np.concatenate(part) for part in zip(*kept[draw.name], strict=True))
        order = np.argsort(places)
        write_array(group, f"{draw.name}_places", places[order])
        write_array(group, f"{draw.name}_rows", rows[order])
        write_array(group, draw.name, np.concatenate(vectors.pop(draw.name))[order])
        valid[draw.name] = np.bincount(
            places // draw.shard_rows, minlength=draw.shard_count
        ).tolist()
    told = {"valid": valid, "invalid_rows": invalid_rows}
    scratch.write_json(record, {**told, "digest": _digest(told)})
    return Scattered(shard.index, valid, invalid_rows)


def _read_record(scratch: Folder, name: str) -> dict[str, Any] | None:
    """Return what a scatter task recorded; None where that is damaged, so that it is done again."""
    try:
        told = scratch.read_json(name)
    except OutputError:
        return None
    return told if told.pop("digest", None) == _digest(told) else None


def _digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Target:
    """One target shard: which rows of a set it holds and which places they were drawn to.

    Attributes
    ----------
    name : str
        The set.
    start, stop : int
        Rows of the finished set.
    first_place, last_place : int
        Places, half open, among which these rows are.
    skip : int
        Usable rows at those places that belong to the shard before.
    """

    name: SetName
    start: int
    stop: int
    first_place: int
    last_place: int
    skip: int


@dataclass(frozen=True, slots=True)
class GatherJob:
    """What every gather task is told."""

    scratch: str
    scattered: int
    sample: str
    metric: Metric


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of rows, from which their mean and spread follow.

    Attributes
    ----------
    rows : int
    total : float64 array of shape (dim,)
    squares : float
        Summed squared norms.
    """

    rows: int
    total: Float64
    squares: float

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of the rows of both."""
        return Moments(
            self.rows + other.rows, self.total + other.total, self.squares + other.squares
        )


def gather_rows(target: Target, job: GatherJob) -> Moments:
    """Collect one target shard from what the scatter tasks left, in shuffled order, and write it."""
    # No stretch is left to look up.
    _list_rows.cache_clear()
    places, rows, vectors = [], [], []
    for index in range(job.scattered):
        found = _scattered(index, target, job)
        if found is not None:
            places.append(found[0])
            rows.append(found[1])
            vectors.append(found[2])
    order = np.argsort(np.concatenate(places))
    order = order[target.skip : target.skip + target.stop - target.start]
    picked = np.concatenate(vectors)[order]
    write_sample_shard(job.sample, target.name, target.start, picked, np.concatenate(rows)[order])
    return moments(picked, job.metric)


def _scattered(
    index: int, target: Target, job: GatherJob
) -> tuple[Int64, Int64, NDArray[Any]] | None:
    """Return the places, rows and vectors that one scatter task left for a target shard, if there are any.

    Raises
    ------
    DamagedError
        If they are not what it left; the next run draws them again.
    """
    path = join(job.scratch, f"{index}.zarr")
    try:
        with found_whole(path):
            group = open_group(path)
            drawn: Any = group[f"{target.name}_places"]
            check_stored(drawn, 0, drawn.shape[0])
            places: Int64 = np.asarray(drawn[...])
            start, stop = np.searchsorted(places, (target.first_place, target.last_place)).tolist()
            if start == stop:
                return None
            stored: list[Any] = [group[f"{target.name}_rows"], group[target.name]]
            for array in stored:
                check_stored(array, start, stop)
            rows, vectors = (np.asarray(array[start:stop]) for array in stored)
            return places[start:stop], rows, vectors
    except (DamagedError, FileNotFoundError) as error:
        Folder(job.scratch).remove(f"{index}.json")
        raise DamagedError(
            f"{path}: what was drawn is damaged ({error}); run again: these rows, and only they, are drawn anew"
        ) from error


def moments(stored: NDArray[Any], metric: Metric) -> Moments:
    """Return the moments of stored rows, normalised under cosine."""
    wide = prepare_rows(stored, metric)[0].astype(np.float64)
    return Moments(len(wide), wide.sum(axis=0), float(np.einsum("ij,ij->", wide, wide)))
