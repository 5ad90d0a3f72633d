"""The nearest codeword of every row: a matrix product whose scores never leave the registers.

A tile of rows is laid out with one row in each lane, and codewords are broadcast to all lanes. A lane's score
starts with the codeword's negative half squared norm, and its products are added one dim after another by
fused multiply-adds: so a row's label depends on that row alone, whatever its company, the tile or the CPU.

The register tile is that of a matrix product (Goto and van de Geijn, 2008); where a product would store its
scores, the better of them is chosen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Float32
from vqpipe.kernels.machine import Tile, compile_function, find_tile
from vqpipe.kernels.nearest_writer import NearestWriter

# Of a column's codewords, so many bytes are compared with all rows before the next are: they stay in the
# second-level cache.
_TABLE_BYTES = 512 << 10

# Rows are taken through all columns in pieces of this size, which stay there too.
_BLOCK_BYTES = 256 << 10

# The half squared norm of a codeword that must never be chosen.
_NEVER = np.float32(np.finfo(np.float32).min / 2)

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64
_C_ARGUMENTS = (
    _POINTER,
    _LONG,
    _POINTER,
    _LONG,
    _POINTER,
    _LONG,
    ctypes.c_int32,
    _POINTER,
    _POINTER,
)


class NearestCodewords:
    """The codewords of all columns, laid out for comparison.

    Parameters
    ----------
    centroids : float32 array of shape (m, k, width)
        Centred: near the origin, else products cancel.
    never : bool array of shape (m, k), optional
        Codewords that no row may choose.
    first : int
        Number of the first codeword of a column: labels count from it.
    """

    def __init__(
        self, centroids: Float32, never: NDArray[np.bool_] | None = None, first: int = 0
    ) -> None:
        tile = find_tile()
        if tile is None:
            raise RuntimeError("this CPU has no fused multiply-add: ask can_compile first")
        m, k, width = centroids.shape
        groups = -(-k // tile.codewords)
        placed = np.zeros((m, groups * tile.codewords, width), dtype=np.float32)
        placed[:, :k] = centroids
        halves = np.full(placed.shape[:2], _NEVER)
        halves[:, :k] = -0.5 * np.einsum("mkw,mkw->mk", centroids, centroids, dtype=np.float64)
        if never is not None:
            placed[:, :k][never] = 0
            halves[:, :k][never] = _NEVER
        self._tile, self._width, self._first = tile, width, first
        self._tables = np.empty((m, groups, width + 1, tile.codewords), dtype=np.float32)
        self._tables[:, :, 0] = halves.reshape(m, groups, tile.codewords)
        self._tables[:, :, 1:] = placed.reshape(m, groups, tile.codewords, width).transpose(
            0, 1, 3, 2
        )
        self._kernel = _compiled(width, tile)

    def find(self, rows: Float32) -> NDArray[np.int32]:
        """Return the nearest codewords of rows.

        Parameters
        ----------
        rows : float32 array of shape (rows, m * width)
            Centred.

        Returns
        -------
        int32 array of shape (rows, m)
            -1 for a row of NaN.
        """
        m = len(self._tables)
        found = np.empty((len(rows), m), dtype=np.int32)
        size = -(-_BLOCK_BYTES // (4 * m * self._width))
        for start in range(0, len(rows), size):
            block = np.ascontiguousarray(rows[start : start + size])
            labels = np.full((m, len(block)), -1, dtype=np.int32)
            scores = np.full((m, len(block)), -np.inf, dtype=np.float32)
            self._compare(block, self._filled(np.arange(len(block))), scores, labels)
            found[start : start + size] = labels.T
        return found

    def improve(
        self,
        rows: Float32,
        picks: NDArray[np.int64],
        scores: Float32,
        labels: NDArray[np.int32],
    ) -> None:
        """Give rows the label of a codeword here that is nearer than the one they have.

        Parameters
        ----------
        rows : float32 array of shape (rows, m * width or more)
            In C order, centred; what stands behind the columns is not looked at.
        picks : int64 array
            Rows that are looked at; no row twice.
        scores : float32 array of shape (m, rows)
            x.c - ||c||^2 / 2 of each row's codeword so far, -inf without one; changed in place.
        labels : int32 array of shape (m, rows)
            Changed in place. Of equally near codewords the first stays.
        """
        if len(picks):
            self._compare(rows, self._filled(picks), scores, labels)

    def _filled(self, picks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return picks that fill whole tiles: the last row is done again, with the same result."""
        filled = np.empty(-(-len(picks) // self._tile.rows) * self._tile.rows, dtype=np.int64)
        filled[: len(picks)] = picks
        filled[len(picks) :] = picks[-1]
        return filled

    def _compare(
        self, rows: Float32, picks: NDArray[np.int64], scores: Float32, labels: NDArray[np.int32]
    ) -> None:
        m, groups = self._tables.shape[:2]
        if not groups:
            # A group of a search may hold no codeword.
            return
        group_bytes = self._tables[0, 0].nbytes
        step = max(1, _TABLE_BYTES // group_bytes)
        # Asking an array for its address takes as long as a few hundred comparisons.
        vectors, picked, table = rows.ctypes.data, picks.ctypes.data, self._tables.ctypes.data
        best, found = scores.ctypes.data, labels.ctypes.data
        stride, tiles = rows.shape[1], len(picks) // self._tile.rows
        for column in range(m):
            for start in range(0, groups, step):
                self._kernel(
                    *(vectors + 4 * column * self._width, stride, picked, tiles),
                    *(table + start * group_bytes, min(step, groups - start)),
                    self._first + start * self._tile.codewords,
                    *(best + 4 * column * len(rows), found + 4 * column * len(rows)),
                )
            table += groups * group_bytes


@cache
def _compiled(width: int, tile: Tile) -> Callable[..., None]:
    return compile_function(NearestWriter(width, tile).write(), "nearest", _C_ARGUMENTS)
