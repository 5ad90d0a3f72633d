"""Prepared rows: the same values whatever the dtype, and exactly the unusable ones flagged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vqpipe.codebook import Metric
from vqpipe.rows import prepare_rows

METRICS: list[Metric] = ["l2", "cosine"]
FLOAT32_MAX = float(np.finfo(np.float32).max)


def is_usable(row: list[float], metric: Metric) -> bool | None:
    """Say longhand whether a row can be used; None within rounding of an overflow."""
    squared = math.fsum(value * value for value in row)
    if not math.isfinite(squared):
        return False
    if abs(squared / FLOAT32_MAX - 1) < 1e-3:
        return None
    return squared < FLOAT32_MAX and (metric == "l2" or squared > 0)


@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None)
@given(
    rows=npst.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.integers(1, 5)),
        elements=st.one_of(
            st.floats(width=32),
            st.sampled_from([0.0, -0.0, 1e-30, 1e-45, 1e18, 2e19, np.inf, -np.inf, np.nan]).map(
                lambda value: float(np.float32(value))
            ),
        ),
    )
)
def test_exactly_the_unusable_rows_are_flagged_and_zero(metric: Metric, rows: np.ndarray) -> None:
    before = rows.tobytes()
    prepared, valid = prepare_rows(rows, metric)
    assert rows.tobytes() == before
    assert not np.shares_memory(prepared, rows)
    assert prepared.dtype == np.float32
    assert prepared.shape == rows.shape
    assert valid.shape == (len(rows),)
    for row, made, usable in zip(rows, prepared, valid, strict=True):
        numbers = [float(value) for value in row]
        expected = is_usable(numbers, metric)
        assert expected is None or bool(usable) == expected
        if not usable:
            assert not made.any()
        elif metric == "l2":
            np.testing.assert_array_equal(made, row)
        else:
            norm = math.sqrt(math.fsum(value * value for value in numbers))
            np.testing.assert_allclose(
                made, [value / norm for value in numbers], rtol=2e-7, atol=1e-44
            )


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int8])
@pytest.mark.parametrize("metric", METRICS)
def test_a_narrow_dtype_gives_what_float32_gives_on_the_same_values(
    dtype: type, metric: Metric
) -> None:
    rng = np.random.default_rng(1)
    low = 0 if dtype is np.uint8 else -100
    rows = rng.integers(low, 100, (50, 7)).astype(dtype)
    rows[3] = 0
    if dtype is np.float16:
        rows[5, 2], rows[6, 1], rows[7, 0], rows[8] = np.nan, np.inf, 1e-7, 60000
    before = rows.copy()
    prepared, valid = prepare_rows(rows, metric)
    wide, wide_valid = prepare_rows(rows.astype(np.float32), metric)
    np.testing.assert_array_equal(prepared, wide)
    np.testing.assert_array_equal(valid, wide_valid)
    np.testing.assert_array_equal(rows, before)
    assert prepared.dtype == np.float32
    assert bool(valid[3]) == (metric == "l2")
    assert valid[9:].all()


@pytest.mark.parametrize("metric", METRICS)
def test_one_bad_value_anywhere_flags_its_row_alone(metric: Metric) -> None:
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        rows = np.random.default_rng(2).standard_normal((9, 4)).astype(np.float32)
        for row, column in [(0, 0), (4, 3), (8, 1)]:
            rows[row, column] = bad
        _, valid = prepare_rows(rows, metric)
        assert np.flatnonzero(~valid).tolist() == [0, 4, 8]


def test_a_zero_row_is_unusable_under_cosine_alone() -> None:
    rows = np.float32([[0, 0], [-0.0, 0], [1, 0]])
    assert prepare_rows(rows, "l2")[1].tolist() == [True, True, True]
    assert prepare_rows(rows, "cosine")[1].tolist() == [False, False, True]


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-20, 1.0, 1e9, 1e18])
def test_a_rows_length_does_not_matter_under_cosine(scale: float) -> None:
    rows = np.float32([[scale, 0, 0], [scale, scale, -scale]])
    prepared, valid = prepare_rows(rows, "cosine")
    assert valid.all()
    third = math.sqrt(1 / 3)
    np.testing.assert_allclose(prepared, [[1, 0, 0], [third, third, -third]], rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_prepared_alone_and_together_are_the_same(metric: Metric) -> None:
    rows = np.random.default_rng(3).standard_normal((40, 33)).astype(np.float32)
    together, _ = prepare_rows(rows, metric)
    alone = np.concatenate([prepare_rows(rows[row : row + 1], metric)[0] for row in range(40)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("metric", METRICS)
def test_strided_rows_give_the_same_as_contiguous_ones(metric: Metric) -> None:
    rows = np.random.default_rng(4).standard_normal((30, 12)).astype(np.float32)
    view = rows[::3, ::2]
    prepared, _ = prepare_rows(view, metric)
    assert prepared.flags.c_contiguous
    np.testing.assert_array_equal(prepared, prepare_rows(view.copy(), metric)[0])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_pieces_are_prepared_as_one_array_is(dtype: str, metric: Metric) -> None:
    stored = np.random.default_rng(0).integers(0, 9, (20, 3)).astype(dtype)
    stored[7] = 0
    # In another order in memory, as a transposed source gives them.
    pieces = [stored[:5], np.asfortranarray(stored[5:5]), np.asfortranarray(stored[5:])]
    (one, usable), (other, same) = prepare_rows(stored, metric), prepare_rows(pieces, metric)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(usable, same)
    assert other.flags.c_contiguous
    assert other.dtype == np.float32
