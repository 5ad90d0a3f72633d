"""A search over many codewords: rows are compared with the codewords of the groups nearest to them.

The inverted file of Jégou et al. (2011), over codewords instead of rows: the codewords are put into
about sqrt(k) groups by a k-means of their own, and rows that look into the same group are
multiplied with it together, so that all arithmetic is matrix products on cache-sized blocks. The
codeword that is found need not be the nearest: training measures by how much it misses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Float32, Labels
from vqpipe.kernels import NearestCodewords, can_compile

# From a group, rows with a constant 1 behind them, those that look into it, and what they have found so far.
Look = Callable[[int, Float32, Labels, Float32, NDArray[np.int32]], None]

# Groups are refined this often, on this share of the codewords: more brings nothing, as codewords move between
# rounds anyway, and every worker does it in every round.
_REFINEMENTS, _REFINED_SHARE = 4, 4

# Rows whose scores are held at a time: with a group's 128 to 256 codewords, half a megabyte.
_BLOCK_ROWS = 512

# Codewords, or rows, that are compared with all groups at a time.
_WINDOW_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Groups:
    """Codewords by groups.

    Attributes
    ----------
    centres : float32 array of shape (width + 1, groups)
        Centres, transposed, above their negative half squared norms: laid out for products.
    parts : list of float32 arrays of shape (size, width)
        Each group's codewords.
    starts : int array of shape (groups + 1,)
    order : int array of shape (k,)
        Codewords, group after group.
    """

    centres: Float32
    parts: list[Float32]
    starts: NDArray[np.intp]
    order: NDArray[np.intp]


def count_groups(k: int) -> int:
    """Return how many groups ``k`` codewords are put into: the power of two next to sqrt(k)."""
    return 1 << round(math.log2(k) / 2)


def make_groups(centroids: Float32) -> Groups:
    """Put codewords into groups.

    Parameters
    ----------
    centroids : float32 array of shape (k, width)
        Offset subtracted, none of them surplus.
    """
    k, width = centroids.shape
    count = count_groups(k)
    # Any spread-out choice does: codewords are in no order.
    centres = centroids[:: k // count][:count].copy()
    some = centroids[::_REFINED_SHARE]
    for _ in range(_REFINEMENTS):
        labels = _nearest(some, _table(centres))
        sizes = np.bincount(labels, minlength=count)
        sums = np.empty((count, width))
        for axis in range(width):
            sums[:, axis] = np.bincount(labels, weights=some[:, axis], minlength=count)
        filled = sizes > 0
        centres[filled] = sums[filled] / sizes[filled, None]
    labels = _nearest(centroids, _table(centres))
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=count))])
    parts = [centroids[order[start:stop]] for start, stop in pairwise(starts)]
    return Groups(_table(centres), parts, starts, order)


def make_grouped(centroids: Float32, probes: int) -> Callable[[Float32], Labels]:
    """Return the function that finds a near codeword of centred rows.

    Parameters
    ----------
    centroids : float32 array of shape (k, width)
    probes : int
        Groups that a row looks into.

    Returns
    -------
    callable
        From float32 rows of shape (rows, width) to labels of shape (rows,).
    """
    groups = make_groups(centroids)
    width = centroids.shape[1]

    look = _fused_look(groups) if can_compile() else _product_look(groups)

    def assign(rows: Float32) -> Labels:
        operand = np.ones((len(rows), width + 1), dtype=np.float32)
        operand[:, :width] = rows
        lookers, bounds = _visits(operand, groups.centres, probes)
        scores = np.full(len(rows), -np.inf, dtype=np.float32)
        found = np.full(len(rows), -1, dtype=np.int32)
        for at in range(len(groups.parts)):
            visiting = lookers[bounds[at] : bounds[at + 1]]
            if len(visiting):
                look(at, operand, visiting, scores, found)
        return groups.order[found]

    return assign


def _fused_look(groups: Groups) -> Look:
    """Return what compares the rows that look into a group with its codewords, in machine code."""
    codewords = [
        NearestCodewords(part[None], first=int(start))
        for part, start in zip(groups.parts, groups.starts[:-1], strict=True)
    ]

    def look(
        at: int, operand: Float32, visiting: Labels, scores: Float32, found: NDArray[np.int32]
    ) -> None:
        codewords[at].improve(operand, visiting, scores[None], found[None])

    return look


def _product_look(groups: Groups) -> Look:
    """Return the same by products of cache-sized blocks."""
    tables = [_table(part) for part in groups.parts]

    def look(
        at: int, operand: Float32, visiting: Labels, scores: Float32, found: NDArray[np.int32]
    ) -> None:
        table = tables[at]
        if not table.shape[1]:
            return
        for start in range(0, len(visiting), _BLOCK_ROWS):
            these = visiting[start : start + _BLOCK_ROWS]
            block = operand[these] @ table
            labels = block.argmax(axis=1)
            score = block[np.arange(len(these)), labels]
            better = score > scores[these]
            these = these[better]
            scores[these] = score[better]
            found[these] = labels[better] + groups.starts[at]

    return look


def _visits(
    operand: Float32, centres: Float32, probes: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows that look into each group, group after group, and where each group's begin."""
    count = centres.shape[1]
    looked = np.empty((len(operand), probes), dtype=np.uint16)
    for start in range(0, len(operand), _WINDOW_ROWS):
        scores = operand[start : start + _WINDOW_ROWS] @ centres
        last = np.argpartition(scores, count - probes, axis=1)[:, count - probes :]
        looked[start : start + _WINDOW_ROWS] = last
    flat = looked.ravel()
    # A stable sort of 16-bit numbers is a radix sort.
    order = np.argsort(flat, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=count))])
    return order // probes, bounds


def _table(vectors: Float32) -> Float32:
    """Return vectors transposed above their negative half squared norms."""
    count, width = vectors.shape
    table = np.empty((width + 1, count), dtype=np.float32)
    table[:width] = vectors.T
    table[width] = -0.5 * np.einsum("kw,kw->k", vectors, vectors, dtype=np.float64)
    return table


def _nearest(vectors: Float32, table: Float32) -> NDArray[np.intp]:
    width = vectors.shape[1]
    nearest = np.empty(len(vectors), dtype=np.intp)
    for start in range(0, len(vectors), _WINDOW_ROWS):
        scores = vectors[start : start + _WINDOW_ROWS] @ table[:width] + table[width]
        nearest[start : start + _WINDOW_ROWS] = scores.argmax(axis=1)
    return nearest
