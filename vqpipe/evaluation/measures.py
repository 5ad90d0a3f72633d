"""Distortion over rows and use of codewords over codes: sums that add, figures that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Codes, Float64, Int64, Mask

# A codeword used less than this share of the mean is called starved.
STARVED_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Spread:
    """How far rows are from their codewords and from their mean.

    Attributes
    ----------
    rows : int
    squared_error : float
        Sum of ||x - decode(code)||^2.
    total : float64 array of shape (dim,)
        Sum of the rows, moved by a point near their mean.
    squares : float
        Sum of their squared norms, moved likewise.
    """

    rows: int
    squared_error: float
    total: Float64
    squares: float

    def __add__(self, other: Spread) -> Spread:
        """Return the spread of the rows of both."""
        return Spread(
            self.rows + other.rows,
            self.squared_error + other.squared_error,
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def distortion(self) -> float:
        """Mean of ||x - decode(code)||^2."""
        return self.squared_error / self.rows

    @property
    def relative_distortion(self) -> float | None:
        """Distortion over the mean of ||x - mean||^2; None if all rows are equal."""
        mean = self.total / self.rows
        variance = self.squares / self.rows - float(mean @ mean)
        # Below what float64 leaves of the difference, the rows are equal.
        noise = 1e-12 * self.squares / self.rows
        return self.distortion / variance if variance > noise else None


@dataclass(frozen=True, eq=False)
class CodeUse:
    """How often each codeword is used.

    Attributes
    ----------
    counts : int64 array of shape (columns, k)
    """

    counts: Int64

    def __add__(self, other: CodeUse) -> CodeUse:
        """Return the use by the rows of both."""
        return CodeUse(self.counts + other.counts)

    @property
    def perplexity(self) -> list[float]:
        """Per column, exp of the entropy of the counts: how many codewords are used in effect."""
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
        return [float(value) for value in np.exp(-(shares * logs).sum(axis=1))]

    @property
    def dead(self) -> list[int]:
        """Per column, codewords that no row uses."""
        return [int(value) for value in (self.counts == 0).sum(axis=1)]

    @property
    def starved(self) -> list[int]:
        """Per column, codewords used less than a tenth of the mean, dead ones included."""
        means = self.counts.mean(axis=1, keepdims=True)
        return [int(value) for value in (self.counts < STARVED_SHARE * means).sum(axis=1)]

    @property
    def imbalance(self) -> list[float]:
        """Per column, the largest count over the mean."""
        means = np.maximum(self.counts.mean(axis=1), np.finfo(np.float64).tiny)
        return [float(value) for value in self.counts.max(axis=1) / means]


def count_codes(codes: Codes, valid: Mask, k: int) -> CodeUse:
    """Count the codes of valid rows, column by column.

    Examples
    --------
    >>> import numpy as np
    >>> count_codes(np.array([[1], [1], [0]]), np.ones(3, bool), 3).counts
    array([[1, 2, 0]])
    """
    kept = codes if valid.all() else codes[valid]
    columns = [np.bincount(kept[:, column], minlength=k) for column in range(codes.shape[1])]
    counts: NDArray[np.int64] = np.array(columns, dtype=np.int64)
    return CodeUse(counts)
