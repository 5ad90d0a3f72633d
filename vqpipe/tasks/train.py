"""Training: one slice of a batch, or of the rows that it is judged by, against one codebook."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import TypeVar

import numpy as np

from vqpipe.dtypes import Float32, Int64
from vqpipe.kmeans.seeding import first_distinct
from vqpipe.kmeans.tally import Tally
from vqpipe.quantizer import Quantizer, Route
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard
from vqpipe.storage.samples import Sample, SetName

Sum = TypeVar("Sum", Tally, "Look")


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of a round.

    Attributes
    ----------
    name : str
        The set they are of.
    shard : Shard
    look : bool
        Whether they judge the codebook; else they teach it.
    """

    name: SetName
    shard: Shard
    look: bool = False


@dataclass(frozen=True)
class TallyJob:
    """What every slice of a round is told.

    Attributes
    ----------
    sample : Sample
    quantizer : Quantizer
        With the codewords as they are in this round and the route by which rows find them.
    exact_route : Route
        The route by which the rows that judge find them.
    """

    sample: Sample
    quantizer: Quantizer
    exact_route: Route

    @cached_property
    def exact(self) -> Quantizer:
        """The quantizer that finds the nearest codewords."""
        if self.quantizer.route == self.exact_route:
            return self.quantizer
        return replace(self.quantizer, route=self.exact_route)

    def centred(self, item: Slice) -> Float32:
        """Read rows of the sample, prepared and moved by the offset."""
        return read_centred(self.sample, item.name, item.shard, self.quantizer)


@dataclass(frozen=True, slots=True)
class Look:
    """How far the rows that judge are from their codewords.

    Attributes
    ----------
    rows : int
    squared_error : float
        Sum of ||x - c||^2 over rows and their nearest codewords.
    found_error : float
        The same with the codewords that the round's route found.
    """

    rows: int
    squared_error: float
    found_error: float

    def __add__(self, other: Look) -> Look:
        """Return the look at the rows of both."""
        return Look(
            self.rows + other.rows,
            self.squared_error + other.squared_error,
            self.found_error + other.found_error,
        )

    @property
    def distortion(self) -> float:
        """Mean squared error of a row."""
        return self.squared_error / self.rows

    @property
    def search_loss(self) -> float:
        """The fraction by which found codewords are farther than the nearest."""
        return self.found_error / self.squared_error - 1 if self.squared_error else 0.0


@dataclass(frozen=True, slots=True)
class RoundTally:
    """What a round's slices say: those that teach, and those that judge.

    Attributes
    ----------
    training : Tally or None
    look : Look or None
    """

    training: Tally | None
    look: Look | None

    def __add__(self, other: RoundTally) -> RoundTally:
        """Return what the slices of both say."""
        return RoundTally(_sum(self.training, other.training), _sum(self.look, other.look))


def _sum(left: Sum | None, right: Sum | None) -> Sum | None:
    there = [part for part in (left, right) if part is not None]
    return reduce(add, there) if there else None


def tally_slice(item: Slice, job: TallyJob) -> RoundTally:
    """Find the codewords of a slice and add its rows up by them, or judge the codebook by them."""
    rows = job.centred(item)
    if not item.look:
        return RoundTally(job.quantizer.tally(rows), None)
    exact = float(job.exact.squared_errors(rows, job.exact.assign(rows)).sum())
    found = exact
    if job.exact is not job.quantizer:
        found = float(job.quantizer.squared_errors(rows, job.quantizer.assign(rows)).sum())
    return RoundTally(None, Look(len(rows), exact, found))


def refine_slice(item: Slice, job: TallyJob) -> RoundTally:
    """Add what all stages leave of a slice's rows up by the codewords of all of them, or judge the codebook."""
    if item.look:
        return tally_slice(item, job)
    return RoundTally(job.quantizer.tally_all(job.centred(item)), None)


@dataclass(frozen=True)
class SeedJob:
    """What the task that draws the first codewords of a stage is told.

    Attributes
    ----------
    sample : Sample
    quantizer : Quantizer
        With the stages before it.
    first : bool
        Whether there are none, and the quantizer only places the rows.
    """

    sample: Sample
    quantizer: Quantizer
    first: bool

    def left(self, rows: Float32) -> Float32:
        """Return placed rows, or what the stages leave of them."""
        placed = self.quantizer.centre(rows)
        return placed if self.first else self.quantizer.residuals(placed, every=False)


def seed_codewords(piece_rows: int, job: SeedJob) -> tuple[Float32, list[int]]:
    """Return the first codewords of a stage, as `first_distinct` does, from rows as they are compared.

    A task of its own, since only tasks run on one thread: the threads' number would show in the last bits.
    """
    codebook = job.quantizer.codebook
    pieces = (
        job.left(prepare_rows(piece, codebook.metric)[0])
        for piece in job.sample.pieces("train", piece_rows)
    )
    return first_distinct(pieces, codebook.m, codebook.k)


@dataclass(frozen=True, slots=True)
class CompareJob:
    """Two codebooks of one shape, and the rows to compare them on.

    Attributes
    ----------
    sample : Sample
    name : str
    before, after : Quantizer
    """

    sample: Sample
    name: SetName
    before: Quantizer
    after: Quantizer


@dataclass(frozen=True, eq=False)
class Change:
    """How many rows have another code under another codebook.

    Attributes
    ----------
    rows, changed : int
        All rows, and those of which any code is another.
    changed_codes : int64 array of shape (columns,)
        Rows of which the code in that column is another.
    """

    rows: int
    changed: int
    changed_codes: Int64

    def __add__(self, other: Change) -> Change:
        """Return the change of the rows of both."""
        return Change(
            self.rows + other.rows,
            self.changed + other.changed,
            self.changed_codes + other.changed_codes,
        )


def compare_slice(shard: Shard, job: CompareJob) -> Change:
    """Count the rows of a slice that change their codes."""
    codes = [
        quantizer.assign(read_centred(job.sample, job.name, shard, quantizer))
        for quantizer in (job.before, job.after)
    ]
    differ = codes[0] != codes[1]
    return Change(shard.rows, int(differ.any(axis=1).sum()), differ.sum(axis=0, dtype=np.int64))


def read_centred(sample: Sample, name: SetName, shard: Shard, quantizer: Quantizer) -> Float32:
    """Read rows of a sample, prepared and moved by a quantizer's offset."""
    stored = sample.vectors(name, shard.start, shard.stop)
    rows, _ = prepare_rows(stored, quantizer.codebook.metric)
    return quantizer.centre(np.ascontiguousarray(rows))
