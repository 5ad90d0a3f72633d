"""The code that compares rows with codewords, written for one width and one tile."""

from __future__ import annotations

from llvmlite import ir

from vqpipe.kernels.machine import Tile
from vqpipe.kernels.writer import FLOAT, INT32, INT64, Values, Writer, number

# Dims that are written out in a row before the loop jumps.
_UNROLLED_DIMS = 4

_ARGUMENTS = (
    *(FLOAT.as_pointer(), INT64, INT64.as_pointer(), INT64),  # rows, stride, picks, tiles
    *(FLOAT.as_pointer(), INT64, INT32),  # table, groups, first
    *(FLOAT.as_pointer(), INT32.as_pointer()),  # scores, labels
)


class NearestWriter(Writer):
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
        self._lay_out(places)
        scores = self._gather(self.scores, numbers, self.floats)
        labels = self._gather(self.labels, numbers, self.ints)
        carried = [*scores, *labels, self.splat(self.first, self.ints)]
        found = self.loop(self.groups, carried, self._group)
        self._scatter(found[: tile.vectors], self.scores, numbers)
        self._scatter(found[tile.vectors : -1], self.labels, numbers)
        return []

    def _lay_out(self, places: Values) -> None:
        """Put the rows of the tile side by side, one dim after another."""
        side, code = self.tile.lanes, self.code
        if self.width < side:
            self.loop(number(self.width), [], lambda dim, _: self._lay_dim(places, dim))
            return

        def lay(index: ir.Value, _: Values) -> Values:
            return self._lay_square(places, code.mul(index, number(side)))

        self.loop(number(self.width // side), [], lay)
        if self.width % side:
            # Some dims are laid out twice, to the same place.
            self._lay_square(places, number(self.width - side))

    def _lay_dim(self, places: Values, dim: ir.Value) -> Values:
        values = [self.code.load(self.code.gep(place, [dim])) for place in places]
        for vector in range(self.tile.vectors):
            lanes = values[vector * self.tile.lanes :][: self.tile.lanes]
            self.code.store(self.joined(lanes, self.floats), self._laid(dim, vector))
        return []

    def _lay_square(self, places: Values, first: ir.Value) -> Values:
        """Lay out as many dims as a vector has lanes, turned in registers: a tenth faster than one by one."""
        side, code = self.tile.lanes, self.code
        for vector in range(self.tile.vectors):
            rows = [
                self.load_vector(code.gep(place, [first]), self.floats)
                for place in places[vector * side :][:side]
            ]
            for step, dim in enumerate(self.turned(rows)):
                code.store(dim, self._laid(code.add(first, number(step)), vector))
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
            even = len(entries) // 2 * 2
            pairs = zip(entries[:even:2], entries[1:even:2], strict=True)
            entries = [*(self._better(one, other) for one, other in pairs), *entries[even:]]
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
