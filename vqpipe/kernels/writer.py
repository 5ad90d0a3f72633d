"""Writing LLVM code: loops that carry values, and vectors put together lane by lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

FLOAT = ir.FloatType()
DOUBLE = ir.DoubleType()
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)

Values = list[ir.Value]


def number(value: int) -> ir.Constant:
    """Return a 64-bit integer."""
    return ir.Constant(INT64, value)


class Writer:
    """Writes one function that returns nothing.

    Parameters
    ----------
    name : str
    arguments : sequence of LLVM types
    """

    def __init__(self, name: str, arguments: Sequence[ir.Type]) -> None:
        self.module = ir.Module(name)
        kind = ir.FunctionType(ir.VoidType(), arguments)
        self.function = ir.Function(self.module, kind, name)
        self.code = ir.IRBuilder(self.function.append_basic_block())

    def multiply_add(self, one: ir.Value, other: ir.Value, total: ir.Value) -> ir.Value:
        """Return one * other + total, rounded once."""
        kind = total.type
        letter = "f32" if kind.element == FLOAT else "f64"
        name = f"llvm.fma.v{kind.count}{letter}"
        known = self.module.globals.get(name)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(kind, [kind] * 3), name)
        return self.code.call(known, [one, other, total])

    def joined(self, values: Values, kind: ir.VectorType) -> ir.Value:
        """Return single values side by side."""
        vector: ir.Value = ir.Constant(kind, ir.Undefined)
        for lane, value in enumerate(values):
            vector = self.code.insert_element(vector, value, ir.Constant(INT32, lane))
        return vector

    def splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        """Return a value in all lanes."""
        empty = ir.Constant(kind, ir.Undefined)
        single = self.code.insert_element(empty, value, ir.Constant(INT32, 0))
        lanes = ir.Constant(ir.VectorType(INT32, kind.count), [0] * kind.count)
        return self.code.shuffle_vector(single, empty, lanes)

    def load_vector(self, place: ir.Value, kind: ir.VectorType) -> ir.Value:
        """Return the values from a place on, side by side."""
        loaded = self.code.load(self.code.bitcast(place, kind.as_pointer()))
        loaded.align = 4
        return loaded

    def turned(self, rows: Values) -> Values:
        """Return the columns of a square of values, a vector each; as many rows as lanes, a power of 2.

        Halves change places between rows that lie half the square apart, then quarters, and so on (Eklundh,
        1972).
        """
        side = len(rows)
        lanes = range(side)
        kind = ir.VectorType(INT32, side)
        step = side // 2
        while step:
            low = [side + lane - step if lane & step else lane for lane in lanes]
            high = [side + lane if lane & step else lane + step for lane in lanes]
            turned = list(rows)
            for at in lanes:
                if not at & step:
                    pair = rows[at], rows[at + step]
                    turned[at] = self.code.shuffle_vector(*pair, ir.Constant(kind, low))
                    turned[at + step] = self.code.shuffle_vector(*pair, ir.Constant(kind, high))
            rows, step = turned, step // 2
        return rows

    def loop(
        self, count: ir.Value, carried: Values, body: Callable[[ir.Value, Values], Values]
    ) -> Values:
        """Write a loop of at least one turn whose body takes and returns the carried values."""
        code = self.code
        before, turn = code.block, self.function.append_basic_block()
        code.branch(turn)
        code.position_at_end(turn)
        index = code.phi(INT64)
        index.add_incoming(number(0), before)
        taken = [code.phi(value.type) for value in carried]
        for phi, value in zip(taken, carried, strict=True):
            phi.add_incoming(value, before)
        given = body(index, list(taken))
        following = code.add(index, number(1))
        index.add_incoming(following, code.block)
        for phi, value in zip(taken, given, strict=True):
            phi.add_incoming(value, code.block)
        after = self.function.append_basic_block()
        code.cbranch(code.icmp_signed("<", following, count), turn, after)
        code.position_at_end(after)
        return given
