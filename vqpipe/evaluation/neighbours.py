"""Nearest rows of queries, exact and by code, found block by block and merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import Codebook
from vqpipe.dtypes import Codes, Float32, Float64, Int64, Labels
from vqpipe.memory import DECODED_ROWS, SEARCH_BLOCK_ROWS

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


class Search:
    """A search of queries among rows that come piece by piece, by float32 distances.

    Parameters
    ----------
    queries : float32 array of shape (queries, dim)
    places : int
        How many rows to find per query.
    """

    def __init__(self, queries: Float32, places: int) -> None:
        count, dim = queries.shape
        # One product gives |x|^2 - 2 q.x; |q|^2 is the same for all rows and is added at the end.
        self._asked = np.concatenate([-2 * queries, np.ones((count, 1), np.float32)], axis=1)
        self._squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
        self._block = np.empty((SEARCH_BLOCK_ROWS, dim + 1), dtype=np.float32)
        self._distances = np.empty((count, SEARCH_BLOCK_ROWS), dtype=np.float32)
        self._nearest = Neighbours.none(count, places)
        self._waiting: list[tuple[Labels, Float64, Int64]] = []

    def add(self, rows: Float32, numbers: Int64) -> None:
        """Search more rows.

        Parameters
        ----------
        rows : float32 array of shape (rows, dim)
            Moved by the same offset as the queries.
        numbers : int64 array of shape (rows,)
            Row numbers in the source.
        """
        # Blocks have one size, the last padded: equal codes get equal distances wherever they are.
        for start in range(0, len(rows), SEARCH_BLOCK_ROWS):
            stop = min(start + SEARCH_BLOCK_ROWS, len(rows))
            self._add_block(rows[start:stop], numbers[start:stop])

    def add_codes(self, codebook: Codebook, codes: Codes, start: int, numbers: Int64) -> None:
        """Search more rows by what their codes stand for, where rows are placed.

        Parameters
        ----------
        codebook : Codebook
        codes : unsigned array of shape (rows, columns)
            Of consecutive rows.
        start : int
            Row number of the first of them.
        numbers : int64 array
            Row numbers, among theirs, that are searched; in order.
        """
        for first in range(0, len(numbers), DECODED_ROWS):
            some = numbers[first : first + DECODED_ROWS]
            self.add(codebook.decode_placed(codes[some - start]), some)

    def result(self) -> Neighbours:
        """Return the nearest of the rows so far."""
        self._merge_waiting()
        distances = self._nearest.distances + self._squares[:, None]
        return Neighbours(distances, self._nearest.rows)

    def _add_block(self, rows: Float32, numbers: Int64) -> None:
        block, distances, found = self._block, self._distances, len(rows)
        block[:found, :-1] = rows
        block[:found, -1] = np.einsum("ij,ij->i", rows, rows)
        block[found:, :-1], block[found:, -1] = 0, np.inf
        np.matmul(self._asked, block.T, out=distances)
        bound = _bound(self._nearest, distances)
        # Flat, since NumPy finds few hits in a long array several times faster than in a table.
        query, column = np.divmod(np.flatnonzero(distances <= bound[:, None]), SEARCH_BLOCK_ROWS)
        if np.isinf(bound).any():
            kept = np.isfinite(distances[query, column])
            query, column = query[kept], column[kept]
        near = distances[query, column].astype(np.float64)
        self._waiting.append((query, near, numbers[column]))
        # Lists are merged when as much waits as they hold; until then bounds are only looser.
        waiting = sum(len(part[0]) for part in self._waiting)
        if np.isinf(bound).any() or waiting > self._nearest.rows.size:
            self._merge_waiting()

    def _merge_waiting(self) -> None:
        self._nearest, self._waiting = _merge(self._nearest, self._waiting), []


def search_rows(queries: Float32, rows: Float32, numbers: Int64, places: int) -> Neighbours:
    """Return the nearest of some rows: a `Search` of one piece."""
    search = Search(queries, places)
    search.add(rows, numbers)
    return search.result()


def _bound(nearest: Neighbours, distances: Float32) -> Float64:
    """Return, per query, the distance beyond which no row of a block can enter its list."""
    bound = nearest.distances[:, -1]
    places = nearest.rows.shape[1]
    if np.isinf(bound).any() and distances.shape[1] > places:
        return np.minimum(bound, np.partition(distances, places - 1, axis=1)[:, places - 1])
    return bound


def _merge(nearest: Neighbours, waiting: list[tuple[Labels, Float64, Int64]]) -> Neighbours:
    """Merge candidates (query, distance, row) into the lists."""
    if not any(len(part[0]) for part in waiting):
        return nearest
    query, distance, row = (np.concatenate(part) for part in zip(*waiting, strict=True))
    order = np.argsort(query, kind="stable")
    query = query[order]
    # Candidates of each query side by side, padded to the longest list of them.
    counts = np.bincount(query, minlength=len(nearest.rows))
    slot = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    candidates = Neighbours.none(len(counts), int(counts.max()))
    candidates.distances[query, slot] = distance[order]
    candidates.rows[query, slot] = row[order]
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
