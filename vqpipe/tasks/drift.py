"""Measuring rows of the source that are new since the figures were taken."""

from __future__ import annotations

from dataclasses import dataclass

from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard
from vqpipe.sources import VectorArray
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.tasks.encode import window_rows


@dataclass(frozen=True, slots=True)
class NewRowsJob:
    """What every stretch of new rows is told."""

    source: VectorArray
    codebook: str
    digest: str


def measure_new_rows(stretch: Shard, job: NewRowsJob) -> float:
    """Return the squared error of a stretch of the source's rows; rows that are masked have none."""
    quantizer = cached_quantizer(job.codebook, job.digest)
    size = window_rows(job.source.dim, quantizer.route.block_rows)
    error = 0.0
    for stored in job.source.pieces(stretch.start, stretch.stop, size):
        rows, usable = prepare_rows(stored, quantizer.codebook.metric)
        centred = quantizer.centre(rows)
        errors = quantizer.squared_errors(centred, quantizer.assign(centred))
        error += float(errors[usable].sum())
    return error
