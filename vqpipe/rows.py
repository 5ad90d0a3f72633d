"""Rows as they are compared: cast, checked, and normalised under cosine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import Metric
from vqpipe.dtypes import Float32, Mask


def prepare_rows(stored: NDArray[Any] | list[NDArray[Any]], metric: Metric) -> tuple[Float32, Mask]:
    """Cast stored rows to float32, normalise them under cosine, and say which can be used.

    Parameters
    ----------
    stored : float32, float16, uint8 or int8 array of shape (rows, dim), or a list of them
        What is in several pieces is joined while it is cast: that spares a copy.
    metric : str
        ``l2`` or ``cosine``.

    Returns
    -------
    rows : float32 array of shape (rows, dim)
        A new array. Under cosine each row is divided by its norm, taken in float64. Unusable rows are 0.
    valid : bool array of shape (rows,)
        False for NaN, Inf, a squared norm that overflows float32, and a zero row under cosine.

    Examples
    --------
    >>> import numpy as np
    >>> rows, valid = prepare_rows(np.float32([[3, 4], [0, 0]]), "cosine")
    >>> valid.tolist(), [round(float(value), 3) for value in rows[0]]
    ([True, False], [0.6, 0.8])
    """
    pieces = stored if isinstance(stored, list) else [stored]
    rows = np.empty((sum(map(len, pieces)), pieces[0].shape[1]), dtype=np.float32)
    np.concatenate(pieces, out=rows, casting="unsafe")
    if metric == "l2" and all(piece.dtype.kind in "iu" for piece in pieces):
        return rows, np.ones(len(rows), dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        if metric == "l2":
            # A float32 sum of squares is finite exactly where the row is usable, and costs least.
            valid: Mask = np.isfinite(np.einsum("ij,ij->i", rows, rows))
        else:
            wide = rows.astype(np.float64)
            squared = np.einsum("ij,ij->i", wide, wide)
            valid = (squared > 0) & (squared <= np.finfo(np.float32).max)
            rows = (
                wide / np.sqrt(squared, where=valid, out=np.ones_like(squared))[:, None]
            ).astype(np.float32)
    if not valid.all():
        rows[~valid] = 0
    return rows, valid


def why_invalid(stored: NDArray[Any], metric: Metric) -> str:
    """Say in words what is wrong with a row that `prepare_rows` calls unusable.

    Parameters
    ----------
    stored : array of shape (dim,)
    metric : str

    Examples
    --------
    >>> import numpy as np
    >>> why_invalid(np.float32([1, np.nan]), "l2")
    'holds NaN at column 1'
    """
    bad = np.flatnonzero(~np.isfinite(stored))
    if len(bad):
        return f"holds {'NaN' if np.isnan(stored[bad[0]]) else 'Inf'} at column {bad[0]}"
    if metric == "cosine" and not stored.any():
        return "is zero, and zero under cosine has no direction"
    return "has a squared norm that overflows float32"
