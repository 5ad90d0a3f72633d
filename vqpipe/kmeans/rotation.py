"""The rotation of an OPQ codebook: where its search starts, and one step of it.

Optimized product quantization (Ge, He, Ke and Sun 2013). Their non-parametric method takes turns: codewords
follow the rows as they are rotated, the rotation follows the codewords. It ends in one of many places, so
where it starts matters: with the axes as they are where they mean something (the 8 directions of a SIFT
histogram lie side by side), with their parametric solution where they do not (embeddings). Both are tried.
"""

from __future__ import annotations

import numpy as np

from vqpipe.dtypes import Float32, Float64

# Rows that the rotation is sought on, and more for many codewords: it has far fewer degrees of freedom than they.
ROTATION_ROWS = 65_536
ROTATION_ROWS_PER_CODEWORD = 32

# Rounds from each of the two starts, of which the one that came lower goes on.
TRIAL_ROUNDS = 8
# Rounds at each start in which codewords alone follow: before they stand for something, a rotation follows noise.
SETTLING_ROUNDS = 4
# All rounds. 20 more bring another 0.5%.
TURNING_ROUNDS = 56

# Products are added in float64 over so many rows at a time.
_BLOCK_ROWS = 1024


def rotation_rows(k: int, train_rows: int) -> int:
    """Return the rows, the first of the training rows, that a rotation is sought on."""
    return min(train_rows, max(ROTATION_ROWS, ROTATION_ROWS_PER_CODEWORD * k))


def cross_products(rows: Float32, others: Float32) -> Float64:
    """Return ``rows^T others``, float64 of shape (dim, dim)."""
    dim = rows.shape[1]
    total = np.zeros((dim, dim))
    for start in range(0, len(rows), _BLOCK_ROWS):
        total += rows[start : start + _BLOCK_ROWS].T @ others[start : start + _BLOCK_ROWS]
    return total


def nearest_rotation(cross: Float64) -> Float32:
    """Return the rotation ``R`` that brings rows nearest to what they are decoded to.

    Parameters
    ----------
    cross : float64 array of shape (dim, dim)
        ``X^T Q`` of centred rows ``X`` and their codewords ``Q``.

    Returns
    -------
    float32 array of shape (dim, dim)
        Of all orthonormal ones the one for which ||X R^T - Q||^2 is least (Schönemann 1966).
    """
    left, _, right = np.linalg.svd(cross)
    return np.ascontiguousarray((left @ right).T, dtype=np.float32)


def principal_rotation(covariance: Float64, m: int) -> Float32:
    """Return the rotation to principal axes, shared out among ``m`` sub-vectors of equal size.

    Each axis, the longest first, goes to the sub-vector with the smallest product of eigenvalues that has
    room: for normally distributed rows that is the best there is (Ge et al. 2013, section 3.2).

    Parameters
    ----------
    covariance : float64 array of shape (dim, dim)
        Up to a factor.
    m : int

    Examples
    --------
    >>> import numpy as np
    >>> abs(principal_rotation(np.diag([4.0, 3.0, 2.0, 1.0]), 2)).argmax(axis=1).tolist()
    [0, 3, 1, 2]
    """
    values, axes = np.linalg.eigh(covariance)
    values, axes = values[::-1], axes[:, ::-1]
    # An axis without any spread is as short as float32 can tell.
    logs = np.log(np.maximum(values, max(1e-12 * float(values[0]), np.finfo(np.float64).tiny)))
    shares: list[list[int]] = [[] for _ in range(m)]
    sums = np.zeros(m)
    for axis, log in enumerate(logs - logs.min()):
        free = [share for share in range(m) if len(shares[share]) < len(values) // m]
        least = min(free, key=lambda share: (sums[share], share))
        shares[least].append(axis)
        sums[least] += log
    return np.ascontiguousarray(axes[:, np.concatenate(shares)].T, dtype=np.float32)
