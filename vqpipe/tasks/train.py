"""Training: one slice of a batch against one codebook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqpipe.kmeans.tally import Tally
from vqpipe.quantizer import Quantizer
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard
from vqpipe.storage.samples import Sample, SetName


@dataclass(frozen=True, slots=True)
class TallyJob:
    """What every slice of a round is told.

    Attributes
    ----------
    sample : Sample
    name : str
        The set that slices are of.
    quantizer : Quantizer
        With the codewords as they are in this round.
    """

    sample: Sample
    name: SetName
    quantizer: Quantizer


def tally_slice(shard: Shard, job: TallyJob) -> Tally:
    """Find the nearest codewords of a slice and add its rows up by them."""
    stored = job.sample.vectors(job.name, shard.start, shard.stop)
    rows, _ = prepare_rows(stored, job.quantizer.codebook.metric)
    return job.quantizer.tally(job.quantizer.centre(np.ascontiguousarray(rows)))
