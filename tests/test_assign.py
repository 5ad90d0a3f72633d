"""Assignment: every route against float64 brute force, at any place and scale, in any company."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from vqpipe.codebook import SURPLUS, Codebook, CodebookSpec
from vqpipe.errors import CodebookError, InvalidRowError, VqpipeError
from vqpipe.kernels import can_compile
from vqpipe.quantizer import Quantizer, Route, choose_route
from vqpipe.quantizer.assign import make_assigner

ROUTES = [Route("product", 256), Route("flat", 2048), Route("fused", 256)]
BY_NAME = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)

# dim, m, k
SHAPES = [
    (8, 1, 1),
    (8, 2, 2),
    (4, 4, 100),
    (12, 4, 256),
    (32, 2, 77),
    (32, 2, 1025),
    (3, 1, 2500),
    (128, 1, 300),
]


def sample(dim: int, m: int, k: int, rows: int = 1500, seed: int = 0) -> tuple[Any, Any]:
    """Return gaussian rows, and centroids that are rows too."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, dim))
    drawn = rng.standard_normal((k, dim))
    return vectors, drawn.reshape(k, m, dim // m).transpose(1, 0, 2)


def quantizer_of(centroids: Any, offset: Any, route: Route, metric: Any = "l2") -> Quantizer:
    kind: Any = "KM" if len(centroids) == 1 else "PQ"
    stored = np.ascontiguousarray(centroids, dtype=np.float32)[None]
    return Quantizer(Codebook(kind, metric, np.float32(offset), stored), route)


def check_nearest(quantizer: Quantizer, vectors: Any, other_share: float = 1e-3) -> None:
    """Compare labels with float64 brute force over what float32 holds of rows and codewords."""
    codebook = quantizer.codebook
    codes = quantizer.encode(vectors)
    assert codes.shape == (len(vectors), codebook.m)
    assert str(codes.dtype) == codebook.spec.code_dtype
    offset = codebook.offset.astype(np.float64)
    width = codebook.dim // codebook.m
    other = 0
    for column in range(codebook.m):
        part = slice(column * width, (column + 1) * width)
        rows = vectors[:, part].astype(np.float64) - offset[part]
        codewords = codebook.centroids[0, column].astype(np.float64) - offset[part]
        distances = np.zeros((len(rows), codebook.k))
        for axis in range(width):
            distances += (rows[:, axis, None] - codewords[:, axis]) ** 2
        nearest = distances.min(axis=1)
        chosen = distances[np.arange(len(rows)), codes[:, column].astype(np.intp)]
        allowed = 1e-5 * nearest + 1e-6 * (rows**2).sum(axis=1)
        assert (chosen <= nearest + allowed).all()
        other += int((chosen > nearest).sum())
    assert other <= other_share * codes.size


@BY_NAME
@pytest.mark.parametrize(("dim", "m", "k"), SHAPES)
def test_the_nearest_codeword_is_chosen(route: Route, dim: int, m: int, k: int) -> None:
    vectors, centroids = sample(dim, m, k)
    check_nearest(quantizer_of(centroids, np.zeros(dim), route), vectors.astype(np.float32))


@BY_NAME
@pytest.mark.parametrize(("dim", "m", "k"), SHAPES)
def test_the_nearest_codeword_is_chosen_a_thousand_spreads_from_the_origin(
    route: Route, dim: int, m: int, k: int
) -> None:
    vectors, centroids = sample(dim, m, k, seed=1)
    place = 1000 * np.random.default_rng(2).choice([-1.0, 1.0], dim)
    moved = centroids + place.reshape(m, 1, dim // m)
    check_nearest(quantizer_of(moved, place, route), (vectors + place).astype(np.float32))


@BY_NAME
@pytest.mark.parametrize(("dim", "m", "k"), [(8, 1, 200), (16, 4, 64), (32, 2, 1025)])
def test_the_nearest_codeword_is_chosen_with_one_column_a_thousand_times_the_others(
    route: Route, dim: int, m: int, k: int
) -> None:
    vectors, centroids = sample(dim, m, k, seed=3)
    scale = np.ones(dim)
    scale[1] = 1000
    scaled = centroids * scale.reshape(m, 1, dim // m)
    quantizer = quantizer_of(scaled, np.zeros(dim), route)
    # A thousand codewords on one long axis lie closer than float32 products tell apart: the distance
    # bound is the law, the share of other labels what float32 leaves.
    check_nearest(quantizer, (vectors * scale).astype(np.float32), other_share=4e-3)


@BY_NAME
def test_a_row_that_is_a_codeword_chooses_it(route: Route) -> None:
    _, centroids = sample(12, 1, 1500, seed=4)
    quantizer = quantizer_of(centroids + 50, np.full(12, 50), route)
    codes = quantizer.encode(quantizer.codebook.centroids[0, 0])
    assert codes[:, 0].tolist() == list(range(1500))
    np.testing.assert_array_equal(quantizer.decode(codes), quantizer.codebook.centroids[0, 0])


@BY_NAME
@pytest.mark.parametrize("k", [3, 1100])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e8])
def test_surplus_codewords_are_never_chosen(route: Route, k: int, scale: float) -> None:
    """Wherever they stand, and however far out the rows are."""
    vectors, centroids = sample(8, 2, k, seed=5)
    vectors, centroids = vectors * scale, (centroids * scale).astype(np.float32)
    centroids[0, : k - 1] = SURPLUS
    centroids[1, k // 2 :] = SURPLUS
    quantizer = quantizer_of(centroids, np.zeros(8), route)
    codes = quantizer.encode(vectors.astype(np.float32))
    assert (codes[:, 0] == k - 1).all()
    assert (codes[:, 1] < k // 2).all()
    check_nearest(quantizer, vectors.astype(np.float32))


@BY_NAME
@pytest.mark.parametrize(("dim", "m", "k"), [(8, 1, 1), (16, 4, 256), (32, 2, 1025), (6, 6, 10)])
def test_a_rows_labels_do_not_depend_on_how_many_come_after_it(
    route: Route, dim: int, m: int, k: int
) -> None:
    vectors, centroids = sample(dim, m, k, rows=2500, seed=6)
    quantizer = quantizer_of(centroids, np.zeros(dim), route)
    # Coarse values make ties, where company would tell first.
    for rows in (vectors.astype(np.float32), np.round(vectors).astype(np.float32)):
        whole = quantizer.assign(rows)
        for count in (0, 1, 2, 255, 256, 257, 1000, 2047, 2049, 2499):
            np.testing.assert_array_equal(quantizer.assign(rows[:count]), whole[:count])


@BY_NAME
def test_equal_codewords_are_chosen_by_smaller_number(route: Route) -> None:
    """Of several at the same place the first is nearest: a tie has one answer."""
    _, centroids = sample(4, 1, 1300, seed=7)
    centroids = np.concatenate([centroids, centroids[:, ::-1]], axis=1)
    quantizer = quantizer_of(centroids, np.zeros(4), route)
    rows = sample(4, 1, 1, seed=8)[0].astype(np.float32)
    assert quantizer.encode(rows).max() < 1300


def test_all_routes_choose_the_same_but_for_float_ties() -> None:
    vectors, centroids = sample(32, 4, 256, rows=4000, seed=9)
    rows = vectors.astype(np.float32)
    one, *others = (quantizer_of(centroids, np.zeros(32), route).encode(rows) for route in ROUTES)
    for other in others:
        assert (one != other).mean() < 1e-3


@BY_NAME
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float16, np.float32])
def test_a_dtype_does_not_matter_and_the_vectors_are_not_changed(route: Route, dtype: type) -> None:
    rng = np.random.default_rng(10)
    vectors = rng.integers(0, 100, (300, 8)).astype(dtype)
    before = vectors.copy()
    centroids = rng.integers(0, 100, (2, 300, 4))
    quantizer = quantizer_of(centroids, np.full(8, 50), route)
    codes = quantizer.encode(vectors)
    assert codes.dtype == np.uint16
    np.testing.assert_array_equal(codes, quantizer.encode(vectors.astype(np.float32)))
    np.testing.assert_array_equal(vectors, before)


@BY_NAME
@pytest.mark.parametrize(("k", "dtype"), [(256, "uint8"), (257, "uint16"), (65_537, "uint32")])
def test_codes_have_the_smallest_dtype_and_keep_the_last_codeword(
    route: Route, k: int, dtype: str
) -> None:
    quantizer = quantizer_of(sample(8, 1, k, seed=16)[1], np.zeros(8), route)
    picked = [0, k // 3, k - 1]
    codes = quantizer.encode(quantizer.codebook.centroids[0, 0, picked])
    assert str(codes.dtype) == dtype
    assert codes[:, 0].tolist() == picked


@BY_NAME
def test_under_cosine_a_rows_length_does_not_matter(route: Route) -> None:
    vectors, centroids = sample(8, 2, 50, seed=11)
    quantizer = quantizer_of(centroids / 3, np.zeros(8), route, "cosine")
    rows = vectors.astype(np.float32)
    scaled = rows * np.float32(2.0) ** np.random.default_rng(12).integers(-60, 60, (len(rows), 1))
    np.testing.assert_array_equal(
        quantizer.encode(scaled.astype(np.float32)), quantizer.encode(rows)
    )


@BY_NAME
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_encode_names_the_first_row_that_has_no_nearest_codeword(route: Route, bad: float) -> None:
    vectors, centroids = sample(8, 2, 50, seed=13)
    rows = vectors.astype(np.float32)
    rows[41, 3] = rows[77, 0] = bad
    with pytest.raises(InvalidRowError, match="row 41 ") as caught:
        quantizer_of(centroids, np.zeros(8), route).encode(rows)
    assert caught.value.rows == (41, 77)


def test_a_zero_row_is_refused_under_cosine_alone() -> None:
    centroids = sample(8, 2, 5)[1]
    rows = np.zeros((3, 8), dtype=np.float32)
    rows[:2] = 1
    with pytest.raises(InvalidRowError, match="row 2 "):
        quantizer_of(centroids, np.zeros(8), ROUTES[0], "cosine").encode(rows)
    assert len(quantizer_of(centroids, np.zeros(8), ROUTES[0]).encode(rows)) == 3


@pytest.mark.parametrize("shape", [(8,), (3, 7), (3, 9), (1, 3, 8)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    quantizer = quantizer_of(sample(8, 2, 5)[1], np.zeros(8), ROUTES[0])
    with pytest.raises(CodebookError, match=r"\(rows, 8\)"):
        quantizer.encode(np.zeros(shape, dtype=np.float32))


def test_no_rows_have_no_codes() -> None:
    quantizer = quantizer_of(sample(8, 2, 5)[1], np.zeros(8), ROUTES[0])
    codes = quantizer.encode(np.zeros((0, 8), dtype=np.float32))
    assert codes.shape == (0, 2)
    assert quantizer.decode(codes).shape == (0, 8)


def test_a_label_that_faiss_does_not_know_is_an_error() -> None:
    quantizer = quantizer_of(sample(8, 2, 5)[1], np.zeros(8), ROUTES[1])
    assign = make_assigner(quantizer.codebook.centred(), quantizer.route)
    with pytest.raises(VqpipeError, match="outside"):
        assign(np.full((3, 8), np.nan, dtype=np.float32))


@BY_NAME
def test_threads_that_share_a_quantizer_get_what_one_gets(route: Route) -> None:
    """A worker of a user's cluster may run several tasks at once in one process."""
    vectors, centroids = sample(64, 1, 512, rows=16_000, seed=14)
    rows = vectors.astype(np.float32)
    quantizer = quantizer_of(centroids, np.zeros(64), route)
    alone = [quantizer.assign(part) for part in np.split(rows, 8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(quantizer.assign, np.split(rows, 8)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@BY_NAME
def test_a_quantizer_that_has_encoded_still_travels(route: Route) -> None:
    import pickle

    vectors, centroids = sample(8, 2, 50, seed=15)
    rows = vectors.astype(np.float32)
    quantizer = quantizer_of(centroids, np.zeros(8), route)
    codes = quantizer.encode(rows)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(quantizer)).encode(rows), codes)


@pytest.mark.parametrize("k", [1, 256, 4096])
@pytest.mark.parametrize("width", [1, 8, 16, 64])
def test_the_route_is_chosen_by_shape_and_cpu_alone(
    k: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = CodebookSpec("PQ", 4, k)
    assert choose_route(spec, 4 * width) == choose_route(spec, 4 * width)
    if can_compile():
        assert choose_route(spec, 4 * width).name == "fused"
    with monkeypatch.context() as without:
        without.setattr("vqpipe.quantizer.assign.can_compile", lambda: False)
        route = choose_route(spec, 4 * width)
        # The product route's scratch space has one size.
        assert route.name == "flat" or (route.name, route.block_rows) == ("product", 256)
