"""FAISS indexes: ours are, byte for byte, what FAISS writes; theirs are read as codebooks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from vqpipe.codebook import SURPLUS, Codebook, code_bits
from vqpipe.dtypes import Codes
from vqpipe.errors import CodebookError
from vqpipe.quantizer import Quantizer, Route
from vqpipe.quantizer.faiss_codebook import read_index_codebook
from vqpipe.quantizer.faiss_index import (
    pack_codes,
    packed_row_bytes,
    write_index,
)

# m, k: bits 1 to 12, whole bytes and not, powers of two and not.
SHAPES = [
    (1, 1),
    (4, 2),
    (3, 8),
    (1, 100),
    (4, 16),
    (3, 32),
    (3, 64),
    (5, 128),
    (4, 256),
    (1, 300),
    (3, 512),
    (3, 1024),
    (1, 1500),
    (2, 4096),
]
METRICS = ["l2", "cosine"]


def make_case(m: int, k: int, metric: str, rows: int = 700) -> tuple[Codebook, Codes, Any]:
    """Return a random codebook, codes, and ids that are not positions."""
    rng = np.random.default_rng(m * 10_000 + k)
    centroids = rng.standard_normal((1, m, k, 4)).astype(np.float32)
    kind: Any = "KM" if m == 1 else "PQ"
    offset = rng.standard_normal(m * 4).astype(np.float32)
    any_metric: Any = metric
    codebook = Codebook(kind, any_metric, offset, centroids)
    codes = rng.integers(0, k, (rows, m)).astype(codebook.spec.code_dtype)
    ids = np.sort(rng.choice(10**12, rows, replace=False)).astype(np.int64)
    return codebook, codes, ids


def written(
    codebook: Codebook, codes: Codes, ids: Any, *, with_ids: bool, piece: int = 97
) -> bytes:
    """Return the bytes of an index that was written in pieces."""
    file = io.BytesIO()
    starts = range(0, len(codes), piece)
    numbers = (ids[at : at + piece] for at in starts) if with_ids else None
    write_index(file, codebook, (codes[at : at + piece] for at in starts), len(codes), numbers)
    return file.getvalue()


def built_by_faiss(codebook: Codebook, codes: Codes, ids: Any, *, with_ids: bool) -> bytes:
    """Return the bytes of the same index put together by FAISS itself."""
    m, k = codebook.m, codebook.k
    bits = code_bits(k)
    product = faiss.IndexPQ(codebook.dim, m, bits)
    table = np.full((m, 2**bits, codebook.dim // m), 1e18, dtype=np.float32)
    table[:, :k] = codebook.centroids[0]
    faiss.copy_array_to_vector(table.ravel(), product.pq.centroids)
    product.is_trained = True
    index: Any = product
    if codebook.metric == "cosine":
        index = faiss.IndexPreTransform(faiss.NormalizationTransform(codebook.dim), product)
    if with_ids:
        index = faiss.IndexIDMap2(index)
    if with_ids and len(ids):
        # Any vectors bring the ids in; the codes then replace theirs.
        index.add_with_ids(np.ones((len(ids), codebook.dim), np.float32), ids)
    elif len(ids):
        index.add(np.ones((len(ids), codebook.dim), np.float32))
    packed = np.zeros((len(codes), (m * bits + 7) // 8), dtype=np.uint8)
    for row in range(len(codes)):
        number = sum(int(code) << (bits * place) for place, code in enumerate(codes[row]))
        packed[row] = np.frombuffer(number.to_bytes(packed.shape[1], "little"), np.uint8)
    faiss.copy_array_to_vector(packed.ravel(), product.codes)
    frame: bytes = faiss.serialize_index(index).tobytes()
    return frame


def opened(data: bytes, folder: Path) -> Any:
    path = str(folder / "index.faiss")
    Path(path).write_bytes(data)
    return faiss.read_index(path)


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("m", "k"), SHAPES)
def test_an_index_is_byte_for_byte_what_faiss_writes(
    m: int, k: int, metric: str, with_ids: bool
) -> None:
    codebook, codes, ids = make_case(m, k, metric)
    ours = written(codebook, codes, ids, with_ids=with_ids)
    assert ours == built_by_faiss(codebook, codes, ids, with_ids=with_ids)


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65])
def test_an_index_of_few_rows_is_what_faiss_writes(rows: int, metric: str, with_ids: bool) -> None:
    codebook, codes, ids = make_case(3, 32, metric, rows)
    ours = written(codebook, codes, ids, with_ids=with_ids)
    assert ours == built_by_faiss(codebook, codes, ids, with_ids=with_ids)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("with_ids", [False, True])
def test_an_index_of_no_rows_opens_and_finds_none(
    metric: str, with_ids: bool, tmp_path: Path
) -> None:
    codebook, codes, ids = make_case(4, 16, metric, 0)
    index = opened(written(codebook, codes, ids, with_ids=with_ids), tmp_path)
    assert index.ntotal == 0
    _, found = index.search(np.ones((2, codebook.dim), np.float32), 3)
    assert (found == -1).all()


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("m", "k"), [(1, 100), (3, 32), (4, 256), (3, 1024)])
def test_an_index_opens_decodes_and_searches_as_the_codebook_does(
    m: int, k: int, metric: str, with_ids: bool, tmp_path: Path
) -> None:
    codebook, codes, ids = make_case(m, k, metric)
    index = opened(written(codebook, codes, ids, with_ids=with_ids), tmp_path)
    assert (index.ntotal, index.d) == (len(codes), codebook.dim)
    names = ids if with_ids else np.arange(len(codes))
    decoded = codebook.decode(codes)
    for row in (0, 1, 350, 699):
        np.testing.assert_array_equal(index.reconstruct(int(names[row])), decoded[row])
    if not with_ids:
        np.testing.assert_array_equal(index.reconstruct_n(0, len(codes)), decoded)
        np.testing.assert_array_equal(index.sa_decode(pack_codes(codes, k)), decoded)
    queries = np.random.default_rng(0).standard_normal((20, codebook.dim)).astype(np.float32)
    distances, found = index.search(queries, 10)
    wide = queries.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    brute = ((wide[:, None] - decoded.astype(np.float64)) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, np.sort(brute, axis=1)[:, :10], rtol=1e-4, atol=1e-5)
    position = np.searchsorted(names, found)
    np.testing.assert_array_equal(names[position], found)
    np.testing.assert_allclose(
        np.take_along_axis(brute, position, axis=1), distances, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("with_ids", [False, True])
def test_bytes_do_not_depend_on_how_the_codes_are_cut(with_ids: bool) -> None:
    codebook, codes, ids = make_case(3, 32, "l2")
    whole = written(codebook, codes, ids, with_ids=with_ids, piece=10_000)
    for piece in (1, 64, 333):
        assert written(codebook, codes, ids, with_ids=with_ids, piece=piece) == whole


@pytest.mark.parametrize(("m", "k"), SHAPES)
def test_packed_codes_are_bits_little_end_first(m: int, k: int) -> None:
    _, codes, _ = make_case(m, k, "l2", 50)
    packed = pack_codes(codes, k)
    bits = code_bits(k)
    assert packed.shape == (50, packed_row_bytes(m, k)) == (50, -(-m * bits // 8))
    for row, code in zip(packed, codes, strict=True):
        number = int.from_bytes(row.tobytes(), "little")
        assert [number >> (bits * place) & (2**bits - 1) for place in range(m)] == code.tolist()
        assert number >> (bits * m) == 0


def faiss_index(dim: int, m: int, bits: int, kind: str) -> tuple[Any, Any]:
    """Return an index that FAISS trained, and the IndexPQ in it."""
    rows = (5 + np.random.default_rng(bits).standard_normal((3000, dim))).astype(np.float32)
    product = faiss.IndexPQ(dim, m, bits)
    product.train(rows / np.linalg.norm(rows, axis=1, keepdims=True) if "norm" in kind else rows)
    index = product
    if "norm" in kind:
        index = faiss.IndexPreTransform(faiss.NormalizationTransform(dim), product)
        index.is_trained = True
    if "ids" in kind:
        index = faiss.IndexIDMap2(index) if "2" in kind else faiss.IndexIDMap(index)
    return index, product


@pytest.mark.parametrize("kind", ["plain", "norm", "ids", "ids2", "norm ids2"])
@pytest.mark.parametrize(("dim", "m", "bits"), [(16, 4, 8), (12, 3, 5), (8, 1, 6)])
def test_a_codebook_that_faiss_trained_gives_faiss_codes(
    dim: int, m: int, bits: int, kind: str, tmp_path: Path
) -> None:
    index, product = faiss_index(dim, m, bits, kind)
    path = str(tmp_path / "theirs.faiss")
    faiss.write_index(index, path)
    quantizer = read_index_codebook(path)
    codebook = quantizer.codebook
    trained = faiss.vector_to_array(product.pq.centroids)
    np.testing.assert_array_equal(codebook.centroids.ravel(), trained)
    assert (codebook.kind, codebook.m, codebook.k) == ("KM" if m == 1 else "PQ", m, 2**bits)
    assert codebook.metric == ("cosine" if "norm" in kind else "l2")
    rows = (5 + np.random.default_rng(99).standard_normal((2000, dim))).astype(np.float32)
    theirs = rows / np.linalg.norm(rows, axis=1, keepdims=True) if "norm" in kind else rows
    packed = pack_codes(quantizer.encode(rows), codebook.k)
    assert (packed != product.sa_encode(theirs)).any(axis=1).mean() < 1e-3


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("m", "k"), [(1, 64), (3, 32), (1, 100), (4, 200)])
def test_our_own_index_reads_back_with_the_surplus_unused(
    m: int, k: int, metric: str, tmp_path: Path
) -> None:
    codebook, codes, ids = make_case(m, k, metric)
    path = tmp_path / "ours.faiss"
    path.write_bytes(written(codebook, codes, ids, with_ids=True))
    read = read_index_codebook(str(path))
    assert (read.codebook.kind, read.codebook.metric) == (codebook.kind, metric)
    np.testing.assert_array_equal(read.codebook.centroids[:, :, :k], codebook.centroids)
    assert (read.codebook.centroids[:, :, k:] == SURPLUS).all()
    rows = np.random.default_rng(3).standard_normal((500, codebook.dim)).astype(np.float32)
    ours = Quantizer(codebook, Route("product", 256)).encode(rows)
    assert (read.encode(rows) != ours).mean() < 2e-3


def trained(index: Any) -> Any:
    if isinstance(index, str):
        index = faiss.index_factory(8, index)
    index.train(np.random.default_rng(1).standard_normal((500, 8)).astype(np.float32))
    return index


# Indexes that hold no codebook of ours, by what the message must name.
REFUSED: dict[str, Callable[[], Any]] = {
    "IndexFlat": lambda: trained("Flat"),
    "metric 0": lambda: trained(faiss.IndexPQ(8, 2, 4, faiss.METRIC_INNER_PRODUCT)),
    r"PCAMatrix \(8 to 4 dims": lambda: trained("PCA4,PQ2x4np"),
    r"PCAMatrix \(8 to 8 dims": lambda: trained(
        faiss.IndexPreTransform(faiss.PCAMatrix(8, 8, -0.5), faiss.IndexPQ(8, 2, 4))
    ),
    r"RandomRotationMatrix \(8 to 8 dims": lambda: trained("RR8,RR8,PQ2x4np"),
    "IndexIVFPQ": lambda: trained("IVF4,PQ2x4np"),
    "IndexScalarQuantizer": lambda: trained("SQ8"),
    "not trained": lambda: faiss.IndexPQ(8, 2, 4),
    "4, 5.* bits": lambda: trained("RQ1x4_1x5"),
    "IndexResidualQuantizer.* a rotation": lambda: trained("RR8,RQ2x4"),
}


@pytest.mark.parametrize("named", REFUSED)
def test_another_kind_of_index_is_refused_by_name(named: str, tmp_path: Path) -> None:
    path = str(tmp_path / "other.faiss")
    faiss.write_index(REFUSED[named](), path)
    with pytest.raises(CodebookError, match=named) as caught:
        read_index_codebook(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"garbage", b"IxPq", bytes(1000), b"IxPq" + bytes(200)])
def test_bytes_that_are_no_index_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.faiss"
    path.write_bytes(data)
    with pytest.raises(CodebookError, match=r"garbage\.faiss"):
        read_index_codebook(str(path))


def test_a_file_that_is_cut_short_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.faiss"
    data = written(*make_case(3, 32, "l2"), with_ids=True)
    for length in (len(data) - 1, len(data) // 2, 100):
        path.write_bytes(data[:length])
        with pytest.raises(CodebookError, match=r"short\.faiss"):
            read_index_codebook(str(path))
    with pytest.raises(CodebookError, match=r"missing\.faiss"):
        read_index_codebook(str(tmp_path / "missing.faiss"))
