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
    """Squared errors of rows under the nearest codewords and under those that were found.

    Attributes
    ----------
    nearest : float
    found : float64 array of shape (searches,)
    """

    nearest: float
    found: Float64

    def __add__(self, other: Losses) -> Losses:
        """Return the errors of the rows of both."""
        return Losses(self.nearest + other.nearest, self.found + other.found)

    @property
    def fractions(self) -> list[float]:
        """How much more distortion each search leaves, as a fraction."""
        if not self.nearest:
            return [0.0 if not found else np.inf for found in self.found.tolist()]
        return [found / self.nearest - 1 for found in self.found.tolist()]


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
        errors.append(float(way.squared_errors(centred, way.assign(centred)).sum()))
    return Losses(errors[0], np.array(errors[1:]))
