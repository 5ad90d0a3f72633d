"""Evaluation: neighbours against float64 brute force, and every figure against its definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.evaluation.histogram import LEAST_BINS, MOST_BINS, count_errors
from vqpipe.evaluation.measures import CodeUse, Spread, count_codes
from vqpipe.evaluation.neighbours import (
    SEARCH_BLOCK_ROWS,
    SHORTLIST,
    Neighbours,
    recall,
    rerank,
    search_rows,
)


def brute_force(queries: Any, rows: Any, numbers: Any, places: int) -> tuple[Any, Any]:
    """Return float64 distances and row numbers, equal distances by smaller number."""
    distances = np.full((len(queries), places), np.inf)
    found = np.full((len(queries), places), -1)
    for place, query in enumerate(queries.astype(np.float64)):
        squared = ((rows.astype(np.float64) - query) ** 2).sum(axis=1)
        order = sorted(zip(squared.tolist(), numbers.tolist(), strict=True))[:places]
        for rank, (distance, number) in enumerate(order):
            distances[place, rank], found[place, rank] = distance, number
    return distances, found


def coarse(rows: int, seed: int, dim: int = 5) -> tuple[Any, Any, Any]:
    """Return queries, rows and numbers of small integers: float32 is exact and ties abound."""
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.choice(10**11, rows, replace=False))
    queries = rng.integers(-3, 4, (7, dim)).astype(np.float32)
    return queries, rng.integers(-3, 4, (rows, dim)).astype(np.float32), numbers


@pytest.mark.parametrize("places", [1, 16, 100])
@pytest.mark.parametrize(
    "rows", [0, 1, 15, 50, SEARCH_BLOCK_ROWS, SEARCH_BLOCK_ROWS + 1, 3 * SEARCH_BLOCK_ROWS - 7]
)
def test_the_nearest_rows_are_found_with_ties_by_smaller_number(rows: int, places: int) -> None:
    queries, vectors, numbers = coarse(rows, rows + places)
    found = search_rows(queries, vectors, numbers, places)
    distances, nearest = brute_force(queries, vectors, numbers, places)
    np.testing.assert_array_equal(found.rows, nearest)
    np.testing.assert_array_equal(found.distances, distances)
    assert found.distances.dtype == np.float64
    assert found.rows.dtype == np.int64


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 400),
    places=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 400), max_size=4),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_split_merged_in_any_order_gives_the_same(
    rows: int, places: int, cuts: list[int], seed: int, data: st.DataObject
) -> None:
    queries, vectors, numbers = coarse(rows, seed)
    whole = search_rows(queries, vectors, numbers, places)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    parts = [
        search_rows(queries, vectors[a:b], numbers[a:b], places)
        for a, b in itertools.pairwise(edges)
    ]
    merged = Neighbours.none(len(queries), places)
    for part in data.draw(st.permutations(parts)):
        merged += part
    np.testing.assert_array_equal(merged.rows, whole.rows)
    np.testing.assert_array_equal(merged.distances, whole.distances)


def scattered(copies: int, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Return gaussian data in which the nearest row of each query has copies in every block."""
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((6, 20)).astype(np.float32)
    rows = rng.standard_normal((3 * SEARCH_BLOCK_ROWS + 100, 20)).astype(np.float32)
    places = rng.permutation(len(rows))[: 6 * copies].reshape(6, copies)
    for query, copy in zip(queries, places, strict=True):
        rows[copy] = query + np.float32(0.01) * rng.standard_normal(20).astype(np.float32)
    return queries, rows, np.arange(len(rows)) * 3 + 5, places


@pytest.mark.parametrize("copies", [2, 10, 40, 200])
def test_of_equal_rows_anywhere_the_smallest_number_comes_first(copies: int) -> None:
    """A row has the same distance in whichever block it lies, and wherever in it."""
    queries, rows, numbers, places = scattered(copies)
    found = search_rows(queries, rows, numbers, SHORTLIST)
    shown = min(copies, SHORTLIST)
    expected = np.sort(numbers[places], axis=1)[:, :shown]
    np.testing.assert_array_equal(found.rows[:, :shown], expected)
    first = rerank(queries, rows, numbers, found, 1)
    np.testing.assert_array_equal(first.rows[:, 0], numbers[places].min(axis=1))


@pytest.mark.parametrize("places", [1, 5, 16])
def test_rerank_gives_float64_distances_and_order(places: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((5000, 24)).astype(np.float32)
    queries = rng.standard_normal((20, 24)).astype(np.float32)
    numbers = np.sort(rng.choice(10**6, 5000, replace=False))
    shortlist = search_rows(queries, rows, numbers, SHORTLIST)
    found = rerank(queries, rows, numbers, shortlist, places)
    distances, nearest = brute_force(queries, rows, numbers, places)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    np.testing.assert_array_equal(found.rows, nearest)


def test_search_agrees_with_float64_up_to_float32_rounding() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((5000, 24)).astype(np.float32)
    queries = rng.standard_normal((20, 24)).astype(np.float32)
    found = search_rows(queries, rows, np.arange(5000), 10)
    distances, nearest = brute_force(queries, rows, np.arange(5000), 10)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5, atol=1e-5)
    assert (found.rows == nearest).mean() > 0.98


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_fewer_rows_than_places_leave_places_empty(rows: int) -> None:
    queries, vectors, numbers = coarse(rows, 3)
    shortlist = search_rows(queries, vectors, numbers, 5)
    assert (shortlist.rows[:, rows:] == -1).all()
    assert np.isinf(shortlist.distances[:, rows:]).all()
    found = rerank(queries, vectors, numbers, shortlist, 4)
    distances, nearest = brute_force(queries, vectors, numbers, 4)
    np.testing.assert_array_equal(found.rows, nearest)
    np.testing.assert_array_equal(found.distances, distances)


def test_no_queries_find_nothing() -> None:
    _, vectors, numbers = coarse(30, 4)
    none = np.zeros((0, 5), dtype=np.float32)
    shortlist = search_rows(none, vectors, numbers, 5)
    assert rerank(none, vectors, numbers, shortlist, 1).rows.shape == (0, 1)


@settings(deadline=None)
@given(
    truth=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    places=st.integers(1, 6),
    data=st.data(),
)
def test_recall_is_the_share_of_queries_whose_nearest_is_among_the_first(
    truth: list[int], places: int, data: st.DataObject
) -> None:
    found = [data.draw(st.permutations(range(6)))[:places] for _ in truth]
    at = [1, 2, 5, 10]
    shares = recall(np.array(truth), np.array(found), at)
    for k in at:
        hits = sum(nearest in listed[:k] for nearest, listed in zip(truth, found, strict=True))
        assert shares[str(k)] == pytest.approx(hits / len(truth))
    assert list(shares) == [str(k) for k in at]


def spread_of(rows: Any, errors: Any, place: Any) -> Spread:
    moved = rows.astype(np.float64) - place
    return Spread(len(rows), float(errors.sum()), moved.sum(axis=0), float((moved**2).sum()))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(2, 300),
    cut=st.integers(1, 299),
    place=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 999),
)
def test_distortion_and_relative_distortion_are_their_definitions(
    rows: int, cut: int, place: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = place + rng.standard_normal((rows, 4))
    errors = rng.random(rows)
    cut = min(cut, rows)
    whole = spread_of(vectors, errors, place)
    parts = spread_of(vectors[:cut], errors[:cut], place) + spread_of(
        vectors[cut:], errors[cut:], place
    )
    spread = sum(math.dist(vector, vectors.mean(axis=0)) ** 2 for vector in vectors) / rows
    for measured in (whole, parts):
        assert measured.rows == rows
        assert measured.distortion == pytest.approx(errors.mean(), rel=1e-12)
        assert measured.relative_distortion == pytest.approx(errors.mean() / spread, rel=1e-9)


@pytest.mark.parametrize("place", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_equal_rows_have_no_relative_distortion(seed: int, place: float) -> None:
    """There is no spread to compare with, wherever they lie from the point that is subtracted."""
    row = place * np.random.default_rng(seed).standard_normal(7)
    rows = np.tile(row, (1001, 1))
    assert spread_of(rows, np.full(1001, 0.5), 0.0).relative_distortion is None


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.lists(st.integers(0, 50), min_size=6, max_size=6), min_size=1, max_size=4)
)
def test_use_of_codewords_is_what_the_terms_say(counts: list[list[int]]) -> None:
    use = CodeUse(np.array(counts, dtype=np.int64))
    for place, column in enumerate(counts):
        total, mean = sum(column), sum(column) / 6
        entropy = -sum(count / total * math.log(count / total) for count in column if count)
        assert use.perplexity[place] == pytest.approx(math.exp(entropy))
        assert use.dead[place] == column.count(0)
        # A tenth in whole numbers: no rounding decides.
        assert use.starved[place] == sum(60 * count < total for count in column)
        assert use.imbalance[place] == pytest.approx(max(column) / mean if total else 0)


def test_even_use_has_the_perplexity_of_the_codebook_and_single_use_of_one() -> None:
    use = CodeUse(np.array([[5, 5, 5, 5], [20, 0, 0, 0]]))
    assert use.perplexity == pytest.approx([4, 1])
    assert use.imbalance == pytest.approx([1, 4])
    assert (use.dead, use.starved) == ([0, 3], [0, 3])


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(0, 200),
    columns=st.integers(1, 4),
    k=st.integers(1, 300),
    cut=st.integers(0, 200),
    seed=st.integers(0, 999),
)
def test_codes_of_valid_rows_are_counted_once_and_parts_add_up(
    rows: int, columns: int, k: int, cut: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, k, (rows, columns)).astype(np.min_scalar_type(k - 1))
    for valid in (rng.random(rows) < 0.7, np.ones(rows, bool), np.zeros(rows, bool)):
        longhand = np.zeros((columns, k), dtype=int)
        for row in range(rows):
            for column in range(columns):
                longhand[column, codes[row, column]] += bool(valid[row])
        use = count_codes(codes, valid, k)
        np.testing.assert_array_equal(use.counts, longhand)
        assert use.counts.dtype == np.int64
        parts = count_codes(codes[:cut], valid[:cut], k) + count_codes(codes[cut:], valid[cut:], k)
        np.testing.assert_array_equal(parts.counts, longhand)


ERRORS = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-80, 1e38)),
    max_size=60,
)


@settings(deadline=None)
@given(ERRORS, st.integers(0, 60))
def test_error_counts_are_the_longhand_ones_and_add(errors: list[float], cut: int) -> None:
    whole = count_errors(np.array(errors))
    parts = count_errors(np.array(errors[:cut])) + count_errors(np.array(errors[cut:]))
    found = whole.plain()
    assert parts.plain() == found
    edges, counts = found["edges"], found["counts"]
    assert found["zero"] == errors.count(0.0)
    assert sum(counts) + found["zero"] == len(errors)
    assert edges == sorted(set(edges))
    above = [error for error in errors if error > 0]
    assert counts == [
        sum(low <= error < high for error in above) for low, high in itertools.pairwise(edges)
    ]
    if above:
        assert len(edges) == len(counts) + 1 <= LEAST_BINS + 1
        assert counts[0]
        assert counts[-1]


def test_the_bins_of_many_errors_are_fine_and_bounded() -> None:
    errors = np.random.default_rng(0).chisquare(16, 200_000)
    found = count_errors(errors).plain()
    assert 32 <= len(found["counts"]) <= MOST_BINS
    spread = count_errors(np.logspace(-100, 38, 200_000)).plain()
    assert 32 <= len(spread["counts"]) <= MOST_BINS
