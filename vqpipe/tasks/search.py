"""Judging a search over codewords: how much farther what it finds is than the nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vqpipe.dtypes import Float64
from vqpipe.quantizer import Route
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard
from vqpipe.sources import VectorArray
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.samples import Sample


@dataclass(frozen=True, slots=True)
class SearchesJob:
    """What every slice of the rows that judge is told.

    Attributes
    ----------
    rows : Sample or VectorArray
        Held-out rows of the sample; of the source where there is no sample.
    codebook : str
        Path of ``codebook.zarr``.
    exact : Route
    searches : tuple of Route
        To be judged.
    """

    rows: Sample | VectorArray
    codebook: str
    exact: Route
    searches: tuple[Route, ...]


@dataclass(frozen=True, eq=False)
class Losses:
    """Squared errors of rows under the nearest codewords, and what they lose under those that were found.

    Attributes
    ----------
    rows : int
    nearest : float
        Sum over the rows.
    lost, squares : float64 arrays of shape (searches,)
        Sums of what each row loses, and of its squares.
    """

    rows: int
    nearest: float
    lost: Float64
    squares: Float64

    @classmethod
    def of(cls, nearest: Float64, found: Float64) -> Losses:
        """Return the losses of rows, from squared errors of shapes (rows,) and (searches, rows)."""
        lost = found - nearest
        return cls(len(nearest), float(nearest.sum()), lost.sum(axis=1), (lost**2).sum(axis=1))

    def __add__(self, other: Losses) -> Losses:
        """Return the errors of the rows of both."""
        return Losses(
            self.rows + other.rows,
            self.nearest + other.nearest,
            self.lost + other.lost,
            self.squares + other.squares,
        )

    @property
    def fractions(self) -> list[float]:
        """How much more distortion each search leaves, as a fraction."""
        return [_share(lost, self.nearest) for lost in self.lost.tolist()]

    @property
    def bounds(self) -> list[float]:
        """What the fractions of all rows hardly exceed, as these are a sample: three standard errors more."""
        spread = np.sqrt(np.maximum(self.squares - self.lost**2 / max(1, self.rows), 0.0))
        return [_share(most, self.nearest) for most in (self.lost + 3.0 * spread).tolist()]


def _share(lost: float, nearest: float) -> float:
    if not nearest:
        return 0.0 if lost <= 0 else np.inf
    return lost / nearest


def judge_searches(shard: Shard, job: SearchesJob) -> Losses:
    """Add up what the rows of a slice lose under each search."""
    # Not the one that workers keep: its route is about to change.
    quantizer = replace(read_codebook(job.codebook).quantizer, route=job.exact)
    if isinstance(job.rows, Sample):
        stored = job.rows.vectors("heldout", shard.start, shard.stop)
    else:
        stored = job.rows.read(shard.start, shard.stop)
    rows, usable = prepare_rows(stored, quantizer.codebook.metric)
    centred = quantizer.centre(rows)[usable]
    errors = []
    for route in (job.exact, *job.searches):
        way = replace(quantizer, route=route)
        errors.append(way.squared_errors(centred, way.assign(centred)))
    return Losses.of(errors[0], np.array(errors[1:]))
