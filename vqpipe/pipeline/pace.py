"""The pace of encoding: how many rows a second, over the time that it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# The time is cut into as many pieces as there are shards, but not fewer or more than this: of a few shards finer
# pieces would show when each began and ended, and of many shards more would show nothing more.
LEAST_PIECES, MOST_PIECES = 10, 100


@dataclass(frozen=True, slots=True)
class Finish:
    """A shard that was encoded.

    Attributes
    ----------
    shard, rows : int
    seconds : float
        That its task took.
    ended : float
        Seconds from the first shard's being sent to this one's coming back.
    """

    shard: int
    rows: int
    seconds: float
    ended: float


def measure_pace(finishes: Sequence[Finish]) -> dict[str, Any] | None:
    """Return how fast shards were encoded, in a size that does not grow with them.

    A shard's rows are spread evenly over the time that its task took.

    Parameters
    ----------
    finishes : sequence of Finish

    Returns
    -------
    dict or None
        ``shards``, ``rows``, ``seconds`` (all of it), ``rows_per_second`` and ``shards_ended`` (lists: in
        each of some equal pieces of that time), ``shard_seconds`` (``least``, ``median``, ``most``) and ``slowest``
        (the number of a shard). None where no shard was encoded.

    Examples
    --------
    >>> pace = measure_pace([Finish(0, 600, 2.0, 2.0), Finish(1, 600, 1.0, 4.0)])
    >>> [pace["rows_per_second"][piece] for piece in (0, 6, 9)]
    [300.0, 0.0, 600.0]
    """
    if not finishes:
        return None
    rows = np.array([finish.rows for finish in finishes], dtype=np.float64)
    seconds = np.array([finish.seconds for finish in finishes])
    ended = np.array([finish.ended for finish in finishes])
    # The clocks are two machines': a task never began before it was sent.
    began = np.clip(ended - seconds, 0.0, None)
    took = np.maximum(ended - began, np.finfo(np.float64).eps)
    pieces = min(MOST_PIECES, max(LEAST_PIECES, len(finishes)))
    edges = np.linspace(0.0, max(float(ended.max()), 1e-6), pieces + 1)
    done = [float((rows * np.clip((edge - began) / took, 0.0, 1.0)).sum()) for edge in edges]
    rates = np.diff(done) / np.diff(edges)
    return {
        "shards": len(finishes),
        "rows": int(rows.sum()),
        "seconds": float(edges[-1]),
        "rows_per_second": [float(f"{rate:.6g}") for rate in rates],
        "shards_ended": np.histogram(ended, edges)[0].tolist(),
        "shard_seconds": {
            "least": float(seconds.min()),
            "median": float(np.median(seconds)),
            "most": float(seconds.max()),
        },
        "slowest": finishes[int(seconds.argmax())].shard,
    }
