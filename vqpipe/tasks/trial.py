"""Trying a codebook on the sample: its codes of the database rows searched and timed, and FAISS's training."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from vqpipe.codebook import CodebookSpec, Metric
from vqpipe.dtypes import Codes
from vqpipe.evaluation.measures import CodeUse, count_codes
from vqpipe.evaluation.neighbours import Neighbours, Search
from vqpipe.memory import DECODED_ROWS
from vqpipe.quantizer import Quantizer
from vqpipe.quantizer.faiss_train import train_by_faiss
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.codebook_file import cached_quantizer, write_codebook
from vqpipe.storage.samples import Sample
from vqpipe.tasks.encode import window_rows
from vqpipe.tasks.evaluate import ExactJob

# FAISS's training rows are read so many at a time.
_PIECE_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class TrialJob(ExactJob):
    """What every task is told that encodes and searches database rows of the sample.

    Attributes
    ----------
    places : int
        Nearest rows wanted per query; 0 to encode and count alone.
    """

    places: int


@dataclass(frozen=True, eq=False)
class TrialSearch:
    """What a slice of the database rows gave.

    Attributes
    ----------
    use : CodeUse
    nearest : Neighbours
        By code.
    rows : int
        That were encoded.
    seconds : float
        That this took, by the clock: rows read from the sample, their codes and squared errors found.
    """

    use: CodeUse
    nearest: Neighbours
    rows: int
    seconds: float

    def __add__(self, other: TrialSearch) -> TrialSearch:
        """Return the same for the rows of both."""
        return TrialSearch(
            self.use + other.use,
            self.nearest + other.nearest,
            self.rows + other.rows,
            self.seconds + other.seconds,
        )


def search_sampled(shard: Shard, job: TrialJob) -> TrialSearch:
    """Encode a slice of the database rows as a run encodes them, and search their codes as evaluate does."""
    if job.database is None:
        raise ValueError("there is no sample to encode")
    quantizer = cached_quantizer(job.codebook, job.digest)
    codebook = quantizer.codebook
    # The first rows wait for machine code and tables to be made: no part of the rate.
    quantizer.assign(np.zeros((quantizer.route.block_rows, codebook.dim), np.float32))
    began = time.perf_counter()
    codes = _encode(quantizer, job.database, shard)
    seconds = time.perf_counter() - began
    use = count_codes(codes, np.ones(len(codes), bool), codebook.k)
    if not job.places:
        return TrialSearch(use, Neighbours.none(0, 0), shard.rows, seconds)
    numbers = job.database.row_numbers("database", shard.start, shard.stop)
    order = np.argsort(numbers)
    searched = job.numbers()
    if searched is not None:
        order = order[np.isin(numbers[order], searched)]
    search = Search(quantizer.centre(job.queries.read(codebook)), job.places)
    for first in range(0, len(order), DECODED_ROWS):
        some = order[first : first + DECODED_ROWS]
        search.add(codebook.decode_placed(codes[some]), numbers[some])
    return TrialSearch(use, search.result(), shard.rows, seconds)


def _encode(quantizer: Quantizer, sample: Sample, shard: Shard) -> Codes:
    """Return the codes of database rows, in windows, with the squared errors that a run takes as well."""
    codebook = quantizer.codebook
    codes = np.zeros((shard.rows, codebook.columns), dtype=codebook.spec.code_dtype)
    for window in plan_shards(shard.rows, window_rows(codebook.dim, quantizer.route.block_rows)):
        start, stop = shard.start + window.start, shard.start + window.stop
        rows, _ = prepare_rows(sample.vectors("database", start, stop), codebook.metric)
        centred = quantizer.centre(rows)
        labels = quantizer.assign(centred)
        quantizer.squared_errors(centred, labels)
        codes[window.start : window.stop] = labels
    return codes


@dataclass(frozen=True, slots=True)
class FaissItem:
    """A codebook for FAISS to learn.

    Attributes
    ----------
    spec : CodebookSpec
    rows : int
        The first so many training rows of the sample, which are a uniform sample themselves.
    path : str
        Of the ``codebook.zarr`` to write.
    """

    spec: CodebookSpec
    rows: int
    path: str


@dataclass(frozen=True, slots=True)
class FaissJob:
    """What every training by FAISS is told."""

    sample: Sample
    metric: Metric
    seed: int


@dataclass(frozen=True, slots=True)
class FaissTrained:
    """What a training by FAISS came to: the digest of its codebook, and its seconds on one thread."""

    digest: str
    seconds: float


def train_faiss(item: FaissItem, job: FaissJob) -> FaissTrained:
    """Have FAISS learn a codebook from training rows of the sample, and write it; reading them is not timed."""
    rows = np.empty((item.rows, len(job.sample.mean)), np.float32)
    for piece in plan_shards(item.rows, _PIECE_ROWS):
        stored = job.sample.vectors("train", piece.start, piece.stop)
        rows[piece.start : piece.stop], _ = prepare_rows(stored, job.metric)
    began = time.perf_counter()
    quantizer = train_by_faiss(rows, item.spec, job.metric, job.seed)
    seconds = time.perf_counter() - began
    write_codebook(item.path, quantizer, [])
    return FaissTrained(quantizer.codebook.digest, seconds)
