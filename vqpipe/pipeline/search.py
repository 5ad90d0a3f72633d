"""Searching the codes of an output: for each query the rows that are nearest by code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Float32, Int64
from vqpipe.errors import InvalidRowError, SourceError
from vqpipe.evaluation.neighbours import SHORTLIST, Neighbours
from vqpipe.memory import search_bytes
from vqpipe.pipeline.finished import Finished
from vqpipe.progress import Progress
from vqpipe.rows import why_invalid
from vqpipe.runner import Runner
from vqpipe.shards import ceil_div, plan_shards
from vqpipe.sources import VectorArray
from vqpipe.storage.picked_rows import Ids, pick_ids
from vqpipe.tasks.nearest import Asked, NearestJob, Pairs, find_nearest, measure_pairs

MOST_TASKS = 256

# What the lists and blocks of a batch of queries may take on a worker, whose memory is 2 GiB unless said.
BATCH_BYTES = 256 << 20

# Rows that were found are measured so many at a time.
PAIRS_PER_TASK = 1 << 15

# About what one core does: multiplications and additions, and rows that are read and decoded.
FLOPS_PER_SECOND = 2e10
ROWS_PER_SECOND = 2e6


@dataclass(frozen=True, eq=False)
class Answers:
    """The rows nearest to queries by code, nearest first; equal distances by smaller row number.

    Attributes
    ----------
    first : int
        Number of the first query.
    rows : int64 array of shape (queries, k)
        Row numbers in the source; -1 where there are fewer valid rows than k.
    distances : float32 array of shape (queries, k)
        Squared, from the query to what the code stands for (asymmetric); Inf where there is no row.
    ids : integer or object array of shape (queries, k), or None
        What the source calls the rows, where the config asked for it; of no row, 0 or an empty string.
    """

    first: int
    rows: Int64
    distances: Float32
    ids: Ids | None = None


def search_seconds(found: Finished, queries: int) -> float:
    """Return about how long a search takes on one core."""
    passes = ceil_div(queries, _batch_rows(found, 0))
    flops = 2.0 * found.codes.rows * queries * found.codebook.dim
    return flops / FLOPS_PER_SECOND + passes * found.codes.rows / ROWS_PER_SECOND


def search_output(
    found: Finished,
    queries: VectorArray | NDArray[Any],
    k: int,
    runner: Runner,
    progress: Progress,
    most: int | None = None,
) -> Iterator[Answers]:
    """Yield the answers to queries, batch by batch.

    Parameters
    ----------
    found : Finished
    queries : VectorArray or array of shape (queries, dim)
        Normalised here under cosine.
    k : int
        Rows wanted per query.
    runner : Runner
        One of this process where the queries are an array.
    progress : Progress
    most : int, optional
        Only the first so many queries.

    Raises
    ------
    SourceError
        For queries of another dim.
    InvalidRowError
        For a query that nothing is near to.
    """
    check_queries(found, queries)
    count = len(queries) if isinstance(queries, np.ndarray) else queries.rows
    count = count if most is None else min(count, most)
    batches = list(plan_shards(count, _batch_rows(found, k)))
    progress.begin("search", len(batches) * found.codes.rows, "rows")
    for batch in batches:
        asked = Asked(queries, batch.start, batch.stop)
        _check_usable(asked, found)
        places = min(k + SHORTLIST, found.codes.rows)
        job = NearestJob(asked, places, found.codes, found.generation.codebook_path, found.digest)
        nearest = _measured(_shortlist(job, runner, progress), job, runner)
        yield _answers(found, batch.start, nearest, k)


def join_answers(parts: Sequence[Answers], k: int) -> Answers:
    """Return the answers of all batches as one."""
    rows = [np.empty((0, k), np.int64), *(part.rows for part in parts)]
    distances = [np.empty((0, k), np.float32), *(part.distances for part in parts)]
    ids = [part.ids for part in parts if part.ids is not None]
    joined = np.concatenate(ids) if ids else None
    return Answers(0, np.concatenate(rows), np.concatenate(distances), joined)


def _batch_rows(found: Finished, k: int) -> int:
    each = search_bytes(1, k + SHORTLIST, found.codebook.dim)
    return max(1, BATCH_BYTES // each)


def check_queries(found: Finished, queries: VectorArray | NDArray[Any]) -> None:
    """Refuse queries of another dim.

    Raises
    ------
    SourceError
    """
    if isinstance(queries, np.ndarray):
        shape, named = queries.shape, f"queries of shape {queries.shape}"
    else:
        shape, named = (queries.rows, queries.dim), f"queries {queries.uri}, of dim = {queries.dim}"
    if len(shape) != 2 or shape[1] != found.codebook.dim:
        raise SourceError(
            f"{named}: the codes of {found.output.path} stand for vectors of dim = {found.codebook.dim}; queries and "
            "rows must be of one space"
        )


def _check_usable(asked: Asked, found: Finished) -> None:
    metric = found.codebook.metric
    _, usable = asked.prepared(metric)
    bad = np.flatnonzero(~usable)
    if len(bad):
        stored = asked.stored()[bad[0]]
        raise InvalidRowError(
            f"query {asked.start + bad[0]}: {why_invalid(stored, metric)}, so no row is nearest to it; leave it out",
            tuple((asked.start + bad[:10]).tolist()),
        )


def _shortlist(job: NearestJob, runner: Runner, progress: Progress) -> Neighbours:
    codes = job.codes
    stretch = codes.shard_rows * ceil_div(codes.shard_count, MOST_TASKS)
    nearest = Neighbours.none(job.asked.count, job.places)
    for outcome in runner.map(find_nearest, plan_shards(codes.rows, stretch), job):
        # Of distances and row numbers there is one order, whoever comes first.
        nearest = nearest + outcome.value()
        progress.advance(outcome.item.rows)
    return nearest


def _measured(nearest: Neighbours, job: NearestJob, runner: Runner) -> Neighbours:
    """Return the same rows with distances that products have not blurred, rounded to float32."""
    query, place = np.nonzero(nearest.rows >= 0)
    rows = nearest.rows[query, place]
    order = np.argsort(rows, kind="stable")
    query, place, rows = query[order], place[order], rows[order]
    pieces = {
        Pairs(query[some], rows[some]): some
        for some in (
            slice(start, start + PAIRS_PER_TASK) for start in range(0, len(rows), PAIRS_PER_TASK)
        )
    }
    distances = np.full(nearest.rows.shape, np.inf)
    for outcome in runner.map(measure_pairs, pieces, job):
        some = pieces[outcome.item]
        distances[query[some], place[some]] = outcome.value().astype(np.float32)
    return Neighbours(distances, nearest.rows)


def _answers(found: Finished, first: int, nearest: Neighbours, k: int) -> Answers:
    kept = Neighbours.none(len(nearest.rows), k) + nearest
    distances = kept.distances.astype(np.float32)
    there = kept.rows >= 0
    picked = pick_ids(found.codes, kept.rows[there])
    ids = None
    if picked is not None:
        ids = np.full(kept.rows.shape, "" if picked.dtype == object else 0, dtype=picked.dtype)
        ids[there] = picked
    return Answers(first, kept.rows, distances, ids)
