"""OPQ and RQ as FAISS indexes: packed codes bit for bit, decoded vectors to 1e-5, and read back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from oracles import longhand_decode
from test_kinds import ROUTE, residual, rotated

from vqpipe.codebook import Codebook
from vqpipe.quantizer import Quantizer
from vqpipe.quantizer.faiss_codebook import read_index_codebook
from vqpipe.quantizer.faiss_index import write_index

ROWS = 300


def make(kind: str, bits: int, metric: Any = "l2", place: float = 0.0) -> Codebook:
    """Return a codebook of 3 columns: 3 * bits is no whole number of bytes but for 8."""
    found = rotated(3, 1 << bits, 4, place) if kind == "OPQ" else residual(3, 1 << bits, 12, place)
    return Codebook(kind, metric, found.offset, found.centroids, found.rotation)  # type: ignore[arg-type]


def some_codes(codebook: Codebook) -> np.ndarray:
    rng = np.random.default_rng(7)
    codes = rng.integers(0, codebook.k, (ROWS, codebook.columns))
    return codes.astype(codebook.spec.code_dtype)


def written(codebook: Codebook, codes: np.ndarray, ids: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    starts = range(0, len(codes), 64)
    pieces = (codes[at : at + 64] for at in starts)
    numbers = None if ids is None else (ids[at : at + 64] for at in starts)
    write_index(file, codebook, pieces, len(codes), numbers)
    return file.getvalue()


def opened(data: bytes, folder: Path) -> Any:
    path = folder / "index.faiss"
    path.write_bytes(data)
    return faiss.read_index(str(path))


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes packed little end first, longhand."""
    size = (codes.shape[1] * bits + 7) // 8
    numbers = [sum(int(c) << (bits * place) for place, c in enumerate(row)) for row in codes]
    return np.array([list(number.to_bytes(size, "little")) for number in numbers], dtype=np.uint8)


def innermost(index: Any) -> Any:
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
    return index


@pytest.mark.parametrize("place", [0.0, 100.0])
@pytest.mark.parametrize("bits", [4, 5, 6, 8, 10, 12])
@pytest.mark.parametrize("kind", ["OPQ", "RQ"])
def test_an_exported_index_holds_the_codes_and_decodes_them_as_we_do(
    kind: str, bits: int, place: float, tmp_path: Path
) -> None:
    codebook = make(kind, bits, place=place)
    codes = some_codes(codebook)
    index = opened(written(codebook, codes), tmp_path)
    flat = innermost(index)
    assert (index.ntotal, flat.ntotal, index.d) == (ROWS, ROWS, codebook.dim)
    held = faiss.vector_to_array(flat.codes).reshape(ROWS, -1)
    np.testing.assert_array_equal(held, packed(codes, bits))
    decoded = codebook.decode(codes)
    size = np.linalg.norm(decoded, axis=1, keepdims=True)
    longhand = longhand_decode(codebook, codes)
    for theirs in (index.reconstruct_n(0, ROWS), index.sa_decode(packed(codes, bits))):
        assert (np.abs(theirs - decoded) <= 1e-5 * size).all()
        assert (np.abs(theirs - longhand) <= 1e-5 * size).all()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["OPQ", "RQ"])
def test_an_exported_index_searches_and_gives_row_numbers(
    kind: str, metric: str, tmp_path: Path
) -> None:
    codebook = make(kind, 6, metric)
    codes = some_codes(codebook)
    ids = 10**12 + 3 * np.arange(ROWS)
    index = opened(written(codebook, codes, ids), tmp_path)
    queries = np.random.default_rng(8).standard_normal((40, codebook.dim)).astype(np.float32)
    asked = (
        queries / np.linalg.norm(queries, axis=1, keepdims=True) if metric == "cosine" else queries
    )
    distances, found = index.search(queries, 5)
    decoded = longhand_decode(codebook, codes)
    exact = ((asked[:, None].astype(np.float64) - decoded) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :5], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found[:, 0], ids[exact.argmin(axis=1)])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("kind", "bits"), [("OPQ", 5), ("OPQ", 8), ("RQ", 4), ("RQ", 10)])
def test_an_exported_index_encodes_as_we_do_and_is_read_back(
    kind: str, bits: int, metric: str, tmp_path: Path
) -> None:
    codebook = make(kind, bits, metric)
    rows = np.random.default_rng(9).standard_normal((800, codebook.dim)).astype(np.float32)
    ours = Quantizer(codebook, ROUTE).encode(rows)
    index = opened(written(codebook, ours), tmp_path)
    theirs = index.sa_encode(rows)
    # Float ties apart.
    assert (theirs != packed(ours, bits)).any(axis=1).mean() < 5e-3
    back = read_index_codebook(str(tmp_path / "index.faiss"))
    assert back.codebook.spec == codebook.spec
    assert back.codebook.metric == metric
    assert (back.encode(rows) != ours).any(axis=1).mean() < 5e-3
    np.testing.assert_allclose(back.decode(ours), codebook.decode(ours), atol=1e-5)


@pytest.mark.parametrize("name", ["OPQ4,PQ4x4np", "RQ3x4", "L2norm,OPQ4,PQ4x4np", "L2norm,RQ3x4"])
def test_an_index_that_faiss_learnt_is_used_as_it_uses_it(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = (rng.standard_normal((1000, 16)) @ rng.standard_normal((16, 16))).astype(np.float32)
    index = faiss.index_factory(16, name)
    # Two threads of a small training wait for one another longer than they compute.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    for place in range(index.chain.size() if hasattr(index, "chain") else 0):
        transform = faiss.downcast_VectorTransform(index.chain.at(place))
        if isinstance(transform, faiss.OPQMatrix):
            transform.niter = 2
    index.train(rows)
    faiss.omp_set_num_threads(threads)
    path = str(tmp_path / "theirs.faiss")
    faiss.write_index(index, path)
    quantizer = read_index_codebook(path)
    assert quantizer.codebook.kind == ("OPQ" if "OPQ" in name else "RQ")
    codes = quantizer.encode(rows)
    theirs = index.sa_encode(rows)
    assert (packed(codes, 4) != theirs).any(axis=1).mean() < 5e-3
    np.testing.assert_allclose(
        quantizer.decode(codes), index.sa_decode(packed(codes, 4)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["OPQ", "RQ"])
def test_codewords_that_stand_for_nothing_are_exported_far_away(kind: str, tmp_path: Path) -> None:
    codebook = make(kind, 4)
    codebook.centroids[-1, :, 9:] = np.float32(1e18)
    codes = some_codes(codebook) % 9
    index = opened(written(codebook, codes), tmp_path)
    np.testing.assert_allclose(index.reconstruct_n(0, ROWS), codebook.decode(codes), atol=1e-5)
    assert read_index_codebook(str(tmp_path / "index.faiss")).codebook.surplus == codebook.surplus
