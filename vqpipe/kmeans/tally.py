"""What one slice of rows says about the codewords: sums, counts and squared errors that add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Float32, Float64, Int64

# Codewords whose sums are added at a time: no copy of millions of them exists.
_BLOCK = 1 << 10


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over rows, kept for the codewords that were touched alone.

    Attributes
    ----------
    touched : int64 array of shape (touched,)
        Ascending ``column * k + code`` of the codewords that are nearest to some row.
    sums : float64 array of shape (touched, dim / m)
        Sums of the sub-vectors nearest to each, offset subtracted.
    counts : int64 array of shape (touched,)
        How many there were. (float32 counts would stop at 2^24.)
    squared_error : float64 array of shape (touched,)
        Sums of ||x - c||^2.
    rows : int
        Rows that were looked at.
    """

    touched: Int64
    sums: Float64
    counts: Int64
    squared_error: Float64
    rows: int

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of the rows of both."""
        size = 1 + max(int(part.touched.max(initial=-1)) for part in (self, other))
        # A mark for every codeword costs less than sorting those that were touched.
        mark = np.zeros(size, dtype=bool)
        mark[self.touched] = mark[other.touched] = True
        touched, place = np.flatnonzero(mark), np.cumsum(mark) - 1
        sums = np.zeros((len(touched), self.sums.shape[1]))
        counts = np.zeros(len(touched), dtype=np.int64)
        squared_error = np.zeros(len(touched))
        for part in (self, other):
            where = place[part.touched]
            for start in range(0, len(where), _BLOCK):
                block = slice(start, start + _BLOCK)
                sums[where[block]] += part.sums[block]
            counts[where] += part.counts
            squared_error[where] += part.squared_error
        return Tally(touched, sums, counts, squared_error, self.rows + other.rows)

    @property
    def distortion(self) -> float:
        """Mean squared error of a row over all its columns."""
        return float(self.squared_error.sum()) / self.rows


def tally_rows(rows: Float32, labels: NDArray[np.intp], centroids: Float32) -> Tally:
    """Add up the rows by their nearest codeword.

    Parameters
    ----------
    rows : float32 array of shape (rows, dim)
        Offset subtracted.
    labels : int array of shape (rows, m)
        Nearest codeword of each sub-vector.
    centroids : float32 array of shape (m, k, dim / m)
        Offset subtracted.
    """
    m, k, width = centroids.shape
    flat = (labels + np.arange(m) * k).ravel()
    counts = np.bincount(flat, minlength=m * k)
    touched = np.flatnonzero(counts)
    place = np.empty(m * k, dtype=np.intp)
    place[touched] = np.arange(len(touched))
    compact = place[flat]
    vectors = rows.reshape(-1, width)
    sums = np.empty((len(touched), width))
    for axis in range(width):
        sums[:, axis] = np.bincount(compact, weights=vectors[:, axis], minlength=len(touched))
    errors = squared_errors(rows, labels, centroids).ravel()
    squared_error = np.bincount(compact, weights=errors, minlength=len(touched)).astype(np.float64)
    return Tally(touched, sums, counts[touched], squared_error, len(rows))


def tally_left(left: Float32, labels: NDArray[np.intp], k: int) -> Tally:
    """Add up what residual stages leave of rows, by the codewords of every stage.

    Parameters
    ----------
    left : float32 array of shape (rows, dim)
    labels : int array of shape (rows, stages)
    k : int
        Codewords of a stage.

    Returns
    -------
    Tally
        Over ``stage * k + code``. Each stage has its share of a row's squared error.
    """
    stages = labels.shape[1]
    errors = np.einsum("nd,nd->n", left, left, dtype=np.float64) / stages
    flat = labels + np.arange(stages) * k
    counts = np.bincount(flat.ravel(), minlength=stages * k)
    sums = np.empty((stages * k, left.shape[1]))
    squared_error = np.empty(stages * k)
    # As bincount adds them, once for all stages.
    axes = np.ascontiguousarray(left.T, dtype=np.float64)
    for stage in range(stages):
        own = slice(stage * k, (stage + 1) * k)
        codes = np.ascontiguousarray(labels[:, stage])
        squared_error[own] = np.bincount(codes, weights=errors, minlength=k)
        for axis, weights in enumerate(axes):
            sums[own, axis] = np.bincount(codes, weights=weights, minlength=k)
    touched = np.flatnonzero(counts)
    return Tally(touched, sums[touched], counts[touched], squared_error[touched], len(left))


def squared_errors(rows: Float32, labels: NDArray[np.intp], centroids: Float32) -> Float64:
    """Return ||x - c||^2 of every sub-vector, from rows and codewords, in float64.

    Parameters
    ----------
    rows, labels, centroids
        As `tally_rows` takes them.

    Returns
    -------
    float64 array of shape (rows, m)
    """
    m, _, width = centroids.shape
    errors = np.empty(labels.shape)
    # Blocks that stay in the cache: the float64 copies never reach memory.
    for start in range(0, len(rows), 256):
        block = rows[start : start + 256].reshape(-1, m, width).astype(np.float64)
        block -= centroids[np.arange(m), labels[start : start + 256]]
        errors[start : start + 256] = np.einsum("nmw,nmw->nm", block, block)
    return errors


def residual_errors(rows: Float32, labels: NDArray[np.intp], centroids: Float32) -> Float64:
    """Return ||x - (c + c' + ...)||^2 of every row over residual stages, in float64.

    Parameters
    ----------
    rows : float32 array of shape (rows, dim)
        Offset subtracted.
    labels : int array of shape (rows, stages)
    centroids : float32 array of shape (stages, 1, k, dim)
        Offset subtracted from the first stage's.

    Returns
    -------
    float64 array of shape (rows,)
    """
    errors = np.empty(len(rows))
    for start in range(0, len(rows), 256):
        left = rows[start : start + 256].astype(np.float64)
        for stage, codewords in enumerate(centroids[:, 0]):
            left -= codewords[labels[start : start + 256, stage]]
        errors[start : start + 256] = np.einsum("nd,nd->n", left, left)
    return errors
