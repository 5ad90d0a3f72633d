"""The distribution of squared errors: counts that add, in bins that no data chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqpipe.dtypes import Float64, Int64

# Bins of an octave: each is 4.4% wide, finer than 10,000 rows can tell apart.
PER_OCTAVE = 16

# From far below what float32 rows can differ by, squared, to above the largest squared norm that a row may have:
# 512 octaves, so that bins can be merged by halving their number.
_LOWEST, _HIGHEST = -380, 132
BINS = (_HIGHEST - _LOWEST) * PER_OCTAVE

# Where the bins of an octave begin; `frexp` gives mantissas from 0.5.
_STEPS = 2.0 ** (np.arange(PER_OCTAVE) / PER_OCTAVE - 1.0)

# As many bins as are written down, at most and at least; between, the square root of the rows, as is usual.
MOST_BINS, LEAST_BINS = 128, 16


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """How many rows have an error of each size.

    Attributes
    ----------
    counts : int64 array of shape (BINS,)
        Of errors above zero. Bins are cut by powers of two alone, so that counts of any rows add.
    zero : int
        Rows that are restored exactly.
    """

    counts: Int64
    zero: int

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        """Return the counts of the rows of both."""
        return ErrorCounts(self.counts + other.counts, self.zero + other.zero)

    def plain(self) -> dict[str, Any]:
        """Return ``edges`` (one more than there are bins), ``counts`` and ``zero``, from the first bin with rows on.

        Neighbours are merged until there are no more bins than so many rows can fill.
        """
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return {"edges": [], "counts": [], "zero": self.zero}
        rows = int(self.counts.sum())
        most = min(MOST_BINS, max(LEAST_BINS, math.isqrt(rows)))
        width = 1
        while filled[-1] // width - filled[0] // width >= most:
            width *= 2
        first, last = int(filled[0]) // width, int(filled[-1]) // width
        merged = self.counts.reshape(-1, width)[first : last + 1].sum(axis=1)
        edges = [_edge(width * place) for place in range(first, last + 2)]
        return {"edges": edges, "counts": merged.tolist(), "zero": self.zero}


def count_errors(squared_errors: Float64) -> ErrorCounts:
    """Count errors by their size.

    Parameters
    ----------
    squared_errors : float64 array of shape (rows,)
        Of rows that have a nearest codeword: at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> count_errors(np.array([0.0, 1.0, 1.01, 2.5])).plain()["counts"][:2]
    [2, 0]
    """
    above = squared_errors[squared_errors > 0]
    mantissas, exponents = np.frexp(above)
    steps = np.searchsorted(_STEPS, mantissas, side="right") - 1
    places = (exponents.astype(np.int64) - _LOWEST) * PER_OCTAVE + steps
    counts = np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)
    return ErrorCounts(counts.astype(np.int64), len(squared_errors) - len(above))


def _edge(place: int) -> float:
    """Return where a bin begins."""
    return math.ldexp(float(_STEPS[place % PER_OCTAVE]), _LOWEST + place // PER_OCTAVE)
