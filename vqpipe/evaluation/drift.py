"""Drift: how far the codes of new rows are from those of the rows before."""

from __future__ import annotations

import numpy as np

from vqpipe.dtypes import Float64, Int64


def jensen_shannon(before: Int64, after: Int64) -> Float64:
    """Return the Jensen-Shannon divergence of two histograms, column by column.

    Parameters
    ----------
    before, after : int64 arrays of shape (columns, k)
        Counts; of each column at least one.

    Returns
    -------
    float64 array of shape (columns,)
        In bits: 0 for equal shares, 1 for histograms that have no codeword in common.

    Notes
    -----
    J. Lin, Divergence measures based on the Shannon entropy, IEEE Transactions on Information Theory
    37(1), 1991.

    Examples
    --------
    >>> import numpy as np
    >>> jensen_shannon(np.array([[1, 1], [2, 0]]), np.array([[2, 2], [0, 5]])).tolist()
    [0.0, 1.0]
    """
    shares = [counts / counts.sum(axis=1, keepdims=True) for counts in (before, after)]
    mean = (shares[0] + shares[1]) / 2
    divergence = np.zeros(len(mean))
    for share in shares:
        ratio = np.divide(share, mean, where=share > 0, out=np.ones_like(share))
        divergence += (share * np.log2(ratio)).sum(axis=1) / 2
    return divergence
