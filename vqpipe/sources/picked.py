"""Single rows of a source, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vqpipe.dtypes import Int64
from vqpipe.sources.array import VectorArray
from vqpipe.sources.part import Rows

# Rows with so few bytes between them are read together: on most disks and stores that is no slower.
_GAP_BYTES = 1 << 16
# And no more than this at a time, where chunks are no larger.
_SPAN_BYTES = 8 << 20


def read_picked(source: VectorArray, rows: Int64) -> Iterator[tuple[slice, Rows]]:
    """Yield single rows in groups that are read together, so that no chunk is decoded twice.

    Parameters
    ----------
    source : VectorArray
    rows : int64 array of shape (rows,)
        Sorted.

    Yields
    ------
    places : slice
        Of the rows in what was given.
    vectors : array of shape (rows of the group, dim)
        Of the stored dtype.

    Raises
    ------
    SourceError
    """
    chunk = rows // source.chunk_rows
    gap, span = _GAP_BYTES // source.row_bytes, max(1, _SPAN_BYTES // source.row_bytes)
    apart = np.diff(rows) > gap
    # Groups of neighbours are cut where they grow long, and always between chunks.
    apart |= np.diff(rows // span) > 0
    ends = [*(np.flatnonzero(apart & (np.diff(chunk) > 0)) + 1).tolist(), len(rows)]
    start = 0
    for stop in ends if len(rows) else []:
        some = rows[start:stop]
        read = source.read(int(some[0]), int(some[-1]) + 1)
        yield slice(start, stop), read[some - some[0]]
        start = stop
