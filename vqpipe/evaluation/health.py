"""Whether codewords are used well: what is poor in their use beyond what chance leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from vqpipe.dtypes import Int64
from vqpipe.evaluation.measures import STARVED_SHARE, CodeUse

Measure = Literal["dead", "starved", "perplexity", "imbalance"]

# What chance leaves is reckoned for codewords whose shares of the rows are spread exponentially. The most uneven
# k-means codebook of the data at hand is like that: GloVe's KM1024 has perplexity 0.647 k, 13.9% starved and an
# imbalance of 7.3 (FAISS's on the same rows 0.623 k, 12.2%, 9.4); the model says 0.655 k, 9.5% and 6.9.

# So many times what chance leaves dead or starved is ordinary: with 5 to 20 rows a codeword drawn from GloVe, 1.2 to
# 1.7 times as many were dead as the model says.
ORDINARY_TIMES = 2.0

# Beside that, this share may be dead or starved, and one in any case: it costs a 70th of a bit.
ORDINARY_SHARE = 0.01

# Below this share of the codewords that so many rows would use, perplexity is low: a code then carries two bits less
# than it costs. Ordinary columns with many equal rows (SIFT in PQ64) come down to 0.42.
LEAST_PERPLEXITY_SHARE = 0.25

# So many times what chance makes of the largest codeword is ordinary: SIFT in PQ64, where many sub-vectors are
# zero, has 9 times that.
ORDINARY_IMBALANCE_TIMES = 20.0

# Of more columns than this the first are named.
_COLUMNS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """A measure that is poor, and where.

    Attributes
    ----------
    measure : str
        ``dead``, ``starved``, ``perplexity`` or ``imbalance``.
    columns : tuple of int
        The columns in which it is poor.
    figure, limit : float
        In the worst of them: what it is, and what it may be.
    codewords : int
        Codewords of that column, without surplus ones.
    """

    measure: Measure
    columns: tuple[int, ...]
    figure: float
    limit: float
    codewords: int

    def __str__(self) -> str:
        worst = "at worst " if len(self.columns) > 1 else ""
        if self.measure == "perplexity":
            said = f"{self.figure:,.1f} of {self.codewords:,} (ordinary: {self.limit:,.1f} or more)"
        elif self.measure == "imbalance":
            said = f"{self.figure:,.1f} (ordinary: up to {self.limit:,.1f})"
        else:
            most = math.floor(self.limit)
            said = f"{self.figure:,.0f} of {self.codewords:,} (ordinary: up to {most:,})"
        return f"{self.measure} {worst}{said} in column {name_columns(self.columns)}"


def name_columns(columns: Sequence[int]) -> str:
    """Return columns as a message names them: the first five.

    Examples
    --------
    >>> name_columns([3]), name_columns(range(9))
    ('3', '0, 1, 2, 3, 4...')
    """
    more = "..." if len(columns) > _COLUMNS_NAMED else ""
    return ", ".join(map(str, columns[:_COLUMNS_NAMED])) + more


def ordinary_limits(rows: int, codewords: int) -> dict[Measure, float]:
    """Return what each measure of a column may be: the least perplexity, the most of the others.

    Where shares of the rows are exponential and rows are drawn by them, the rows of a codeword are geometric:
    of mean ``rows / codewords``, so that ``1 / (1 + mean)`` of the codewords get none.

    Parameters
    ----------
    rows : int
        At least 1.
    codewords : int
        At least 2.

    Examples
    --------
    >>> {measure: round(limit) for measure, limit in ordinary_limits(1_000_000, 256).items()}
    {'dead': 3, 'starved': 51, 'perplexity': 64, 'imbalance': 111}
    >>> {measure: round(limit) for measure, limit in ordinary_limits(500, 256).items()}
    {'dead': 176, 'starved': 176, 'perplexity': 42, 'imbalance': 137}
    """
    mean = rows / codewords
    dead = 1.0 / (1.0 + mean)
    # Of fewer rows than a tenth of the mean: of none, where the mean is 10 or less.
    starved = -math.expm1(-math.log1p(1.0 / mean) * math.ceil(STARVED_SHARE * mean))
    spared = max(1.0, ORDINARY_SHARE * codewords)
    largest = math.log(codewords) / (mean * math.log1p(1.0 / mean))
    return {
        "dead": spared + ORDINARY_TIMES * codewords * dead,
        "starved": spared + ORDINARY_TIMES * codewords * starved,
        "perplexity": codewords * (1.0 - dead) * LEAST_PERPLEXITY_SHARE,
        "imbalance": ORDINARY_IMBALANCE_TIMES * largest,
    }


def find_poor_use(use: CodeUse, surplus: Sequence[int]) -> list[Finding]:
    """Return which measures of codewords' use are poor, and in which columns.

    Parameters
    ----------
    use : CodeUse
    surplus : sequence of int
        Per column, codewords that stand for nothing: they are left out, as if they were not there.

    Returns
    -------
    list of Finding
        At most one for each measure.

    Examples
    --------
    >>> import numpy as np
    >>> use = CodeUse(np.array([[100, 90, 110, 100], [200, 200, 0, 0]]))
    >>> [str(finding) for finding in find_poor_use(use, [0, 0])][:1]
    ['dead 2 of 4 (ordinary: up to 1) in column 1']
    >>> find_poor_use(use, [0, 2])
    []
    """
    poor: dict[Measure, list[tuple[float, Finding]]] = {name: [] for name in get_args(Measure)}
    for column, counts in enumerate(use.counts):
        # A surplus codeword has no rows, so it is among the smallest counts.
        for excess, finding in _poor_in(column, np.sort(counts)[surplus[column] :]):
            poor[finding.measure].append((excess, finding))
    return [_worst(found) for found in poor.values() if found]


def _poor_in(column: int, counts: Int64) -> Iterator[tuple[float, Finding]]:
    """Yield what is poor in one column, and how many times over its limit it is."""
    rows, codewords = int(counts.sum()), len(counts)
    if not rows or codewords < 2:
        return
    figures, limits = _figures(counts), ordinary_limits(rows, codewords)
    for measure, limit in limits.items():
        # Dead codewords are among the starved: they are not told twice.
        if measure == "starved" and figures["dead"] > limits["dead"]:
            continue
        figure = figures[measure]
        excess = limit / figure if measure == "perplexity" else figure / limit
        if excess > 1.0:
            yield excess, Finding(measure, (column,), figure, limit, codewords)


def _figures(counts: Int64) -> dict[Measure, float]:
    use = CodeUse(counts[None])
    return {
        "dead": use.dead[0],
        "starved": use.starved[0],
        "perplexity": use.perplexity[0],
        "imbalance": use.imbalance[0],
    }


def _worst(found: list[tuple[float, Finding]]) -> Finding:
    """Return the worst column's finding, naming all the columns."""
    _, worst = max(found, key=lambda one: one[0])
    columns = tuple(column for _, finding in found for column in finding.columns)
    return replace(worst, columns=columns)
