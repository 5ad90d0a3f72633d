"""Synthetic vectors: rows that are computed where they are read, to rehearse a run before the data is there.

``synthetic:mixture?rows=1e9&dim=96&seed=0`` names a mixture of clusters. Row r is the centre of a cluster plus
two stretches of noise,

    centre[label[c + j]] + noise[a + dim * j : ... + dim] + noise'[b + dim * j : ... + dim]

where r is row j of a block of rows and a hash of the block's number gives c, a and b. Centres, labels and both
strings of noise are tables, drawn once from the seed, so a row costs a copy and two sums. Its bytes follow from
its number and the parameters alone, whatever range it is read in, and whatever the number of rows; tables are
made of integers and of single float64 operations, so that they are the same on every machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Float64, Int64
from vqpipe.permutation import Permutation, mix
from vqpipe.sources.flat_file import refuse_key
from vqpipe.sources.mixture import Mixture, parse_mixture
from vqpipe.sources.part import Part, Reader, Rows, Stamp

# Part of every stamp: another way to compute rows is another source, whose codes are made anew.
_VERSION = 1

# A block's values: enough that its calls cost little beside them, few enough for a core's own cache.
_BLOCK_VALUES = 96 << 10

# Labels in the table, and places where a string of noise can be entered. Two rows of one cluster are equal
# once in 2^40 pairs; so few values leave correlations of about 0.005 between rows that stand near each other.
_LABELS = 1 << 18
_NOISES = 1 << 20

# Neighbouring dims of centres go together, as they do in descriptors and spectra.
_CENTRE_CORRELATION = 0.5

# A table of integers holds so many standard deviations; what lies farther out is put at the end.
_DEVIATIONS = 4


def describe(path: str, format: str, key: str | None) -> Part:
    """Check the parameters and describe the rows.

    The part's path leaves the number of rows out: a mixture that grew is the same source with more rows.

    Raises
    ------
    SourceError
        For another name, and for parameters that are unknown, given twice, missing or out of bounds.
    """
    refuse_key(path, format, key)
    mixture, rows = parse_mixture(path)
    return Part(format, mixture.uri, None, rows, mixture.dim, mixture.dtype, 1, 1)


def open_part(part: Part) -> Reader:
    """Make the tables, or take those that this process has."""
    return _tables(parse_mixture(f"{part.path}&rows={part.rows}")[0])


def stamps(part: Part, start: int, stop: int) -> Iterator[Stamp]:
    """Yield the one stamp of all rows: the parameters, and how rows are computed from them."""
    yield part.path, _VERSION, 0


def is_shared(part: Part) -> bool:
    """Say no: rows follow from their numbers, and nothing is stored."""
    return False


class _Tables:
    """Computes rows of a mixture from its tables."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture
        self._block_rows = max(1, _BLOCK_VALUES // mixture.dim)
        self._span = self._block_rows * mixture.dim
        text = f"vqpipe mixture {_VERSION} {mixture.seed}"
        self._keys = np.frombuffer(hashlib.shake_256(text.encode()).digest(24), dtype="<u8")
        draw = np.random.PCG64(mixture.seed)
        self._labels = _draw_labels(mixture, self._block_rows)
        self._centres = self._stored(_draw_centres(mixture, draw), 1.0)
        if self._mixture.dtype == "uint8":
            self._centres += np.uint8(128)
        # The variances of both strings add up.
        half = mixture.spread * math.sqrt(0.5)
        self._noises = [
            self._stored(half * _draw_normals(draw, _NOISES + self._span), half) for _ in range(2)
        ]

    def _stored(self, values: Float64, deviation: float) -> NDArray[Any]:
        """Return a table in the dtype of the rows, scaled so that no sum of integers leaves it."""
        if self._mixture.dtype == "float32":
            return values.astype(np.float32)
        unit = 127 / (_DEVIATIONS * (1 + math.sqrt(2) * self._mixture.spread))
        most = math.floor(_DEVIATIONS * deviation * unit)
        whole = np.rint(values * unit).clip(-most, most).astype(np.int8)
        # Sums wrap around 256, so a negative noise in unsigned bytes does what it should.
        return whole.view(self._mixture.dtype)

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        rows = np.empty((stop - start, self._mixture.dim), self._centres.dtype)
        if stop == start:
            return rows
        first = start // self._block_rows
        blocks = np.arange(first, (stop - 1) // self._block_rows + 1, dtype=np.uint64)
        labels, *noises = (
            (mix(blocks, key) % np.uint64(places)).tolist()
            for key, places in zip(self._keys, (_LABELS, _NOISES, _NOISES), strict=True)
        )
        for index, row in enumerate(range(first * self._block_rows, stop, self._block_rows)):
            begin, end = max(row, start), min(row + self._block_rows, stop)
            self._fill(
                rows[begin - start : end - start],
                labels[index] + begin - row,
                [places[index] + (begin - row) * self._mixture.dim for places in noises],
            )
        return rows

    def _fill(self, rows: Rows, label: int, places: list[int]) -> None:
        """Fill consecutive rows of one block, given where they stand in the tables."""
        # Labels are in bounds: mode="clip" spares take a copy of its output.
        chosen = self._labels[label : label + len(rows)]
        np.take(self._centres, chosen, axis=0, out=rows, mode="clip")
        flat = rows.reshape(-1)
        for noise, place in zip(self._noises, places, strict=True):
            flat += noise[place : place + len(flat)]

    def close(self) -> None:
        """Do nothing: nothing is open."""


@lru_cache(maxsize=2)
def _tables(mixture: Mixture) -> _Tables:
    """Return the tables of a mixture; a process keeps those of two."""
    return _Tables(mixture)


def _draw_normals(draw: np.random.PCG64, count: int) -> Float64:
    """Return nearly normal values: sums of twelve uniform ones of 16 bits (Irwin and Hall 1927).

    They are exact in float64, where logarithms and cosines differ between machines in their last digit.
    """
    words = draw.random_raw(3 * count).astype("<u8", copy=False).view("<u2")
    total = words.reshape(12, count).sum(axis=0, dtype=np.int64)
    # Mean 12 * 65535 / 2, variance 2^32 - 1.
    normals: Float64 = (total - 393_210) / 65_536
    return normals


def _draw_labels(mixture: Mixture, block_rows: int) -> Int64:
    """Return the cluster of each place: cluster i has about 1/sqrt(i + 1) of the places of the first.

    Shuffled, and followed by the first ``block_rows`` once more, so that no block crosses the end.
    """
    weights = np.cumsum(1 / np.sqrt(np.arange(1, mixture.clusters + 1)))
    # Every cluster has a place; the others are shared out by weight.
    ends = np.floor(weights / weights[-1] * (_LABELS - mixture.clusters))
    counts = 1 + np.diff(ends, prepend=0).astype(np.int64)
    order = Permutation(_LABELS, mixture.seed, "labels").rows_at(np.arange(_LABELS))
    labels = np.repeat(np.arange(mixture.clusters), counts)[order]
    return np.resize(labels, _LABELS + block_rows)


def _draw_centres(mixture: Mixture, draw: np.random.PCG64) -> Float64:
    """Return the centres, shape (clusters, dim): in groups, neighbouring dims correlated, first dims widest."""
    groups = max(1, math.isqrt(mixture.clusters))
    shape = (mixture.clusters + groups, mixture.dim)
    values = _draw_normals(draw, shape[0] * shape[1]).reshape(shape)
    fresh = math.sqrt(1 - _CENTRE_CORRELATION**2)
    for column in range(1, mixture.dim):
        values[:, column] *= fresh
        values[:, column] += _CENTRE_CORRELATION * values[:, column - 1]
    own, shared = values[groups:], values[:groups]
    centres = (own + shared[np.arange(mixture.clusters) % groups]) * math.sqrt(0.5)
    # From 1.4 to 0.5 times: the mean variance is about 1.
    widths = 1.4 - 0.9 * np.arange(mixture.dim) / max(1, mixture.dim - 1)
    scaled: Float64 = centres * widths
    return scaled
