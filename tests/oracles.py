"""Codebooks written out in plain float64 NumPy: what encoding and decoding must come to, kind by kind."""

from __future__ import annotations

import numpy as np

from vqpipe.codebook import Codebook

# As many choices as FAISS keeps unless told otherwise.
BEAM = 5


def longhand_decode(codebook: Codebook, codes: np.ndarray) -> np.ndarray:
    """Return what codes stand for in float64, by the docstring's formula."""
    total = np.zeros((len(codes), codebook.dim))
    width = codebook.dim // codebook.m
    for column in range(codebook.columns):
        stage, part = divmod(column, codebook.m)
        here = slice(part * width, (part + 1) * width)
        total[:, here] += codebook.centroids[stage, part, codes[:, column].astype(int)]
    if codebook.rotation is None:
        return total
    rotation, offset = codebook.rotation.astype(np.float64), codebook.offset.astype(np.float64)
    return (total - rotation @ offset) @ rotation + offset


def longhand_beam(row: np.ndarray, centroids: np.ndarray) -> list[int]:
    """Return one row's labels by a beam search written out, in float64."""
    kept: list[tuple[float, list[int], np.ndarray]] = [(0.0, [], row)]
    for codewords in centroids:
        found = [
            (float(((left - codeword) ** 2).sum()), [*labels, label], left - codeword)
            for _, labels, left in kept
            for label, codeword in enumerate(codewords)
        ]
        kept = sorted(found, key=lambda one: one[0])[:BEAM]
    return kept[0][1]


def longhand_nearest(row: np.ndarray, codewords: np.ndarray) -> int:
    """Return the nearest of codewords by float64 differences; of equal ones the first."""
    return int(((codewords - row) ** 2).sum(axis=1).argmin())


def longhand_encode(codebook: Codebook, rows: np.ndarray) -> np.ndarray:
    """Return the codes of rows, int64 of shape (rows, columns): no product that could cancel.

    A rotated row is compared with rotated codewords, so the rotation alone moves nothing by the offset.
    """
    wide = rows.astype(np.float64)
    if codebook.metric == "cosine":
        wide = wide / np.sqrt((wide**2).sum(axis=1, keepdims=True))
    if codebook.rotation is not None:
        wide = wide @ codebook.rotation.astype(np.float64).T
    centroids = codebook.centroids.astype(np.float64)
    if codebook.kind == "RQ":
        return np.array([longhand_beam(row, centroids[:, 0]) for row in wide])
    width = codebook.dim // codebook.m
    codes = np.empty((len(rows), codebook.m), dtype=np.int64)
    for number, row in enumerate(wide):
        for part in range(codebook.m):
            piece = row[part * width : (part + 1) * width]
            codes[number, part] = longhand_nearest(piece, centroids[0, part])
    return codes
