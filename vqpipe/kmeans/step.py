"""One step of training: statistics in, codewords out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import SURPLUS, Codebook
from vqpipe.dtypes import Float32, Float64
from vqpipe.kmeans.moves import move_starved
from vqpipe.kmeans.state import TrainState
from vqpipe.kmeans.tally import Tally

# What was forgotten down to this is no longer known: its quotients are rounding alone.
LEAST_WEIGHT = 1e-100

# A codeword of which less is remembered stands for no row.
LIVING_WEIGHT = 0.5

# Codewords that are worked on at a time: the float64 copies of millions of them never exist at once.
_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did.

    Attributes
    ----------
    state : TrainState
    dead : int
        Codewords for which less than half a row is remembered (surplus ones not counted).
    moved : int
        Codewords that were moved.
    """

    state: TrainState
    dead: int
    moved: int


def take_step(state: TrainState, tally: Tally, decay: float, seed: int, moves: bool) -> Step:
    """Fold one batch into the statistics and move the last stage's codewords to the means of their rows.

    The state that is given is spent: its statistics, which may be as large as memory allows, are
    changed in place and are the next state's.

    Parameters
    ----------
    state : TrainState
    tally : Tally
        Of the batch, against the state's codebook.
    decay : float
        What the statistics are multiplied by first.
    seed : int
    moves : bool
        Whether starved codewords are moved to where they lower the distortion more.

    Notes
    -----
    The running mean with forgetting is the streaming k-means of Ackermann et al. and of Spark's MLlib;
    plain averaging is the count-rate rule of Bottou and Bengio (1995) and Sculley (2010).
    """
    sums, weights, errors = state.sums, state.weights, state.errors
    for values in (sums, weights, errors):
        np.multiply(values, decay, out=values)
    m, k, width = sums.shape
    flat = sums.reshape(-1, width)
    for start in range(0, len(tally.touched), _BLOCK):
        block = slice(start, start + _BLOCK)
        flat[tally.touched[block]] += tally.sums[block]
    weights.reshape(-1)[tally.touched] += tally.counts
    errors.reshape(-1)[tally.touched] += tally.squared_error
    codebook = state.codebook
    alive = ~(codebook.centroids[-1] == SURPLUS).all(axis=2)
    centroids = np.empty_like(codebook.centroids)
    centroids[:-1] = codebook.centroids[:-1]
    offsets = codebook.stage_offset(-1)
    moved = 0
    rng = np.random.default_rng((seed, state.round))
    for column in range(m):
        known = (sums[column], weights[column])
        placed = centroids[-1, column]
        _place(codebook, column, offsets[column], *known, np.arange(k), placed)
        if moves:
            changed = move_starved(
                placed, offsets[column], *known, errors[column], alive[column], rng
            )
            _place(codebook, column, offsets[column], *known, changed, placed)
            moved += len(changed) // 2
    stepped = replace(
        state,
        codebook=replace(codebook, centroids=centroids),
        sums=sums,
        weights=weights,
        errors=errors,
        round=state.round + 1,
    )
    return Step(stepped, int((alive & (weights < LIVING_WEIGHT)).sum()), moved)


def _place(
    codebook: Codebook,
    column: int,
    offset: Float32,
    sums: Float64,
    weights: Float64,
    codes: NDArray[np.intp],
    centroids: Float32,
) -> None:
    """Write codewords of a column where their statistics put them, in the data's own place.

    One that stands for no row stays where it was, and so does a surplus one. Codewords of a cosine KM
    codebook are put on the unit sphere.
    """
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK]
        stored = codebook.centroids[-1, column, block]
        known = weights[block] > LEAST_WEIGHT
        means = sums[block] / np.where(known, weights[block], 1.0)[:, None]
        if codebook.metric == "cosine" and codebook.kind == "KM":
            norms = np.linalg.norm(means, axis=1)
            # Rows that cancel point nowhere.
            known &= norms > 0
            means /= np.where(known, norms, 1.0)[:, None]
        placed = (means + offset).astype(np.float32)
        centroids[block] = np.where(known[:, None], placed, stored)
