"""What was measured in a form that plots need: checked, since it is read from files that others may have touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

# Above what a float64 holds there are integers in JSON as well; nothing that is measured comes near. Not a number
# is not below it either.
MOST = 1e300

# Longer lists than any that are written are not ours.
MOST_VALUES = 1000


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many rows have an error of each size.

    Attributes
    ----------
    edges : sequence of float
        Above zero and rising; one more than there are counts.
    counts : sequence of int
    zero : int
        Rows that are restored exactly.
    """

    edges: Sequence[float]
    counts: Sequence[int]
    zero: int

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.counts) + self.zero

    def quantile(self, share: float) -> float:
        """Return the error that a share of the rows is at or below, as near as the bins tell."""
        wanted = share * self.rows - self.zero
        if wanted <= 0:
            return 0.0
        for place, below in enumerate(accumulate(self.counts)):
            if below >= wanted:
                part = 1.0 - (below - wanted) / self.counts[place]
                low, high = self.edges[place : place + 2]
                return float(low * (high / low) ** part)
        return self.edges[-1]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast shards were encoded.

    Attributes
    ----------
    shards, rows, slowest : int
    seconds : float
    rates : sequence of float
        Rows a second, in equal pieces of that time.
    ended : sequence of int
        Shards that came back in each.
    least, median, most : float
        Seconds that a shard took.
    """

    shards: int
    rows: int
    slowest: int
    seconds: float
    rates: Sequence[float]
    ended: Sequence[int]
    least: float
    median: float
    most: float


@dataclass(frozen=True, slots=True)
class Increment:
    """Rows that came or changed between two runs, against those that were learnt from."""

    number: int
    rows: int
    rows_after: int | None
    ratio: float | None
    mean: float
    largest: float


def read_histogram(found: object) -> Histogram | None:
    """Return the ``error_histogram`` of an evaluation; None if there is none, or it is not one."""
    kept = found if isinstance(found, Mapping) else {}
    edges, counts, zero = (
        _numbers(kept.get("edges")),
        _numbers(kept.get("counts")),
        _numbers([kept.get("zero")]),
    )
    rising = all(0 < low < high for low, high in pairwise(edges))
    if not (zero and any(counts) and rising and len(edges) == len(counts) + 1):
        return None
    if min(*counts, *zero) < 0:
        return None
    return Histogram(edges, [int(count) for count in counts], int(zero[0]))


def read_pace(found: object) -> Pace | None:
    """Return the ``pace`` of an encode stage; None if there is none, or it is not one."""
    kept = found if isinstance(found, Mapping) else {}
    took = kept.get("shard_seconds")
    took = took if isinstance(took, Mapping) else {}
    rates, ended = _numbers(kept.get("rows_per_second")), _numbers(kept.get("shards_ended"))
    whole = _numbers([kept.get(key) for key in ("shards", "rows", "slowest", "seconds")])
    parts = _numbers([took.get(key) for key in ("least", "median", "most")])
    if not (rates and len(rates) == len(ended) and whole and parts and whole[-1] > 0):
        return None
    shards, rows, slowest, seconds = whole
    least, median, most = parts
    counts = [int(count) for count in ended]
    return Pace(int(shards), int(rows), int(slowest), seconds, rates, counts, least, median, most)


def read_increments(evaluation: Mapping[str, Any]) -> list[Increment]:
    """Return the ``increments`` of an evaluation, oldest first; what is not one is left out.

    Earlier versions kept the last one alone, as ``drift``.
    """
    listed = evaluation.get("increments")
    found = [_increment(one) for one in listed[-MOST_VALUES:]] if isinstance(listed, list) else []
    known = [one for one in found if one is not None]
    drift = evaluation.get("drift")
    drift = drift if isinstance(drift, Mapping) else {}
    bits = _numbers(drift.get("divergence"))
    if known or not bits:
        return known
    figures = {"mean": sum(bits) / len(bits), "largest": max(bits)}
    last = _increment({**drift, "increment": 1, "divergence": figures})
    return [] if last is None else [last]


def _increment(found: object) -> Increment | None:
    if not isinstance(found, Mapping) or not isinstance(found.get("divergence"), Mapping):
        return None
    values = [found.get("increment"), found.get("rows")]
    known = _numbers([*values, *(found["divergence"].get(key) for key in ("mean", "largest"))])
    if not known:
        return None
    number, rows, mean, largest = known
    ratio, after = _numbers([found.get("ratio")]), _numbers([found.get("rows_after")])
    return Increment(
        int(number),
        int(rows),
        int(after[0]) if after else None,
        ratio[0] if ratio else None,
        mean,
        largest,
    )


def _numbers(values: Any) -> list[float]:
    """Return values if they are numbers that can be drawn, and not too many; none of them otherwise."""
    whole = (
        isinstance(values, list)
        and len(values) <= MOST_VALUES
        and all(type(value) in (int, float) and abs(value) < MOST for value in values)
    )
    return values if whole else []
