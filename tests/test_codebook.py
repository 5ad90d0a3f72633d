"""The codebook: its sizes, its digest as the contract writes it, and what codes stand for."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.codebook import SURPLUS, Codebook, CodebookSpec, code_bits, code_dtype
from vqpipe.errors import CodebookError


def make_codebook(
    m: int = 2, k: int = 5, width: int = 3, seed: int = 0, kind: str = "PQ", metric: str = "l2"
) -> Codebook:
    """Return a codebook of random numbers."""
    rng = np.random.default_rng(seed)
    centroids = rng.standard_normal((1, m, k, width)).astype(np.float32)
    offset = rng.standard_normal(m * width).astype(np.float32)
    return Codebook(kind, metric, offset, centroids)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    m=st.integers(1, 4),
    k=st.integers(1, 9),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
    metric=st.sampled_from(["l2", "cosine"]),
)
def test_digest_is_what_the_contract_says(
    m: int, k: int, width: int, seed: int, metric: str
) -> None:
    kind = "KM" if m == 1 else "PQ"
    codebook = make_codebook(m, k, width, seed, kind, metric)
    head = {"kind": kind, "metric": metric, "dim": m * width, "stages": 1, "m": m, "k": k}
    sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode("utf-8"))
    for value in [*codebook.offset.tolist(), *codebook.centroids.ravel().tolist()]:
        sha.update(struct.pack("<f", value))
    assert codebook.digest == sha.hexdigest()


def test_digest_does_not_depend_on_the_memory_layout_but_on_every_value() -> None:
    codebook = make_codebook()
    turned = np.asfortranarray(codebook.centroids)
    assert Codebook("PQ", "l2", codebook.offset, turned).digest == codebook.digest
    moved = codebook.centroids.copy()
    moved[0, 1, 4, 2] = np.nextafter(moved[0, 1, 4, 2], np.float32(9))
    others = [
        Codebook("PQ", "l2", codebook.offset, moved),
        Codebook("PQ", "l2", codebook.offset + np.float32(1), codebook.centroids),
        Codebook("PQ", "cosine", codebook.offset, codebook.centroids),
        Codebook("PQ", "l2", codebook.offset, codebook.centroids.reshape(1, 1, 5, 6)),
    ]
    assert len({codebook.digest, *(other.digest for other in others)}) == 5


@settings(deadline=None)
@given(
    m=st.integers(1, 5),
    k=st.integers(1, 300),
    width=st.integers(1, 4),
    rows=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_decode_puts_codewords_side_by_side(
    m: int, k: int, width: int, rows: int, seed: int
) -> None:
    codebook = make_codebook(m, k, width, seed)
    codes = np.random.default_rng(seed + 1).integers(0, k, (rows, m)).astype(code_dtype(k))
    decoded = codebook.decode(codes)
    assert decoded.shape == (rows, m * width)
    assert decoded.dtype == np.float32
    for row in range(rows):
        longhand: list[float] = []
        for column in range(m):
            longhand += codebook.centroids[0, column, int(codes[row, column])].tolist()
        assert decoded[row].tolist() == longhand


@pytest.mark.parametrize("code", [5, 6, 255])
def test_a_code_that_names_no_codeword_is_refused_with_its_value(code: int) -> None:
    with pytest.raises(CodebookError, match=f"code {code}.* 0 to 4"):
        make_codebook().decode(np.array([[0, 0], [1, code]], dtype=np.uint8))


def test_a_negative_code_is_refused() -> None:
    """It names no codeword, and Python would take it for the last one."""
    with pytest.raises(CodebookError):
        make_codebook().decode(np.array([[0, -1]], dtype=np.int64))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 1)])
def test_codes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodebookError, match="2 columns"):
        make_codebook().decode(np.zeros(shape, dtype=np.uint8))


@settings(deadline=None)
@given(dim=st.integers(1, 200), m=st.integers(1, 64))
def test_a_dim_is_refused_where_m_does_not_divide_it(dim: int, m: int) -> None:
    spec = CodebookSpec("PQ", m, 256)
    if dim % m == 0:
        spec.check_dim(dim)
        return
    with pytest.raises(CodebookError) as caught:
        spec.check_dim(dim)
    message = str(caught.value)
    assert f"m = {m} " in message
    assert f"dim = {dim}," in message
    advised = json.loads(message[message.rindex("[") :])
    assert advised
    assert all(dim % choice == 0 for choice in advised)


@settings(deadline=None)
@given(k=st.integers(1, 1 << 24))
def test_bits_and_dtype_are_the_smallest_that_hold_every_code(k: int) -> None:
    bits = code_bits(k)
    assert 2**bits >= k
    assert bits == 1 or 2 ** (bits - 1) < k
    largest = np.iinfo(code_dtype(k)).max
    assert largest >= k - 1
    assert code_dtype(k) == "uint8" or k - 1 > np.iinfo(code_dtype(k)).max >> (
        8 * np.dtype(code_dtype(k)).itemsize // 2
    )


@settings(deadline=None)
@given(
    kind=st.sampled_from(["KM", "PQ"]), m=st.integers(1, 64), k=st.sampled_from([1, 16, 256, 4096])
)
def test_row_code_bytes_are_those_of_one_rows_codes(kind: str, m: int, k: int) -> None:
    spec = CodebookSpec(kind, m, k)  # type: ignore[arg-type]
    assert spec.row_code_bytes == np.zeros((1, spec.columns), dtype=spec.code_dtype).nbytes


def test_names_are_those_of_the_config() -> None:
    assert str(CodebookSpec("KM", 1, 1000)) == "KM1000"
    assert str(CodebookSpec("PQ", 16, 256)) == "PQ16x8"
    assert str(CodebookSpec("PQ", 16, 16)) == "PQ16x4"


@settings(deadline=None, max_examples=30)
@given(scale=st.sampled_from([0.0, 1.0, 1e4, 1e9, 1e15]), seed=st.integers(0, 99))
def test_surplus_codewords_stay_far_whatever_the_offset(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centroids = (scale + rng.standard_normal((1, 2, 4, 3))).astype(np.float32)
    centroids[0, 1, 2:] = SURPLUS
    offset = np.full(6, scale, dtype=np.float32)
    moved = Codebook("PQ", "l2", offset, centroids).centred()
    assert (moved[1, 2:] == np.float32(1e18)).all()
    longhand = centroids[0].astype(np.float64) - offset.reshape(2, 1, 3)
    np.testing.assert_allclose(moved[0], longhand[0], rtol=1e-6)
    np.testing.assert_allclose(moved[1, :2], longhand[1, :2], rtol=1e-6)


def test_surplus_codewords_are_counted_column_by_column() -> None:
    codebook = make_codebook(m=3, k=5, width=2)
    codebook.centroids[0, 1, 2:] = SURPLUS
    # One far coordinate does not make a codeword surplus.
    codebook.centroids[0, 2, 0, 0] = SURPLUS
    assert codebook.surplus == [0, 3, 0]


def test_centring_leaves_the_codebook_as_it_is() -> None:
    codebook = make_codebook()
    before = codebook.centroids.copy()
    codebook.centred()[:] = 0
    np.testing.assert_array_equal(codebook.centroids, before)


@pytest.mark.parametrize(
    ("offset", "centroids"),
    [
        (np.zeros(6, np.float32), np.zeros((2, 5, 3), np.float32)),
        (np.zeros(6, np.float32), np.zeros((1, 2, 5, 3), np.float64)),
        (np.zeros(5, np.float32), np.zeros((1, 2, 5, 3), np.float32)),
        (np.zeros(6, np.float64), np.zeros((1, 2, 5, 3), np.float32)),
    ],
)
def test_arrays_of_another_shape_or_dtype_are_refused(
    offset: np.ndarray, centroids: np.ndarray
) -> None:
    with pytest.raises(CodebookError, match="float32"):
        Codebook("PQ", "l2", offset, centroids)
