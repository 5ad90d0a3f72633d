"""The search over groups of codewords: never nearer than the nearest, exact where all groups are looked at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqpipe.codebook import Codebook, CodebookSpec
from vqpipe.quantizer import Quantizer, choose_search, first_probes, more_probes
from vqpipe.quantizer.assign import LEAST_GROUPED_CODEWORDS
from vqpipe.quantizer.grouped import count_groups, make_grouped, make_groups


def clustered(rows: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((20, width))
    return (centres[rng.integers(0, 20, rows)] + rng.standard_normal((rows, width))).astype(
        np.float32
    )


def distances(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return all squared distances, longhand in float64."""
    wide = rows.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]
    return (wide**2).sum(axis=2)


@pytest.fixture(params=["fused", "product"], autouse=True, scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every law with machine code and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "product":
            patch.setattr("vqpipe.quantizer.grouped.can_compile", lambda: False)
        yield


@settings(deadline=None, max_examples=25)
@given(
    k=st.integers(4, 300),
    width=st.integers(1, 9),
    rows=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_with_all_groups_looked_at_the_nearest_codeword_is_found(
    k: int, width: int, rows: int, seed: int
) -> None:
    vectors, centroids = clustered(rows, width, seed), clustered(k, width, seed + 100)
    found = make_grouped(centroids, count_groups(k))(vectors)
    exact = distances(vectors, centroids)
    chosen = exact[np.arange(rows), found]
    np.testing.assert_allclose(chosen, exact.min(axis=1), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    k=st.integers(16, 300),
    probes=st.integers(1, 4),
    width=st.integers(1, 9),
    seed=st.integers(0, 9),
)
@example(k=181, probes=1, width=9, seed=8)  # A group holds no codeword.
def test_with_fewer_groups_the_nearest_of_those_looked_at_is_found(
    k: int, probes: int, width: int, seed: int
) -> None:
    """Longhand: the nearest groups by their centres, then the nearest codeword in them."""
    vectors, centroids = clustered(200, width, seed), clustered(k, width, seed + 100)
    groups = make_groups(centroids)
    found = make_grouped(centroids, probes)(vectors)
    member = np.empty(k, dtype=np.intp)
    for at in range(len(groups.parts)):
        member[groups.order[groups.starts[at] : groups.starts[at + 1]]] = at
    to_centres = distances(vectors, groups.centres[:width].T)
    exact = distances(vectors, centroids)
    for row in range(len(vectors)):
        nearest = np.argsort(to_centres[row])
        gap = (
            to_centres[row, nearest[min(probes, len(nearest) - 1)]]
            - to_centres[row, nearest[probes - 1]]
        )
        looked = np.isin(member, nearest[:probes])
        if gap > 1e-3 and looked.any():
            assert exact[row, found[row]] <= exact[row, looked].min() + 1e-3


def test_every_codeword_is_in_one_group() -> None:
    groups = make_groups(clustered(1000, 8, 0))
    assert sorted(groups.order.tolist()) == list(range(1000))
    assert groups.starts[-1] == sum(map(len, groups.parts)) == 1000


def test_a_search_of_few_groups_misses_little_on_clustered_rows() -> None:
    vectors, centroids = clustered(2000, 8, 1), clustered(1024, 8, 1)
    exact = distances(vectors, centroids)
    losses = []
    for probes in (2, 4, 8, 16):
        found = make_grouped(centroids, probes)(vectors)
        losses.append(exact[np.arange(2000), found].sum() / exact.min(axis=1).sum() - 1)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1e-4
    assert losses[2] < 0.01


@pytest.mark.parametrize("slices", [1, 3])
def test_labels_do_not_depend_on_other_slices(slices: int) -> None:
    vectors, centroids = clustered(3 * 4096, 8, 2), clustered(512, 8, 3)
    codebook = Codebook("KM", "l2", np.zeros(8, np.float32), centroids[None, None])
    quantizer = Quantizer(codebook, choose_search(4))
    whole = quantizer.assign(vectors[:4096])
    assert whole.shape == (4096, 1)
    np.testing.assert_array_equal(quantizer.assign(vectors[:4096].copy()), whole)
    parts = np.array_split(vectors, slices)
    again = np.concatenate([Quantizer(codebook, choose_search(4)).assign(part) for part in parts])
    chosen = distances(vectors[:4096], centroids)
    np.testing.assert_allclose(
        chosen[np.arange(4096), again[:4096, 0]], chosen[np.arange(4096), whole[:, 0]], rtol=1e-4
    )


def test_groups_are_used_where_they_pay_and_given_up_where_they_do_not() -> None:
    assert first_probes(CodebookSpec("KM", 1, LEAST_GROUPED_CODEWORDS - 1)) == 0
    assert first_probes(CodebookSpec("PQ", 2, 1 << 16)) == 0
    spec = CodebookSpec("KM", 1, 1 << 16)
    probes, tried = first_probes(spec), []
    while probes:
        tried.append(probes)
        assert choose_search(probes).probes == probes
        probes = more_probes(spec, probes)
    assert tried == [12, 24, 48, 96]
    assert choose_search(0).name in {"fused", "product"}
