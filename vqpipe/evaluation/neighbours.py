"""Nearest rows of queries, exact and by code, found block by block and merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Float32, Float64, Int64
from vqpipe.memory import SEARCH_BLOCK_ROWS

# A float32 product ranks the nearest row among its first few; float64 says which of them it is.
SHORTLIST = 16


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of each query, nearest first; equal distances by smaller row number.

    Attributes
    ----------
    distances : float64 array of shape (queries, places)
        Squared distances; Inf where there are fewer rows.
    rows : int64 array of shape (queries, places)
        Row numbers in the source; -1 where there are fewer rows.
    """

    distances: Float64
    rows: Int64

    @classmethod
    def none(cls, queries: int, places: int) -> Neighbours:
        """Return a list without rows."""
        return cls(np.full((queries, places), np.inf), np.full((queries, places), -1))

    def __add__(self, other: Neighbours) -> Neighbours:
        """Return the nearest among the rows of both."""
        distances = np.concatenate([self.distances, other.distances], axis=1)
        rows = np.concatenate([self.rows, other.rows], axis=1)
        order = np.lexsort((rows, distances), axis=1)[:, : self.rows.shape[1]]
        return Neighbours(
            np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
        )


def search_rows(queries: Float32, rows: Float32, numbers: Int64, places: int) -> Neighbours:
    """Return the nearest of some rows, by float32 distances.

    Parameters
    ----------
    queries : float32 array of shape (queries, dim)
    rows : float32 array of shape (rows, dim)
        Moved by the same offset as the queries.
    numbers : int64 array of shape (rows,)
        Row numbers in the source, ascending.
    places : int
        How many to return per query.
    """
    nearest = Neighbours.none(len(queries), places)
    dim = rows.shape[1]
    squares = np.einsum("ij,ij->i", queries, queries)[:, None]
    # Blocks have one size, the last padded, so that equal codes get equal distances wherever they are.
    for start in range(0, len(rows), SEARCH_BLOCK_ROWS):
        block = rows[start : start + SEARCH_BLOCK_ROWS]
        found = len(block)
        if found < SEARCH_BLOCK_ROWS:
            block = np.concatenate([block, np.zeros((SEARCH_BLOCK_ROWS - found, dim), np.float32)])
        distances = queries @ block.T
        distances *= -2
        distances += np.einsum("ij,ij->i", block, block)
        distances += squares
        distances[:, found:] = np.inf
        nearest = _merge(nearest, distances, numbers[start : start + found])
    return nearest


def _merge(nearest: Neighbours, distances: Float32, numbers: Int64) -> Neighbours:
    """Merge a block of distances into the lists: only what can still enter them is sorted."""
    places = nearest.rows.shape[1]
    bound = nearest.distances[:, -1]
    if np.isinf(bound).any() and distances.shape[1] > places:
        bound = np.minimum(bound, np.partition(distances, places - 1, axis=1)[:, places - 1])
    query, column = np.nonzero((distances <= bound[:, None]) & np.isfinite(distances))
    if not len(query):
        return nearest
    # Candidates of each query side by side, padded to the longest list of them.
    counts = np.bincount(query, minlength=len(bound))
    slot = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    candidates = Neighbours.none(len(bound), int(counts.max()))
    candidates.distances[query, slot] = distances[query, column]
    candidates.rows[query, slot] = numbers[column]
    return nearest + candidates


def rerank(
    queries: Float32, rows: Float32, numbers: Int64, shortlist: Neighbours, places: int
) -> Neighbours:
    """Return the nearest of a shortlist by distances taken in float64 from the rows themselves.

    Parameters
    ----------
    queries, rows, numbers
        As `search_rows` takes them.
    shortlist : Neighbours
        Of these rows.
    places : int
        How many to return per query.
    """
    if not len(rows):
        return Neighbours.none(len(queries), places)
    position = np.searchsorted(numbers, shortlist.rows)
    position[shortlist.rows < 0] = 0
    distances = np.full(shortlist.rows.shape, np.inf)
    for query in range(len(queries)):
        difference = rows[position[query]].astype(np.float64) - queries[query]
        distances[query] = np.einsum("ij,ij->i", difference, difference)
    distances[shortlist.rows < 0] = np.inf
    empty = Neighbours.none(len(queries), places)
    return empty + Neighbours(distances, shortlist.rows)


def recall(truth: Int64, found: NDArray[np.int64], at: list[int]) -> dict[str, float]:
    """Return, for each k, the share of queries whose exact nearest row is among the k found first.

    Parameters
    ----------
    truth : int64 array of shape (queries,)
    found : int64 array of shape (queries, places)
        Nearest by code first.
    at : list of int

    Examples
    --------
    >>> import numpy as np
    >>> recall(np.array([7, 8]), np.array([[7, 1], [2, 3]]), [1, 2])
    {'1': 0.5, '2': 0.5}
    """
    hits = found == truth[:, None]
    return {str(k): float(hits[:, :k].any(axis=1).mean()) for k in at}
