"""Choosing the assignment route of a codebook by measuring, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vqpipe.codebook import CodebookSpec
from vqpipe.dtypes import Float32, Labels
from vqpipe.quantizer.assign import FLAT_BLOCK_ROWS, Route, choose_route, make_assigner

# Multiply-adds of one trial: some 5 ms. The flat route fills a block with zeros where the rows do not.
_TRIAL_WORK = 200_000_000
_LEAST_ROWS, _MOST_ROWS = 256, FLAT_BLOCK_ROWS
_MOST_CODEWORDS = 4096
_TRIALS = 3

# The rule's route is left only for one that is so much faster: two machines of one kind must not choose
# differently for the noise of a timing, since their codes would differ at float ties.
LEAST_GAIN = 1.5


def calibrate_route(spec: CodebookSpec, dim: int) -> Route:
    """Return the route for a codebook's shape on this CPU.

    Routes are timed on the CPU's own clock of this thread, on normal rows; call it on one BLAS thread. That
    takes a tenth of a second.

    Parameters
    ----------
    spec : CodebookSpec
    dim : int
    """
    rule, fallback = choose_route(spec, dim), choose_route(spec, dim, compiled=False)
    if rule == fallback:
        return rule
    rng = np.random.default_rng(0)
    # Routes go through codewords in pieces: more tell no more.
    k = min(spec.k, _MOST_CODEWORDS)
    centroids = rng.standard_normal((spec.m, k, dim // spec.m), dtype=np.float32)
    wanted = _TRIAL_WORK // (k * dim)
    other = replace(fallback, block_rows=min(fallback.block_rows, max(_LEAST_ROWS, wanted)))
    rows = rng.standard_normal((min(_MOST_ROWS, max(_LEAST_ROWS, wanted)), dim), dtype=np.float32)
    ways = {route: make_assigner(centroids, route) for route in (rule, other)}
    seconds = {
        route: min(_seconds(way, rows) for _ in range(_TRIALS)) for route, way in ways.items()
    }
    return fallback if seconds[rule] > LEAST_GAIN * seconds[other] else rule


def _seconds(way: Callable[[Float32], Labels], rows: Float32) -> float:
    began = time.thread_time()
    way(rows)
    return time.thread_time() - began
