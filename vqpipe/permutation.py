"""A seeded permutation of row numbers of which any part can be computed alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Int64

UInt64 = NDArray[np.uint64]

# Luby and Rackoff need four rounds; small domains mix slower, and rounds are cheap.
_ROUNDS = 8

# Values that are permuted at a time: what a round makes of them stays in a core's own cache.
_BLOCK_VALUES = 1 << 13


@dataclass(frozen=True, slots=True)
class Permutation:
    """A permutation of ``0 .. rows - 1`` that needs no table.

    A balanced Feistel network on the next even power of two, walked until it lands inside (Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002). A draw of n rows without replacement is its
    first n places; whether a row was drawn, and to which place, is the inverse.

    Attributes
    ----------
    rows : int
    seed : int
    purpose : str
        Permutations of one seed for different purposes are unrelated.
    """

    rows: int
    seed: int
    purpose: str

    def rows_at(self, places: Int64) -> Int64:
        """Return the rows at these places of the permuted order; int64, same shape."""
        return self._walk(places, self._keys())

    def places_of(self, rows: Int64) -> Int64:
        """Return the places of these rows: the inverse of `rows_at`."""
        return self._walk(rows, self._keys()[::-1], inverse=True)

    def _keys(self) -> list[np.uint64]:
        text = f"vqpipe {self.purpose} {self.seed} {self.rows}"
        digest = hashlib.shake_256(text.encode()).digest(8 * _ROUNDS)
        return list(np.frombuffer(digest, dtype="<u8"))

    def _walk(self, values: Int64, keys: list[np.uint64], *, inverse: bool = False) -> Int64:
        half_bits = max(1, (max(self.rows - 1, 1).bit_length() + 1) // 2)
        result = values.astype(np.uint64)
        for start in range(0, len(result), _BLOCK_VALUES):
            block = result[start : start + _BLOCK_VALUES]
            outside = np.arange(len(block))
            while len(outside):
                block[outside] = _feistel(block[outside], keys, half_bits, inverse=inverse)
                outside = outside[block[outside] >= self.rows]
        return result.astype(np.int64)


def _feistel(values: UInt64, keys: list[np.uint64], half_bits: int, *, inverse: bool) -> UInt64:
    shift = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        if inverse:
            left, right = right ^ (mix(left, key) & mask), left
        else:
            left, right = right, left ^ (mix(right, key) & mask)
    return (left << shift) | right


def mix(values: UInt64, key: np.uint64) -> UInt64:
    """Mix a word with a key: the finalizer of MurmurHash3 (Appleby 2011), which wraps on purpose."""
    mixed = values + key
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return mixed
