"""One step of training: statistics in, codewords out, dead codewords revived."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import SURPLUS, Codebook
from vqpipe.dtypes import Float32, Float64, Int64, Mask
from vqpipe.kmeans.state import TrainState
from vqpipe.kmeans.tally import Tally

# A codeword that holds less than this share of the mean weight is as good as dead.
STARVED_SHARE = 0.02

# What was forgotten down to this is no longer known: its quotients are rounding alone.
LEAST_WEIGHT = 1e-100

# A revived codeword lands this far from the crowded one, in units of that one's root mean square error.
SPLIT_RADIUS = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did.

    Attributes
    ----------
    state : TrainState
    dead : int
        Codewords that no row of the batch chose (surplus ones not counted).
    moved : int
        Codewords that were revived.
    """

    state: TrainState
    dead: int
    moved: int


def take_step(state: TrainState, tally: Tally, decay: float, seed: int) -> Step:
    """Fold one batch into the statistics and move every codeword to the mean of what it stands for.

    Parameters
    ----------
    state : TrainState
    tally : Tally
        Of the batch, against the state's codebook.
    decay : float
        What the statistics are multiplied by first: below 1 while forgetting, 1 while averaging.
        While averaging no codeword is revived: its statistics would be younger than the others'.
    seed : int

    Notes
    -----
    The running mean with forgetting is the streaming k-means of Ackermann et al. and of Spark's MLlib;
    plain averaging is the count-rate rule of Bottou and Bengio (1995) and Sculley (2010).
    """
    sums, weights = state.sums * decay, state.weights * decay
    m, k, width = sums.shape
    sums.reshape(-1, width)[tally.touched] += tally.sums
    weights.reshape(-1)[tally.touched] += tally.counts
    errors = np.zeros(m * k)
    errors[tally.touched] = tally.squared_error
    counts = np.zeros(m * k, dtype=np.int64)
    counts[tally.touched] = tally.counts
    codebook = state.codebook
    surplus = (codebook.centroids[0] == SURPLUS).all(axis=2)
    means = _means(codebook, sums, weights)
    moved = 0
    if decay < 1 or state.round == 0:
        rng = np.random.default_rng((seed, state.round))
        errors, counts = errors.reshape(m, k), counts.reshape(m, k)
        for column in range(m):
            starved = _starved(weights[column], counts[column], ~surplus[column])
            pairs = _pair_with_worst(starved, errors[column], counts[column])
            for dead, crowded in pairs:
                radius = SPLIT_RADIUS * np.sqrt(errors[column, crowded] / counts[column, crowded])
                _split(means[column], dead, crowded, radius, rng)
                # Reset: neither place was looked at yet, so neither may be held back by old rows.
                sums[column, [dead, crowded]] = 0.0
                weights[column, [dead, crowded]] = 0.0
            moved += len(pairs)
    centroids = _placed(codebook, means, surplus)
    dead = int(((counts.reshape(m, k) == 0) & ~surplus).sum())
    stepped = replace(
        state,
        codebook=replace(codebook, centroids=centroids),
        sums=sums,
        weights=weights,
        round=state.round + 1,
    )
    return Step(stepped, dead, moved)


def _means(codebook: Codebook, sums: Float64, weights: Float64) -> Float64:
    """Return the mean of each codeword's rows, or its old place where it has none."""
    known = weights > LEAST_WEIGHT
    means = codebook.centred().astype(np.float64)
    means[known] = sums[known] / weights[known][:, None]
    return means


def _placed(codebook: Codebook, means: Float64, surplus: Mask) -> Float32:
    """Return centroids in the data's own place; on the unit sphere for a cosine KM codebook."""
    if codebook.metric == "cosine" and codebook.kind == "KM":
        norms = np.linalg.norm(means, axis=2, keepdims=True)
        # Rows that cancel point nowhere: their codeword stays where it was.
        means = np.divide(means, norms, out=codebook.centred().astype(np.float64), where=norms > 0)
    m, _, width = means.shape
    placed = (means + codebook.offset.reshape(m, 1, width)).astype(np.float32)
    placed[surplus] = SURPLUS
    return placed[None]


def _starved(weights: Float64, counts: Int64, alive: Mask) -> NDArray[np.intp]:
    """Return the codewords of one column that no row chose and that hold next to no weight."""
    return np.flatnonzero(alive & (counts == 0) & (weights < STARVED_SHARE * weights[alive].mean()))


def _pair_with_worst(
    starved: NDArray[np.intp], errors: Float64, counts: Int64
) -> list[tuple[int, int]]:
    """Pair each starved codeword with one of those that have the largest error to give away."""
    worst = np.argsort(-errors, kind="stable")[: len(starved)]
    splittable = worst[(counts[worst] > 1) & (errors[worst] > 0)]
    return [(int(dead), int(crowded)) for dead, crowded in zip(starved, splittable, strict=False)]


def _split(
    means: Float64, dead: int, crowded: int, radius: float, rng: np.random.Generator
) -> None:
    """Put two codewords on either side of the place of the crowded one."""
    direction = rng.standard_normal(means.shape[1])
    shift = direction * (radius / np.linalg.norm(direction))
    means[dead], means[crowded] = means[crowded] + shift, means[crowded] - shift
