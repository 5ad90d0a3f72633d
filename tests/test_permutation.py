"""The permutation: a bijection without a table, of which any part can be computed alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.permutation import Permutation

SEED = st.integers(0, 2**63)
PURPOSE = st.text(max_size=8)


def order_of(rows: int, seed: int, purpose: str = "test") -> list[int]:
    """Return the whole permuted order."""
    return [int(row) for row in Permutation(rows, seed, purpose).rows_at(np.arange(rows))]


def chi_square_bound(freedom: int) -> float:
    """Return what a fair draw exceeds once in a million (Wilson and Hilferty 1931; z = 4.753)."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + 4.753 * math.sqrt(spread)) ** 3)


@settings(deadline=None)
@given(rows=st.integers(1, 3000), seed=SEED, purpose=PURPOSE)
def test_every_row_comes_up_once(rows: int, seed: int, purpose: str) -> None:
    assert sorted(order_of(rows, seed, purpose)) == list(range(rows))


@settings(deadline=None)
@given(rows=st.integers(1, 10**12), seed=SEED, data=st.data())
def test_places_of_undoes_rows_at_and_all_lands_inside(
    rows: int, seed: int, data: st.DataObject
) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=50)), dtype=np.int64)
    permutation = Permutation(rows, seed, "draw")
    drawn = permutation.rows_at(places)
    assert drawn.dtype == np.int64
    assert ((drawn >= 0) & (drawn < rows)).all()
    np.testing.assert_array_equal(permutation.places_of(drawn), places)
    np.testing.assert_array_equal(permutation.rows_at(permutation.places_of(places)), places)


@settings(deadline=None)
@given(rows=st.integers(1, 2000), seed=SEED, data=st.data())
def test_any_part_alone_equals_the_whole(rows: int, seed: int, data: st.DataObject) -> None:
    whole = np.array(order_of(rows, seed))
    places = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=30)), dtype=np.int64)
    part = Permutation(rows, seed, "test").rows_at(places)
    np.testing.assert_array_equal(part, whole[places])


def test_seeds_purposes_and_sizes_give_unrelated_orders() -> None:
    """Of two unrelated orders of 1,000 rows about one row stands at the same place in both."""
    orders = [
        order_of(1000, 0, "train"),
        order_of(1000, 1, "train"),
        order_of(1000, 0, "heldout"),
        order_of(1001, 0, "train")[:1000],
    ]
    for one, other in itertools.combinations(orders, 2):
        same = sum(a == b for a, b in zip(one, other, strict=True))
        assert same < 12  # Poisson(1) exceeds 11 less than once in 10^8


def test_the_input_is_not_changed() -> None:
    places = np.arange(100)
    Permutation(100, 3, "x").rows_at(places)
    np.testing.assert_array_equal(places, np.arange(100))


@pytest.mark.parametrize("rows", [2, 3, 5, 10, 17, 64])
def test_small_draws_are_uniform_over_seeds(rows: int) -> None:
    """The first two places take every ordered pair of rows equally often."""
    expected, pairs = 30, rows * (rows - 1)
    counts = np.zeros((rows, rows))
    for seed in range(min(expected * pairs, 6000)):
        first, second = Permutation(rows, seed, "uniform").rows_at(np.arange(2))
        counts[first, second] += 1
    fair = counts.sum() / pairs
    seen = counts[~np.eye(rows, dtype=bool)]
    assert np.trace(counts) == 0
    if fair >= 5:
        assert float(((seen - fair) ** 2 / fair).sum()) < chi_square_bound(pairs - 1)
    for place in (counts.sum(axis=0), counts.sum(axis=1)):
        fair = place.sum() / rows
        assert float(((place - fair) ** 2 / fair).sum()) < chi_square_bound(rows - 1)


def test_all_orders_of_four_rows_are_equally_likely() -> None:
    orders = list(itertools.permutations(range(4)))
    counts = dict.fromkeys(orders, 0)
    for seed in range(4800):
        counts[tuple(order_of(4, seed))] += 1
    statistic = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert statistic < chi_square_bound(len(orders) - 1)


def test_a_draw_from_a_huge_domain_is_spread_over_it_evenly() -> None:
    rows, drawn = 10**10, 100_000
    sample = Permutation(rows, 7, "train").rows_at(np.arange(drawn))
    assert len(np.unique(sample)) == drawn
    for counts in (
        np.bincount(sample * 100 // rows, minlength=100),
        np.bincount(sample % 97, minlength=97),
    ):
        fair = drawn / len(counts)
        statistic = float(((counts - fair) ** 2 / fair).sum())
        assert statistic < chi_square_bound(len(counts) - 1)


def test_neighbouring_places_are_not_neighbouring_rows() -> None:
    """Steps between consecutive places are as often up as down, and hardly ever of one row."""
    steps = np.diff(Permutation(10**6, 5, "train").rows_at(np.arange(20_000)))
    assert abs(int((steps > 0).sum()) - 10_000) < 400
    assert int((np.abs(steps) == 1).sum()) < 5
