"""The first codewords: distinct rows of the sample, drawn uniformly by its order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vqpipe.codebook import SURPLUS
from vqpipe.dtypes import Float32


def first_distinct(pieces: Iterable[Float32], m: int, k: int) -> tuple[Float32, list[int]]:
    """Return, for every column, the first ``k`` distinct sub-vectors of a stream of shuffled rows.

    The stream is read no further than it must be.

    Parameters
    ----------
    pieces : iterable of float32 arrays of shape (rows, dim)
    m : int
        Columns.
    k : int
        Codewords per column.

    Returns
    -------
    centroids : float32 array of shape (m, k, dim / m)
        Where a column has fewer than ``k`` distinct sub-vectors, the rest are `SURPLUS`.
    distinct : list of int
        How many were found per column, at most ``k``.
    """
    found: list[Float32] = []
    for piece in pieces:
        columns = np.split(piece, m, axis=1)
        if not found:
            found = [column[:0] for column in columns]
        found = [
            kept if len(kept) == k else _distinct(np.concatenate([kept, column]))[:k]
            for kept, column in zip(found, columns, strict=True)
        ]
        if all(len(kept) == k for kept in found):
            break
    width = found[0].shape[1]
    centroids = np.full((m, k, width), SURPLUS, dtype=np.float32)
    for column, kept in enumerate(found):
        centroids[column, : len(kept)] = kept
    return centroids, [len(kept) for kept in found]


def _distinct(rows: Float32) -> Float32:
    """Return distinct rows in order of first appearance."""
    # Adding zero makes -0.0 and 0.0, which are the same place, the same bytes.
    plain = np.ascontiguousarray(rows + np.float32(0))
    as_bytes = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()
    _, first = np.unique(as_bytes, return_index=True)
    distinct: Float32 = plain[np.sort(first)]
    return distinct
