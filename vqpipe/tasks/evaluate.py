"""Evaluation: held-out rows against the codebook, queries against rows and against finished codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vqpipe.codebook import Codebook
from vqpipe.dtypes import Float32, Int64
from vqpipe.evaluation.histogram import ErrorCounts, count_errors
from vqpipe.evaluation.measures import CodeUse, Spread, count_codes
from vqpipe.evaluation.neighbours import SHORTLIST, Neighbours, Search, rerank, search_rows
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard
from vqpipe.sources import VectorArray
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.samples import Sample, SetName


@dataclass(frozen=True, slots=True)
class Queries:
    """Where the queries are: the first rows of one of the sample's sets, or a file.

    Attributes
    ----------
    count : int
    sample : Sample or None
    name : str
        The set, where they are of the sample.
    file : VectorArray or None
    """

    count: int
    sample: Sample | None = None
    name: SetName = "heldout"
    file: VectorArray | None = None

    def read(self, codebook: Codebook) -> Float32:
        """Return the queries, prepared."""
        if self.sample is not None:
            stored = self.sample.vectors(self.name, 0, self.count)
        elif self.file is not None:
            stored = self.file.read(0, self.count)
        else:
            stored = np.empty((0, codebook.dim), np.float32)
        return prepare_rows(stored, codebook.metric)[0]


@dataclass(frozen=True, slots=True)
class MeasureJob:
    """What every slice of held-out rows is told."""

    sample: Sample
    name: SetName
    codebook: str
    digest: str


@dataclass(frozen=True, eq=False)
class Measured:
    """What a slice of sampled rows is like: how far from its codewords, in sum and row by row."""

    spread: Spread
    errors: ErrorCounts

    def __add__(self, other: Measured) -> Measured:
        """Return the same for the rows of both."""
        return Measured(self.spread + other.spread, self.errors + other.errors)


def measure_slice(shard: Shard, job: MeasureJob) -> Measured:
    """Return the squared errors and the spread of a slice of sampled rows."""
    quantizer = cached_quantizer(job.codebook, job.digest)
    stored = job.sample.vectors(job.name, shard.start, shard.stop)
    rows, _ = prepare_rows(stored, quantizer.codebook.metric)
    centred = quantizer.centre(rows)
    errors = quantizer.squared_errors(centred, quantizer.assign(centred))
    wide = centred.astype(np.float64)
    squares = float(np.einsum("ij,ij->", wide, wide))
    spread = Spread(len(wide), float(errors.sum()), wide.sum(axis=0), squares)
    return Measured(spread, count_errors(errors))


@dataclass(frozen=True, slots=True)
class ExactJob:
    """What every task is told that searches the rows themselves.

    Attributes
    ----------
    queries : Queries
    database : Sample or None
        Rows that are searched, and how many of them; None for all rows.
    database_rows : int
    codebook : str
    digest : str
    """

    queries: Queries
    database: Sample | None
    database_rows: int
    codebook: str
    digest: str

    def numbers(self) -> Int64 | None:
        """Return the row numbers that are searched, in order, queries left out; None for all rows."""
        if self.database is None:
            return None
        asked = self.queries.sample
        count = 0 if asked is None else self.queries.count
        return _searched_rows(
            self.database.path, self.database.mean, self.database_rows, self.queries.name, count
        )


@dataclass(frozen=True, slots=True)
class SearchJob(ExactJob):
    """What every task is told that searches codes.

    Attributes
    ----------
    places : int
        Nearest rows wanted per query; 0 to count codes alone.
    codes : CodeArray
    news : tuple of Shard
        Stretches of rows, each within a shard, whose codes are counted by themselves as well.
    """

    places: int
    codes: CodeArray
    news: tuple[Shard, ...] = ()


# Every task of a worker asks for them. The mean tells a sample from one that was drawn anew at its path.
@lru_cache(maxsize=1)
def _searched_rows(
    path: str, mean: tuple[float, ...], database_rows: int, queries_name: SetName, queries: int
) -> Int64:
    sample = Sample(path, {}, 0, mean)
    rows = sample.row_numbers("database", 0, database_rows)
    asked = sample.row_numbers(queries_name, 0, queries)
    searched: Int64 = np.sort(rows[~np.isin(rows, asked)])
    searched.flags.writeable = False
    return searched


@dataclass(frozen=True, eq=False)
class CodeSearch:
    """What a stretch of codes holds: how often each codeword is used, and the nearest rows by code."""

    use: CodeUse
    nearest: Neighbours
    valid_rows: int
    new_use: CodeUse

    def __add__(self, other: CodeSearch) -> CodeSearch:
        """Return the same for the rows of both."""
        return CodeSearch(
            self.use + other.use,
            self.nearest + other.nearest,
            self.valid_rows + other.valid_rows,
            self.new_use + other.new_use,
        )


def search_exact(shard: Shard, job: ExactJob) -> Neighbours:
    """Return each query's nearest row among a slice of the database, by the vectors themselves."""
    codebook = cached_quantizer(job.codebook, job.digest).codebook
    queries = job.queries.read(codebook) - codebook.offset
    nearest = Neighbours.none(len(queries), 1)
    if job.database is None:
        return nearest
    numbers = job.database.row_numbers("database", shard.start, shard.stop)
    stored = job.database.vectors("database", shard.start, shard.stop)
    rows, _ = prepare_rows(stored, codebook.metric)
    searched = job.numbers()
    order = np.argsort(numbers)
    if searched is not None:
        order = order[np.isin(numbers[order], searched)]
    rows, numbers = rows[order] - codebook.offset, numbers[order]
    shortlist = search_rows(queries, rows, numbers, SHORTLIST)
    return nearest + rerank(queries, rows, numbers, shortlist, 1)


def search_codes(stretch: Shard, job: SearchJob) -> CodeSearch:
    """Go once through the codes of a stretch of shards: count them, and search those of the database.

    Distances are asymmetric: from the query itself to what the code stands for, both as they are placed.
    """
    quantizer = cached_quantizer(job.codebook, job.digest)
    codebook = quantizer.codebook
    search = None
    if job.places:
        search = Search(quantizer.centre(job.queries.read(codebook)), job.places)
    searched = job.numbers() if search else None
    use = CodeUse(np.zeros((codebook.columns, codebook.k), dtype=np.int64))
    # Nothing to send home and add up where nothing is new.
    new_use = CodeUse(np.zeros_like(use.counts) if job.news else use.counts[:0])
    news = {shard.index: shard for shard in job.news}
    valid_rows = 0
    for start in range(stretch.start, stretch.stop, job.codes.shard_rows):
        shard = Shard(
            start // job.codes.shard_rows, start, min(start + job.codes.shard_rows, stretch.stop)
        )
        codes, valid = job.codes.read(shard)
        use += count_codes(codes, valid, codebook.k)
        valid_rows += int(valid.sum())
        if shard.index in news:
            new = slice(news[shard.index].start - shard.start, news[shard.index].stop - shard.start)
            new_use += count_codes(codes[new], valid[new], codebook.k)
        if search is not None:
            if searched is None:
                numbers = shard.start + np.flatnonzero(valid)
            else:
                here = slice(*np.searchsorted(searched, (shard.start, shard.stop)).tolist())
                numbers = searched[here][valid[searched[here] - shard.start]]
            search.add_codes(codebook, codes, shard.start, numbers)
    nearest = Neighbours.none(0, 0) if search is None else search.result()
    return CodeSearch(use, nearest, valid_rows, new_use)
