"""Searching by code: queries against what the rows of a stretch of shards stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import Metric
from vqpipe.dtypes import Float32, Float64, Int64, Mask
from vqpipe.evaluation.neighbours import Neighbours, Search
from vqpipe.memory import DECODED_ROWS
from vqpipe.quantizer import Quantizer
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard, plan_shards
from vqpipe.sources import VectorArray
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.picked_rows import pick_codes


@dataclass(frozen=True, eq=False)
class Asked:
    """A batch of queries.

    Attributes
    ----------
    vectors : VectorArray or array of shape (queries, dim)
        A description, read where it is used; or vectors, which stay in this process.
    start, stop : int
        Those of the batch.
    """

    vectors: VectorArray | NDArray[Any]
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Queries of the batch."""
        return self.stop - self.start

    def stored(self) -> NDArray[Any]:
        """Return the queries as they are stored, of shape (queries, dim)."""
        if isinstance(self.vectors, VectorArray):
            return self.vectors.read(self.start, self.stop)
        return self.vectors[self.start : self.stop]

    def prepared(self, metric: Metric) -> tuple[Float32, Mask]:
        """Return the queries as rows are prepared, and which of them can be used."""
        return prepare_rows(self.stored(), metric)


@dataclass(frozen=True, eq=False)
class NearestJob:
    """What every task of a search is told.

    Attributes
    ----------
    asked : Asked
    places : int
        Rows wanted per query.
    codes : CodeArray
    codebook, digest : str
    """

    asked: Asked
    places: int
    codes: CodeArray
    codebook: str
    digest: str

    def placed(self) -> tuple[Quantizer, Float32]:
        """Return the quantizer, and the queries where rows are compared."""
        quantizer = cached_quantizer(self.codebook, self.digest)
        return quantizer, quantizer.centre(self.asked.prepared(quantizer.codebook.metric)[0])


def find_nearest(stretch: Shard, job: NearestJob) -> Neighbours:
    """Return the valid rows of a stretch of shards that are nearest by code, by float32 products."""
    quantizer, queries = job.placed()
    search = Search(queries, job.places)
    for piece in plan_shards(stretch.rows, job.codes.shard_rows):
        shard = Shard(piece.index, stretch.start + piece.start, stretch.start + piece.stop)
        codes, valid = job.codes.read(shard)
        numbers = shard.start + np.flatnonzero(valid)
        search.add_codes(quantizer.codebook, codes, shard.start, numbers)
    return search.result()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Queries and rows that were found for them.

    Attributes
    ----------
    queries : int64 array of shape (pairs,)
        Places in the batch.
    rows : int64 array of shape (pairs,)
    """

    queries: Int64
    rows: Int64


def measure_pairs(pairs: Pairs, job: NearestJob) -> Float64:
    """Return the squared distance of each query to what its row's code stands for, without any cancellation."""
    quantizer, queries = job.placed()
    codes = pick_codes(job.codes, pairs.rows)
    distances = np.empty(len(codes))
    for start in range(0, len(codes), DECODED_ROWS):
        some = slice(start, start + DECODED_ROWS)
        apart = quantizer.codebook.decode_placed(codes[some]).astype(np.float64)
        apart -= queries[pairs.queries[some]]
        distances[some] = np.einsum("ij,ij->i", apart, apart)
    return distances
