"""The members of a codeword: the rows of a stretch of shards that have one code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqpipe.dtypes import Float64, Int64
from vqpipe.evaluation.neighbours import Neighbours
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard, plan_shards
from vqpipe.sources import VectorArray
from vqpipe.sources.picked import read_picked
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.records import Records


@dataclass(frozen=True, slots=True)
class MembersJob:
    """What every task is told.

    Attributes
    ----------
    codes : CodeArray
    records : Records
    codebook, digest : str
    codeword : int
    limit : int
        Rows that are kept.
    source : VectorArray or None
        Where rows are read to measure them; None where their squared errors are kept with the codes.
    """

    codes: CodeArray
    records: Records
    codebook: str
    digest: str
    codeword: int
    limit: int
    source: VectorArray | None


@dataclass(frozen=True, eq=False)
class Members:
    """Rows that have a code.

    Attributes
    ----------
    count : int
        All of them.
    nearest : Neighbours
        Of one query, the codeword: the rows nearest to it.
    stale : int
        Shards that were measured by rows which the source may have changed since.
    """

    count: int
    nearest: Neighbours
    stale: int

    def __add__(self, other: Members) -> Members:
        """Return the members among the rows of both."""
        return Members(
            self.count + other.count, self.nearest + other.nearest, self.stale + other.stale
        )


def find_members(stretch: Shard, job: MembersJob) -> Members:
    """Count the valid rows of a stretch of shards that have the code, and keep the nearest."""
    found = Members(0, Neighbours.none(1, job.limit), 0)
    for piece in plan_shards(stretch.rows, job.codes.shard_rows):
        start = stretch.start + piece.start
        shard = Shard(start // job.codes.shard_rows, start, stretch.start + piece.stop)
        codes, valid = job.codes.read(shard)
        places = np.flatnonzero((codes[:, 0] == job.codeword) & valid)
        if len(places):
            errors = _errors(shard, places, job)
            nearest = Neighbours(errors[None], (shard.start + places)[None])
            found += Members(len(places), nearest, _is_stale(shard, job))
    return found


def _errors(shard: Shard, places: Int64, job: MembersJob) -> Float64:
    kept = job.codes.read_errors(shard)
    if kept is not None or job.source is None:
        return np.full(len(places), np.nan) if kept is None else kept[places]
    quantizer = cached_quantizer(job.codebook, job.digest)
    errors = np.empty(len(places))
    for some, stored in read_picked(job.source, shard.start + places):
        rows, _ = prepare_rows(stored, quantizer.codebook.metric)
        labels = np.full((len(rows), 1), job.codeword)
        errors[some] = quantizer.squared_errors(quantizer.centre(rows), labels)
    return errors


def _is_stale(shard: Shard, job: MembersJob) -> int:
    """Return 1 for a shard whose rows lie in objects that were written since."""
    if job.source is None:
        return 0
    return int(job.source.stamp(shard.start, shard.stop) != job.records.stamp(shard.index))
