"""Machine code: the nearest codeword and its squared error, against float64 written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe import kernels
from vqpipe.kernels import NearestCodewords, can_compile, machine, squared_errors
from vqpipe.kernels.machine import Tile
from vqpipe.kernels.nearest_writer import NearestWriter
from vqpipe.kmeans import tally

pytestmark = pytest.mark.skipif(not can_compile(), reason="this CPU has no fused multiply-add")


def gaussian(*shape: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def distances(rows: Any, codewords: Any) -> Any:
    """Return all squared distances in float64."""
    wide = rows.astype(np.float64)[:, None] - codewords.astype(np.float64)[None]
    return (wide**2).sum(axis=2)


SHAPES = {
    "rows": st.integers(0, 70),
    "m": st.integers(1, 3),
    "k": st.integers(1, 40),
    "width": st.integers(1, 19),
    "seed": st.integers(0, 999),
}


@settings(deadline=None, max_examples=60)
@given(**SHAPES)
def test_the_nearest_codeword_of_every_column_is_found(
    rows: int, m: int, k: int, width: int, seed: int
) -> None:
    vectors, centroids = gaussian(rows, m * width, seed=seed), gaussian(m, k, width, seed=seed + 1)
    found = NearestCodewords(centroids).find(vectors)
    assert found.shape == (rows, m)
    for column in range(m):
        exact = distances(vectors[:, column * width :][:, :width], centroids[column])
        chosen = exact[np.arange(rows), found[:, column]]
        np.testing.assert_allclose(chosen, exact.min(axis=1, initial=np.inf), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(**SHAPES)
def test_a_row_finds_the_same_in_any_company(
    rows: int, m: int, k: int, width: int, seed: int
) -> None:
    """Bit for bit: coarse values make ties, which company would tell first."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (rows, m * width)).astype(np.float32)
    centroids = rng.integers(-2, 3, (m, k, width)).astype(np.float32)
    codewords = NearestCodewords(centroids)
    whole = codewords.find(vectors)
    order = rng.permutation(rows)
    np.testing.assert_array_equal(codewords.find(vectors[order]), whole[order])
    alone = [codewords.find(vectors[row : row + 1]) for row in range(rows)]
    np.testing.assert_array_equal(np.concatenate([whole[:0], *alone]), whole)


def test_of_equally_near_codewords_the_first_is_found() -> None:
    codewords = np.repeat(gaussian(1, 50, 6, seed=0), 20, axis=1)
    found = NearestCodewords(codewords).find(gaussian(500, 6, seed=1))
    assert (found % 20 == 0).all()


def test_more_codewords_than_fit_the_cache_are_compared_piece_by_piece() -> None:
    centroids, vectors = gaussian(1, 5000, 64, seed=2), gaussian(40, 64, seed=3)
    found = NearestCodewords(centroids).find(vectors)[:, 0]
    exact = distances(vectors, centroids[0])
    assert (exact[np.arange(40), found] <= exact.min(axis=1) * (1 + 1e-5)).all()
    assert (found == exact.argmin(axis=1)).mean() > 0.99


def test_codewords_that_must_not_be_chosen_are_not() -> None:
    centroids, vectors = gaussian(2, 30, 4, seed=4), gaussian(200, 8, seed=5)
    never = np.zeros((2, 30), dtype=bool)
    never[0, :29] = never[1, 7:] = True
    found = NearestCodewords(centroids, never).find(vectors)
    assert (found[:, 0] == 29).all()
    assert (found[:, 1] < 7).all()


def test_rows_of_nan_find_nothing_and_do_their_neighbours_no_harm() -> None:
    centroids, vectors = gaussian(1, 30, 4, seed=6), gaussian(100, 4, seed=7)
    codewords = NearestCodewords(centroids)
    sound = codewords.find(vectors)
    vectors[::7] = np.nan
    found = codewords.find(vectors)
    assert (found[::7] == -1).all()
    np.testing.assert_array_equal(
        np.delete(found, np.s_[::7], axis=0), np.delete(sound, np.s_[::7], axis=0)
    )


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 60), cut=st.integers(1, 29), seed=st.integers(0, 99))
def test_improving_part_by_part_finds_what_comparing_with_all_does(
    rows: int, cut: int, seed: int
) -> None:
    """As groups of codewords are searched: rows that are not picked keep what they have."""
    vectors, centroids = gaussian(rows, 5, seed=seed), gaussian(1, 30, 5, seed=seed + 1)
    scores = np.full((1, rows), -np.inf, dtype=np.float32)
    labels = np.full((1, rows), -1, dtype=np.int32)
    picks = np.random.default_rng(seed).permutation(rows)[: rows // 2 + 1]
    for start, stop in ((0, cut), (cut, 30)):
        part = NearestCodewords(centroids[:, start:stop], first=start)
        part.improve(vectors, picks, scores, labels)
    whole = NearestCodewords(centroids).find(vectors)[:, 0]
    np.testing.assert_array_equal(labels[0, picks], whole[picks])
    assert (np.delete(labels[0], picks) == -1).all()


@settings(deadline=None, max_examples=40)
@given(**SHAPES)
def test_squared_errors_are_those_of_longhand(
    rows: int, m: int, k: int, width: int, seed: int
) -> None:
    vectors, centroids = gaussian(rows, m * width, seed=seed), gaussian(m, k, width, seed=seed + 1)
    labels = np.random.default_rng(seed).integers(0, k, (rows, m))
    wide = vectors.reshape(rows, m, width).astype(np.float64) - centroids[np.arange(m), labels]
    found = squared_errors(vectors, labels, centroids)
    assert found.shape == (rows, m)
    np.testing.assert_allclose(found, (wide**2).sum(axis=2), rtol=1e-13)
    np.testing.assert_allclose(found, tally.squared_errors(vectors, labels, centroids), rtol=1e-13)


@pytest.mark.parametrize("tile", [Tile(16, 2, 8), Tile(4, 4, 4), Tile(8, 1, 2), Tile(8, 2, 5)])
def test_the_tile_of_any_cpu_finds_the_same(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM cuts vectors that this CPU has not got: a mixed cluster writes the same codes."""
    rng = np.random.default_rng(8)
    vectors = rng.integers(-2, 3, (333, 10)).astype(np.float32)
    centroids = (rng.integers(-2, 3, (2, 77, 5)) + rng.random((2, 77, 5)) / 9).astype(np.float32)
    here = NearestCodewords(centroids).find(vectors)
    monkeypatch.setattr(kernels.nearest, "find_tile", lambda: tile)
    np.testing.assert_array_equal(NearestCodewords(centroids).find(vectors), here)
    assert "fma" in str(NearestWriter(5, tile).write())


def test_a_cpu_without_fused_multiply_add_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine.find_tile.cache_clear()
    monkeypatch.setattr(machine.llvm, "get_host_cpu_features", dict)
    try:
        assert not can_compile()
        with pytest.raises(RuntimeError, match="multiply-add"):
            NearestCodewords(gaussian(1, 3, 2, seed=0))
    finally:
        machine.find_tile.cache_clear()


def test_among_no_codewords_none_is_found() -> None:
    """A group of a search may hold none."""
    codewords = NearestCodewords(np.empty((1, 0, 9), dtype=np.float32))
    rows = gaussian(5, 9, seed=0)
    assert (codewords.find(rows) == -1).all()
    scores, labels = np.zeros((1, 5), np.float32), np.full((1, 5), 7, np.int32)
    codewords.improve(rows, np.arange(3), scores, labels)
    assert (labels == 7).all()
