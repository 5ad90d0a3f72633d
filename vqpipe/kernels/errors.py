"""Squared errors of sub-vectors in float64, from rows and codewords."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from llvmlite import ir

from vqpipe.dtypes import Float32, Float64, Labels
from vqpipe.kernels.machine import compile_function
from vqpipe.kernels.writer import DOUBLE, FLOAT, INT32, INT64, Values, Writer, number

# Dims that are squared together, on every CPU: a sum's order is its value.
_LANES = 4

_ARGUMENTS = (
    FLOAT.as_pointer(),
    FLOAT.as_pointer(),
    INT64,
    INT64.as_pointer(),
    INT64,
    DOUBLE.as_pointer(),
)
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64
_C_ARGUMENTS = (_POINTER, _POINTER, _LONG, _POINTER, _LONG, _POINTER)


def squared_errors(rows: Float32, labels: Labels, centroids: Float32) -> Float64:
    """Return ||x - c||^2 of every sub-vector, in float64.

    Parameters
    ----------
    rows : float32 array of shape (rows, dim)
        In C order, offset subtracted.
    labels : int array of shape (rows, m)
    centroids : float32 array of shape (m, k, dim / m)
        In C order, offset subtracted.

    Returns
    -------
    float64 array of shape (rows, m)
    """
    m, k, width = centroids.shape
    errors = np.empty((len(rows), m))
    if rows.size and centroids.size:
        numbers = np.ascontiguousarray(labels, dtype=np.int64)
        arrays = (np.ascontiguousarray(rows), np.ascontiguousarray(centroids), numbers, errors)
        vectors, table, found, out = (array.ctypes.data for array in arrays)
        _compiled(m, width)(vectors, table, k, found, len(rows), out)
    return errors


@cache
def _compiled(m: int, width: int) -> Callable[..., None]:
    return compile_function(_ErrorsWriter(m, width).write(), "squared_errors", _C_ARGUMENTS)


class _ErrorsWriter(Writer):
    def __init__(self, m: int, width: int) -> None:
        super().__init__("squared_errors", _ARGUMENTS)
        self.m, self.width = m, width
        self.wide = ir.VectorType(DOUBLE, _LANES)

    def write(self) -> ir.Module:
        """Return the finished module."""
        rows, centroids, k, labels, count, errors = self.function.args
        code = self.code

        def sub_vector(at: ir.Value, _: Values) -> Values:
            """At counts sub-vectors, which follow one another as their labels and errors do."""
            column = code.urem(at, number(self.m))
            codeword = code.add(code.mul(column, k), code.load(code.gep(labels, [at])))
            pair = (
                code.gep(rows, [code.mul(at, number(self.width))]),
                code.gep(centroids, [code.mul(codeword, number(self.width))]),
            )
            code.store(self._squared_distance(pair), code.gep(errors, [at]))
            return []

        self.loop(code.mul(count, number(self.m)), [], sub_vector)
        code.ret_void()
        return self.module

    def _squared_distance(self, pair: tuple[ir.Value, ir.Value]) -> ir.Value:
        code = self.code
        total: ir.Value = ir.Constant(self.wide, [0.0] * _LANES)
        whole, left = divmod(self.width, _LANES)
        if whole:
            kind = ir.VectorType(FLOAT, _LANES).as_pointer()

            def some_dims(at: ir.Value, sums: Values) -> Values:
                places = [code.gep(one, [code.mul(at, number(_LANES))]) for one in pair]
                loaded = [code.load(code.bitcast(place, kind), align=4) for place in places]
                return [self._add_square(loaded, sums[0])]

            (total,) = self.loop(number(whole), [total], some_dims)
        if left:
            # Lanes without a dim hold zeros in both.
            zero = [ir.Constant(FLOAT, 0.0)] * (_LANES - left)
            dims = [number(whole * _LANES + lane) for lane in range(left)]
            loaded = [
                self.joined(
                    [*(code.load(code.gep(one, [dim])) for dim in dims), *zero],
                    ir.VectorType(FLOAT, _LANES),
                )
                for one in pair
            ]
            total = self._add_square(loaded, total)
        lanes = [code.extract_element(total, ir.Constant(INT32, lane)) for lane in range(_LANES)]
        return code.fadd(code.fadd(lanes[0], lanes[1]), code.fadd(lanes[2], lanes[3]))

    def _add_square(self, loaded: Values, total: ir.Value) -> ir.Value:
        row, codeword = (self.code.fpext(value, self.wide) for value in loaded)
        difference = self.code.fsub(row, codeword)
        return self.multiply_add(difference, difference, total)
