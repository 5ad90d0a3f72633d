"""What a source looks like, and the settings that suit it: a bounded look at rows that are spread over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vqpipe.codebook import CodebookSpec
from vqpipe.config import MAX_STAGES
from vqpipe.rows import prepare_rows, why_invalid
from vqpipe.sources import VectorArray

# Rows that are looked at, and the places that they are taken from: a place is one read.
LOOKED_ROWS = 1000
LOOKED_PLACES = 20

# What a look may decode in all.
LOOKED_BYTES = 256 << 20

# Norms that differ from 1 by less are 1: float16 keeps three digits.
UNIT = 0.01

# Dims of a sub-vector that are worth a byte; with more than twice as many a byte says too little of them.
SUB_DIMS = 8

# With fewer rows a codeword is learnt from too few: 39 is where FAISS begins to warn.
ROWS_PER_CODEWORD = 39


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a source.

    Attributes
    ----------
    rows : int
        That were looked at.
    invalid_rows : int
        Of these the ones that hold NaN or Inf, or whose squared norm overflows.
    first_invalid : str
        The first of them, in words; empty if there is none.
    zero_rows : int
    least_norm, largest_norm : float
        Of the others.
    """

    rows: int = 0
    invalid_rows: int = 0
    first_invalid: str = ""
    zero_rows: int = 0
    least_norm: float = 0.0
    largest_norm: float = 0.0

    @property
    def is_unit(self) -> bool:
        """Whether all norms are 1."""
        return abs(self.least_norm - 1) < UNIT and abs(self.largest_norm - 1) < UNIT

    @property
    def varies(self) -> bool:
        """Whether norms differ enough for the metric to matter."""
        return self.largest_norm > (1 + UNIT) * self.least_norm


def look_at(source: VectorArray) -> Look:
    """Look at some rows, spread evenly over the source; at none where one chunk alone is too much to decode.

    Raises
    ------
    SourceError
        If they cannot be read.
    """
    each = LOOKED_ROWS // LOOKED_PLACES
    # A place may lie across the end of a chunk.
    cost = max(2 * source.chunk_bytes, each * source.row_bytes)
    places = min(LOOKED_PLACES, LOOKED_BYTES // cost)
    if places < 1:
        return Look()
    starts = np.linspace(0, max(0, source.rows - each), places).astype(np.int64)
    norms, invalid, first = [], 0, ""
    # Places of a small source overlap; none of its rows counts twice.
    end = 0
    for start in starts.tolist():
        begin, end = max(start, end), min(start + each, source.rows)
        if begin >= end:
            continue
        stored = source.read(begin, end)
        rows, valid = prepare_rows(stored, "l2")
        wide = rows[valid].astype(np.float64)
        norms.append(np.sqrt(np.einsum("ij,ij->i", wide, wide)))
        invalid += int((~valid).sum())
        if not first and not valid.all():
            row = int(np.flatnonzero(~valid)[0])
            first = f"row {begin + row:,} {why_invalid(stored[row], 'l2')}"
    found = np.concatenate(norms)
    some = found[found > 0]
    return Look(
        rows=len(found) + invalid,
        invalid_rows=invalid,
        first_invalid=first,
        zero_rows=len(found) - len(some),
        least_norm=float(some.min(initial=math.inf)) if len(some) else 0.0,
        largest_norm=float(some.max(initial=0.0)),
    )


def suggest_codebook(dim: int, rows: int) -> tuple[CodebookSpec, str]:
    """Return a codebook for such vectors, and the reason.

    Examples
    --------
    >>> suggest_codebook(128, 10**6)[0], suggest_codebook(97, 10**6)[0], suggest_codebook(100, 2000)[0]
    (CodebookSpec(kind='PQ', m=16, k=256, stages=1), CodebookSpec(kind='RQ', m=1, k=256, stages=12), \
CodebookSpec(kind='PQ', m=10, k=16, stages=1))
    """
    bits = 8 if rows >= ROWS_PER_CODEWORD << 8 else 4
    few = (
        "" if bits == 8 else f"; {rows:,} rows are few for 256 codewords a column, so 16 are taken"
    )
    each = "a byte" if bits == 8 else "half a byte"
    m = suggest_m(dim)
    if dim // m <= 2 * SUB_DIMS:
        parts = "1 part" if m == 1 else f"{m} parts"
        return CodebookSpec(
            "PQ", m, 1 << bits
        ), f"{dim} dims in {parts} of {dim // m}, {each} for each{few}"
    stages = min(MAX_STAGES, max(1, round(dim / SUB_DIMS)))
    return CodebookSpec("RQ", 1, 1 << bits, stages), (
        f"no number near {dim / SUB_DIMS:.0f} divides {dim}, so {stages} codewords of all dims are added up, {each} "
        f"for each{few}"
    )


def suggest_m(dim: int) -> int:
    """Return how many sub-vectors to cut a vector into: about 8 dims each, and a divisor of the dim.

    Examples
    --------
    >>> suggest_m(128), suggest_m(100), suggest_m(13), suggest_m(769)
    (16, 10, 1, 1)
    """
    divisors = [m for m in range(1, dim + 1) if dim % m == 0 and dim // m >= SUB_DIMS // 2] or [1]
    wanted = dim / SUB_DIMS
    return min(divisors, key=lambda m: (abs(math.log(m / wanted)), m))
