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
from llvmlite import ir
from numpy.typing import NDArray

from vqpipe.dtypes import Float32
from vqpipe.kernels.machine import Tile, compile_function, find_tile
from vqpipe.kernels.writer import FLOAT, INT32, INT64, Values, Writer, number

# Of a column's codewords, so many bytes are compared with all rows before the next are: they stay in the
# second-level cache.
_TABLE_BYTES = 512 << 10

# Rows are taken through all columns in pieces of this size, which stay there too.
_BLOCK_BYTES = 256 << 10

# Dims that are written out in a row before the loop jumps.
_UNROLLED_DIMS = 4

# The half squared norm of a codeword that must never be chosen.
_NEVER = np.float32(np.finfo(np.float32).min / 2)

_ARGUMENTS = (
    *(FLOAT.as_pointer(), INT64, INT64.as_pointer(), INT64),  # rows, stride, picks, tiles
    *(FLOAT.as_pointer(), INT64, INT32),  # table, groups, first
    *(FLOAT.as_pointer(), INT32.as_pointer()),  # scores, labels
)
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
        self._tables[:, :, 0] = halves.reshape(m, groups, -1)
        self._tables[:, :, 1:] = placed.reshape(m, groups, -1, width).transpose(0, 1, 3, 2)
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
    return compile_function(_NearestWriter(width, tile).write(), "nearest", _C_ARGUMENTS)


class _NearestWriter(Writer):
    """Writes the kernel of one width for one tile."""

    def __init__(self, width: int, tile: Tile) -> None:
        super().__init__("nearest", _ARGUMENTS)
        self.width, self.tile = width, tile
        self.floats = ir.VectorType(FLOAT, tile.lanes)
        self.ints = ir.VectorType(INT32, tile.lanes)
        self.rows, self.stride, self.picks, self.tiles = self.function.args[:4]
        self.table, self.groups, self.first, self.scores, self.labels = self.function.args[4:]
        # One tile of rows, a vector for each dim.
        self.laid = self.code.alloca(FLOAT, width * tile.rows)
        self.laid.align = 64

    def write(self) -> ir.Module:
        """Return the finished module."""
        self.loop(self.tiles, [], self._one_tile)
        self.code.ret_void()
        return self.module

    def _one_tile(self, at: ir.Value, _: Values) -> Values:
        """Compare one tile of rows with all codewords."""
        tile, code = self.tile, self.code
        begin = code.mul(at, number(tile.rows))
        numbers = [
            code.load(code.gep(self.picks, [code.add(begin, number(lane))]))
            for lane in range(tile.rows)
        ]
        places = [code.gep(self.rows, [code.mul(row, self.stride)]) for row in numbers]
        self.loop(number(self.width), [], lambda dim, _: self._lay_out(places, dim))
        scores = self._gather(self.scores, numbers, self.floats)
        labels = self._gather(self.labels, numbers, self.ints)
        carried = [*scores, *labels, self.splat(self.first, self.ints)]
        found = self.loop(self.groups, carried, self._group)
        self._scatter(found[: tile.vectors], self.scores, numbers)
        self._scatter(found[tile.vectors : -1], self.labels, numbers)
        return []

    def _lay_out(self, places: Values, dim: ir.Value) -> Values:
        """Put one dim of all rows of the tile side by side."""
        values = [self.code.load(self.code.gep(place, [dim])) for place in places]
        for vector in range(self.tile.vectors):
            lanes = values[vector * self.tile.lanes :][: self.tile.lanes]
            self.code.store(self.joined(lanes, self.floats), self._laid(dim, vector))
        return []

    def _group(self, at: ir.Value, carried: Values) -> Values:
        """Score a group of codewords and keep what is better."""
        tile, code = self.tile, self.code
        begin = code.mul(at, number((self.width + 1) * tile.codewords))
        table = code.gep(self.table, [begin])
        sums = [half for half in self._codewords(table, number(0)) for _ in range(tile.vectors)]
        whole = self.width // _UNROLLED_DIMS

        def some_dims(index: ir.Value, sums: Values) -> Values:
            first = code.mul(index, number(_UNROLLED_DIMS))
            for step in range(_UNROLLED_DIMS):
                sums = self._add_dim(table, code.add(first, number(step)), sums)
            return sums

        if whole:
            sums = self.loop(number(whole), sums, some_dims)
        for dim in range(whole * _UNROLLED_DIMS, self.width):
            sums = self._add_dim(table, number(dim), sums)
        scores, labels, label = (
            carried[: tile.vectors],
            carried[tile.vectors : -1],
            carried[-1],
        )
        best = [
            self._better(
                (scores[vector], labels[vector]),
                self._best_of(sums[vector :: tile.vectors], label),
            )
            for vector in range(tile.vectors)
        ]
        following = code.add(label, ir.Constant(self.ints, [tile.codewords] * tile.lanes))
        return [*(score for score, _ in best), *(found for _, found in best), following]

    def _add_dim(self, table: ir.Value, dim: ir.Value, sums: Values) -> Values:
        code, vectors = self.code, self.tile.vectors
        rows = [code.load(self._laid(dim, vector)) for vector in range(vectors)]
        return [
            self.multiply_add(rows[vector], codeword, sums[at * vectors + vector])
            for at, codeword in enumerate(self._codewords(table, code.add(dim, number(1))))
            for vector in range(vectors)
        ]

    def _codewords(self, table: ir.Value, line: ir.Value) -> Values:
        """Return one line of a group's table, each codeword's value in all lanes."""
        code = self.code
        begin = code.gep(table, [code.mul(line, number(self.tile.codewords))])
        return [
            self.splat(code.load(code.gep(begin, [number(at)])), self.floats)
            for at in range(self.tile.codewords)
        ]

    def _best_of(self, sums: Values, label: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the best score of a group and its label, in a tree that keeps chains short."""
        steps = [ir.Constant(self.ints, [at] * self.tile.lanes) for at in range(len(sums))]
        entries = [
            (score, self.code.add(label, step)) for score, step in zip(sums, steps, strict=True)
        ]
        while len(entries) > 1:
            pairs = zip(entries[::2], entries[1::2], strict=True)
            entries = [self._better(one, other) for one, other in pairs]
        return entries[0]

    def _better(
        self, one: tuple[ir.Value, ir.Value], other: tuple[ir.Value, ir.Value]
    ) -> tuple[ir.Value, ir.Value]:
        """Return the entry with the higher score; of equal ones the first, and never NaN."""
        higher = self.code.fcmp_ordered(">", other[0], one[0])
        return (
            self.code.select(higher, other[0], one[0]),
            self.code.select(higher, other[1], one[1]),
        )

    def _laid(self, dim: ir.Value, vector: int) -> ir.Value:
        code = self.code
        place = code.add(code.mul(dim, number(self.tile.rows)), number(vector * self.tile.lanes))
        return code.bitcast(code.gep(self.laid, [place]), self.floats.as_pointer())

    def _gather(self, array: ir.Value, numbers: Values, kind: ir.VectorType) -> Values:
        values = [self.code.load(self.code.gep(array, [row])) for row in numbers]
        lanes = self.tile.lanes
        starts = range(0, len(values), lanes)
        return [self.joined(values[start : start + lanes], kind) for start in starts]

    def _scatter(self, vectors: Values, array: ir.Value, numbers: Values) -> None:
        for at, row in enumerate(numbers):
            lane = ir.Constant(INT32, at % self.tile.lanes)
            value = self.code.extract_element(vectors[at // self.tile.lanes], lane)
            self.code.store(value, self.code.gep(array, [row]))
