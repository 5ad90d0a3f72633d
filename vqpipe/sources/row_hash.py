"""The hash that tells rows: the same however they are stored and cut into pieces."""

from __future__ import annotations

import hashlib

import numpy as np

from vqpipe.sources.part import Rows
from vqpipe.storage.ids import Ids, IdsHash


class RowHash:
    """The SHA-256 of rows' values, of which of them are null, and of their ids.

    Where no integer row is null, and there are no ids, it is that of the values alone.

    Parameters
    ----------
    dtype : str
        Of the rows as they are stored.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._values = hashlib.sha256()
        self._rows = 0
        self._nulls = hashlib.sha256()
        self._any_null = False
        self._ids: IdsHash | None = None

    def update(self, rows: Rows) -> None:
        """Add further rows, shape (rows, dim); of integers they may come as floats with NaN where they are null."""
        plain = rows
        if rows.dtype != self._dtype:
            null = np.asarray(np.isnan(rows).any(axis=1))
            self._any_null |= bool(null.any())
            self._nulls.update((self._rows + np.flatnonzero(null)).astype("<i8").tobytes())
            plain = np.where(null[:, None], 0, rows).astype(self._dtype)
        self._values.update(plain.data)
        self._rows += len(rows)

    def update_ids(self, ids: Ids) -> None:
        """Add the ids of further rows."""
        self._ids = self._ids or IdsHash()
        self._ids.update(ids)

    def digest(self) -> bytes:
        """Return the first 16 bytes."""
        sha = self._values.copy()
        if self._any_null:
            sha.update(self._nulls.digest())
        if self._ids is not None:
            sha.update(self._ids.digest())
        return sha.digest()[:16]
