"""Residual stages refined together: each was learnt before those after it were known.

Given the codes of all stages, the codewords that lower the distortion most are a least-squares problem over all
of them (Babenko and Lempitsky 2014; FAISS solves it where ``Train_refine_codebook`` is asked). Its matrix has a
row for each codeword of each stage, so it is not put up: a round takes one damped Jacobi step, which needs for
each codeword only the mean of what all stages leave of its rows, and codes are found anew after each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vqpipe.codebook import SURPLUS, Codebook
from vqpipe.kmeans.tally import Tally

# Each round is one pass over the training rows. After 4 most is gained, after 8 nearly all.
REFINING_ROUNDS = 8

# Of the step that would be right if the other stages stood still. All of it is best with a thousand rows a
# codeword; with 70 the stages then begin to follow each other's steps, and distortion rises after four rounds.
DAMPING = 0.8


def refine(codebook: Codebook, tally: Tally) -> Codebook:
    """Return the codebook after one step of all its stages.

    Parameters
    ----------
    codebook : Codebook
        With m = 1.
    tally : Tally
        Of what all stages leave of the training rows, by the codewords of all stages: `tally_left`.

    Notes
    -----
    A shift that all rows share would be taken by each stage at once, and be overshot: the last stage takes
    it alone. What remains couples the stages weakly, for the codes of different stages are nearly independent.
    """
    stages, _, k, dim = codebook.centroids.shape
    first = tally.touched < k
    shared = tally.sums[first].sum(axis=0) / tally.rows
    steps = np.zeros((stages * k, dim))
    steps[tally.touched] = DAMPING * (tally.sums / tally.counts[:, None] - shared)
    steps = steps.reshape(codebook.centroids.shape)
    steps[-1] += shared
    surplus = (codebook.centroids == SURPLUS).all(axis=3, keepdims=True)
    moved = (codebook.centroids + steps).astype(np.float32)
    return replace(codebook, centroids=np.where(surplus, SURPLUS, moved))
