"""Residual stages searched together: for each row the few best ways to choose so far are kept.

A greedy choice, stage by stage, is not the nearest sum of codewords; a beam of the best partial sums comes
nearer to it (Babenko and Lempitsky 2014, and FAISS's ``ResidualQuantizer``, whose beam of 5 this is). All
partial sums of a block of rows are scored by a few products: with p a partial sum and c a codeword of the
next stage, ||x - p - c||^2 grows as ``p.c + |c|^2 / 2 - x.c``, and x.c is the same for all of a row's
partial sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vqpipe.codebook import SURPLUS
from vqpipe.dtypes import Float32, Labels

# FAISS's default. A wider beam of 20 lowers distortion by 1 to 2% more and takes four times as long.
BEAM = 5

# Scores of a block of rows that stay in the second-level cache: half a megabyte of float32.
_BLOCK_SCORES = 1 << 19
_MOST_BLOCK_ROWS = 256

# Products of codewords with those of the stages before are looked up where they fit this many bytes; else the
# partial sums themselves are multiplied with the codewords, which takes longer (1.4 times at 128 dims).
TABLE_BYTES = 64 << 20

# The half squared norm, negative, of a codeword that must never be chosen: 255 of them can still be added.
_NEVER = np.float32(np.finfo(np.float32).min / 256)


def block_rows(k: int) -> int:
    """Return the rows that are computed together: a power of two, so that it divides a route's block.

    Examples
    --------
    >>> block_rows(256), block_rows(4096)
    (256, 16)
    """
    most = min(_MOST_BLOCK_ROWS, max(1, _BLOCK_SCORES // (BEAM * k)))
    return 1 << (most.bit_length() - 1)


def table_bytes(stages: int, k: int) -> int:
    """Return the bytes of the looked-up products; 0 where there are too many."""
    size = stages * (stages - 1) // 2 * k * k * 4
    return size if size <= TABLE_BYTES else 0


def beam_bytes(stages: int, k: int) -> int:
    """Return the bytes that a search takes beside the codewords: what it looks up, and a block's scores."""
    if stages == 1:
        return 0
    block = block_rows(k) * k * 4
    return table_bytes(stages, k) + block * (stages + 2 * BEAM)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Codewords laid out for the products.

    Attributes
    ----------
    placed : float32 array of shape (stages, k, dim)
        Surplus codewords are zero.
    table : float32 array of shape (dim + 1, stages * k)
        All codewords, transposed, above their negative half squared norms.
    crossed : list of float32 arrays of shape (stage * k, k), or None
        For each stage: products of the codewords before it with its own.
    """

    placed: Float32
    table: Float32
    crossed: list[Float32] | None


def _lay_out(centroids: Float32) -> _Layout:
    stages, k, dim = centroids.shape
    surplus = (centroids == SURPLUS).all(axis=2)
    placed = np.where(surplus[:, :, None], np.float32(0), centroids)
    flat = placed.reshape(stages * k, dim)
    table = np.empty((dim + 1, stages * k), dtype=np.float32)
    table[:dim] = flat.T
    halves = -0.5 * np.einsum("kd,kd->k", flat, flat, dtype=np.float64)
    table[dim] = np.where(surplus.ravel(), _NEVER, halves)
    crossed = None
    if table_bytes(stages, k):
        crossed = [flat[: stage * k] @ placed[stage].T for stage in range(stages)]
    return _Layout(placed, table, crossed)


def make_beam_search(centroids: Float32) -> Callable[[Float32], Labels]:
    """Return the function that finds the codewords of placed rows, one of each stage.

    Parameters
    ----------
    centroids : float32 array of shape (stages, k, dim)
        As placed rows and their residuals are compared with them.

    Returns
    -------
    callable
        From float32 rows of shape (rows, dim) to labels of shape (rows, beam, stages): of the best choices
        of a codeword in each stage, the best first. Blocks are counted from the first row, and the last is
        padded with zeros.
    """
    layout = _lay_out(centroids)
    stages, k, dim = centroids.shape
    size = block_rows(k)

    def search(rows: Float32) -> Labels:
        labels = np.empty((len(rows), min(BEAM, k**stages), stages), dtype=np.intp)
        operand = np.ones((size, dim + 1), dtype=np.float32)
        products = np.empty((size, stages * k), dtype=np.float32)
        work = np.empty((size * BEAM, k), dtype=np.float32)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            operand[: len(block), :dim] = block
            operand[len(block) :, :dim] = 0
            np.matmul(operand, layout.table, out=products)
            found = _search_block(layout, products.reshape(size, stages, k), work)
            labels[start : start + len(block)] = found[: len(block)]
        return labels

    return search


def _search_block(layout: _Layout, products: Float32, work: Float32) -> Labels:
    """Return the best labels of a block, shape (rows, beam, stages).

    Parameters
    ----------
    layout : _Layout
    products : float32 array of shape (rows, stages, k)
        Of rows and codewords, half squared norms subtracted.
    work : float32 array of shape (at least rows * BEAM, k)
    """
    rows, stages, k = products.shape
    every = np.arange(rows)[:, None]
    scores = np.zeros((rows, 1), dtype=np.float32)
    labels = np.empty((rows, 1, 0), dtype=np.intp)
    for stage in range(stages):
        width = scores.shape[1]
        candidates = products[:, None, stage] + scores[:, :, None]
        _subtract_crossed(layout, stage, labels, candidates.reshape(-1, k), work[: rows * width])
        best, scores = _take_best(candidates.reshape(rows, width * k), min(BEAM, width * k))
        parent, label = np.divmod(best, k)
        labels = np.concatenate([labels[every, parent], label[:, :, None]], axis=2)
    return labels


def _subtract_crossed(
    layout: _Layout, stage: int, labels: Labels, candidates: Float32, work: Float32
) -> None:
    """Subtract from every candidate's score the product of its codeword with the partial sum before it."""
    k = candidates.shape[1]
    if layout.crossed is not None:
        for before in range(stage):
            places = labels[:, :, before].ravel() + before * k
            # The mode spares a check of the places, which are what they are.
            np.take(layout.crossed[stage], places, axis=0, out=work, mode="clip")
            candidates -= work
    elif stage:
        partial = layout.placed[0][labels[:, :, 0].ravel()]
        for before in range(1, stage):
            partial += layout.placed[before][labels[:, :, before].ravel()]
        np.matmul(partial, layout.placed[stage].T, out=work)
        candidates -= work


def _take_best(scores: Float32, count: int) -> tuple[Labels, Float32]:
    """Return places and scores of the ``count`` best of each row, best first. The scores are spent.

    One argmax after another, of which each is a single fast pass: a partial sort takes several times as
    long. Of equal scores the first is taken.
    """
    every = np.arange(len(scores))
    best = np.empty((len(scores), count), dtype=np.intp)
    found = np.empty((len(scores), count), dtype=np.float32)
    for place in range(count):
        best[:, place] = scores.argmax(axis=1)
        found[:, place] = scores[every, best[:, place]]
        scores[every, best[:, place]] = -np.inf
    return best, found
