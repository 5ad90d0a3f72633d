"""Rotations and residual stages: placed, encoded and decoded as longhand float64 and FAISS do it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import longhand_beam, longhand_decode, longhand_encode

import vqpipe.quantizer.beam as beam
from vqpipe.codebook import SURPLUS, Codebook, CodebookSpec
from vqpipe.errors import CodebookError
from vqpipe.kmeans.rotation import nearest_rotation, principal_rotation
from vqpipe.quantizer import Quantizer, Route, choose_route
from vqpipe.quantizer.beam import block_rows, make_beam_search

ROUTE = Route("product", 256)


def random_rotation(dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)


def rotated(m: int, k: int, width: int, place: float = 0.0, seed: int = 0) -> Codebook:
    """Return a random OPQ codebook of data around ``place``."""
    rng = np.random.default_rng(seed)
    dim = m * width
    offset = (place * rng.choice([-1.0, 1.0], dim)).astype(np.float32)
    bare = Codebook(
        "OPQ", "l2", offset, np.zeros((1, m, k, width), np.float32), random_rotation(dim, seed)
    )
    centred = rng.standard_normal((m, k, width)).astype(np.float32)
    return Codebook("OPQ", "l2", offset, bare.stored(centred)[None], bare.rotation)


def residual(stages: int, k: int, dim: int, place: float = 0.0, seed: int = 0) -> Codebook:
    """Return a random RQ codebook of data around ``place``, each stage half as large as the last."""
    rng = np.random.default_rng(seed)
    offset = (place * rng.choice([-1.0, 1.0], dim)).astype(np.float32)
    sizes = 0.5 ** np.arange(stages)
    centroids = rng.standard_normal((stages, 1, k, dim)) * sizes[:, None, None, None]
    centroids[0] += offset
    return Codebook("RQ", "l2", offset, centroids.astype(np.float32))


def columns(kind: str, m: int, k: int, width: int, place: float, seed: int) -> Codebook:
    """Return a random KM or PQ codebook of data around ``place``."""
    rng = np.random.default_rng(seed)
    offset = (place * rng.choice([-1.0, 1.0], m * width)).astype(np.float32)
    centroids = rng.standard_normal((1, m, k, width)) + offset.reshape(m, 1, width)
    return Codebook(kind, "l2", offset, centroids.astype(np.float32))  # type: ignore[arg-type]


def some(kind: str, place: float, seed: int) -> Codebook:
    """Return a random codebook of a kind; its sizes go by the seed."""
    k = (5, 16, 40, 256, 300)[seed % 5]
    if kind == "OPQ":
        return rotated(3, k, 4, place, seed)
    if kind == "RQ":
        return residual(3, min(k, 40), 9, place, seed)
    return columns(kind, 1 if kind == "KM" else 4, k, 3 + seed % 4, place, seed)


@pytest.mark.parametrize("place", [0.0, 1000.0])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["KM", "PQ", "OPQ", "RQ"])
def test_every_kind_encodes_and_decodes_as_written_out_in_float64(
    kind: str, metric: Any, place: float
) -> None:
    for seed in range(5):
        found = some(kind, 0.0 if metric == "cosine" else place, seed)
        codebook = replace(found, metric=metric)
        rng = np.random.default_rng(seed + 100)
        rows = (codebook.offset + rng.standard_normal((60, codebook.dim))).astype(np.float32)
        if metric == "cosine":
            rows *= np.float32(1 + place)
        codes = Quantizer(codebook, choose_route(codebook.spec, codebook.dim)).encode(rows)
        wanted = longhand_encode(codebook, rows)
        # Float ties, and what follows from one in a beam.
        assert (codes != wanted).any(axis=1).sum() <= 1
        decoded, exact = codebook.decode(codes), longhand_decode(codebook, codes)
        size = np.linalg.norm(exact, axis=1, keepdims=True)
        assert (np.abs(decoded - exact) <= 1e-5 * size).all()


@pytest.mark.parametrize("lookup", [True, False])
@pytest.mark.parametrize(
    ("stages", "k", "dim"), [(2, 3, 4), (4, 16, 6), (3, 2, 2), (5, 1, 3), (3, 40, 8)]
)
def test_beam_search_finds_what_longhand_finds(
    stages: int, k: int, dim: int, lookup: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lookup:
        monkeypatch.setattr(beam, "TABLE_BYTES", 0)
    rng = np.random.default_rng(3)
    centroids = rng.standard_normal((stages, k, dim)).astype(np.float32)
    rows = rng.standard_normal((220, dim)).astype(np.float32) * 2
    labels = make_beam_search(centroids)(rows)
    wide = centroids.astype(np.float64)
    expected = [longhand_beam(row, wide) for row in rows.astype(np.float64)]
    same = (labels[:, 0] == expected).all(axis=1)
    assert same.mean() > 0.99
    # All that are kept are choices of their own, the best first.
    assert all(len({tuple(one) for one in row}) == len(row) for row in labels[:50].tolist())
    left = rows[:, None] - centroids[np.arange(stages), labels].sum(axis=2)
    errors = (left**2).sum(axis=2)
    assert (np.diff(errors, axis=1) > -1e-4).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("place", [0.0, 1000.0])
def test_codes_of_residual_stages_are_those_of_faiss_for_centred_rows(
    bits: int, place: float
) -> None:
    codebook = residual(4, 1 << bits, 24, place)
    rng = np.random.default_rng(1)
    rows = (codebook.offset + 1.3 * rng.standard_normal((3000, 24))).astype(np.float32)
    ours = Quantizer(codebook, ROUTE).encode(rows)
    theirs = faiss.ResidualQuantizer(24, 4, bits)
    faiss.copy_array_to_vector(codebook.every_centred.ravel(), theirs.codebooks)
    theirs.is_trained = True
    packed = theirs.compute_codes(rows - codebook.offset)
    codes = faiss.unpack_bitstrings(packed, 4, bits)
    assert (ours != codes).any(axis=1).mean() < 2e-3
    errors = [
        ((rows.astype(np.float64) - longhand_decode(codebook, found)) ** 2).sum(axis=1).mean()
        for found in (ours, codes)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_a_row_is_encoded_alike_in_any_company() -> None:
    """Windows of whole blocks give the codes of all rows at once, to the bit; so does the last one."""
    rows = np.random.default_rng(2).standard_normal((1500, 16)).astype(np.float32)
    for codebook in (residual(3, 64, 16), residual(2, 1024, 16), rotated(4, 64, 4)):
        quantizer = Quantizer(codebook, ROUTE)
        assert ROUTE.block_rows % block_rows(codebook.k) == 0
        whole = quantizer.encode(rows)
        parts = [quantizer.encode(rows[start : start + 512]) for start in range(0, 1500, 512)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("place", [0.0, 1000.0])
def test_the_nearest_codewords_of_rotated_rows_are_chosen(place: float) -> None:
    codebook = rotated(4, 50, 4, place)
    rng = np.random.default_rng(5)
    rows = (codebook.offset + rng.standard_normal((800, 16))).astype(np.float32)
    codes = Quantizer(codebook, ROUTE).encode(rows)
    rotation = codebook.rotation.astype(np.float64)  # type: ignore[union-attr]
    placed = (rows - codebook.offset.astype(np.float64)) @ rotation.T
    stored = codebook.centroids[0].astype(np.float64)
    centred = stored - (rotation @ codebook.offset).reshape(4, 1, 4)
    distances = ((placed.reshape(-1, 4, 1, 4) - centred) ** 2).sum(axis=3)
    chosen = np.take_along_axis(distances, codes[:, :, None].astype(int), axis=2)[:, :, 0]
    assert (chosen <= distances.min(axis=2) * (1 + 1e-4) + (1e-6 if place == 0 else 2e-3)).all()
    assert (codes != distances.argmin(axis=2)).mean() < (1e-3 if place == 0 else 5e-3)


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["OPQ", "RQ"]),
    count=st.integers(1, 4),
    k=st.integers(1, 9),
    width=st.integers(1, 4),
    place=st.sampled_from([0.0, 1.0, 300.0]),
    seed=st.integers(0, 99),
)
def test_squared_errors_and_decoding_are_those_of_longhand(
    kind: str, count: int, k: int, width: int, place: float, seed: int
) -> None:
    make: Any = rotated if kind == "OPQ" else residual
    codebook = make(count, k, width, place=place, seed=seed)
    rng = np.random.default_rng(seed + 1)
    rows = (codebook.offset + rng.standard_normal((300, codebook.dim))).astype(np.float32)
    quantizer = Quantizer(codebook, ROUTE)
    codes = quantizer.encode(rows)
    assert codes.shape == (300, codebook.columns)
    decoded = longhand_decode(codebook, codes)
    allowed = 1e-5 * max(1.0, place)
    np.testing.assert_allclose(quantizer.decode(codes), decoded, atol=allowed, rtol=1e-5)
    found = quantizer.squared_errors(quantizer.centre(rows.copy()), codes.astype(np.intp))
    expected = ((rows.astype(np.float64) - decoded) ** 2).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=20 * allowed)


@pytest.mark.parametrize("codebook", [rotated(2, 5, 3), residual(3, 5, 6)], ids=["OPQ", "RQ"])
def test_digest_covers_rotation_and_stages_as_the_contract_says(codebook: Codebook) -> None:
    sizes = {"dim": 6, "stages": codebook.stages, "m": codebook.m, "k": 5}
    head = {"kind": codebook.kind, "metric": "l2", **sizes}
    sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    rotation = [] if codebook.rotation is None else [codebook.rotation]
    for array in (codebook.offset, *rotation, codebook.centroids):
        sha.update(array.astype("<f4").tobytes())
    assert codebook.digest == sha.hexdigest()


def test_a_codebook_that_is_not_of_its_kind_is_refused() -> None:
    zeros, table = np.zeros(6, np.float32), np.zeros((2, 1, 5, 6), np.float32)
    eye = np.eye(6, dtype=np.float32)
    for kind, centroids, rotation in (
        ("KM", table, None),
        ("PQ", table[:1], eye),
        ("OPQ", table[:1], None),
        ("OPQ", table[:1], eye[:5]),
        ("OPQ", table[:1], eye.astype(np.float64)),
        ("OPQ", table, eye),
        ("RQ", np.zeros((2, 2, 5, 3), np.float32), None),
    ):
        with pytest.raises(CodebookError):
            Codebook(kind, "l2", zeros, centroids, rotation)  # type: ignore[arg-type]


def test_names_and_columns_are_those_of_the_config() -> None:
    assert str(CodebookSpec("OPQ", 16, 16)) == "OPQ16x4"
    assert str(CodebookSpec("RQ", 1, 256, 8)) == "RQ8x8"
    assert CodebookSpec("RQ", 1, 4096, 8).columns == 8
    assert CodebookSpec("RQ", 1, 4096, 8).row_code_bytes == 16


def test_a_surplus_codeword_of_a_stage_is_never_chosen() -> None:
    codebook = residual(3, 6, 4)
    codebook.centroids[1, 0, 2:] = SURPLUS
    codebook.centroids[2, 0, 1:] = SURPLUS
    rows = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
    codes = Quantizer(codebook, ROUTE).encode(rows)
    assert codebook.surplus == [0, 4, 5]
    assert codes[:, 1].max() < 2
    assert codes[:, 2].max() == 0


@settings(deadline=None, max_examples=25)
@given(dim=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_nearest_rotation_undoes_a_rotation(dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((200, dim))
    turned = random_rotation(dim, seed).astype(np.float64)
    found = nearest_rotation(rows.T @ (rows @ turned.T))
    np.testing.assert_allclose(found, turned, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(m=st.integers(1, 4), width=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_principal_rotation_is_one_and_makes_dims_uncorrelated(
    m: int, width: int, seed: int
) -> None:
    dim = m * width
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((300, dim)) @ rng.standard_normal((dim, dim))
    rotation = principal_rotation(rows.T @ rows, m).astype(np.float64)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(dim), atol=1e-5)
    products = rotation @ (rows.T @ rows) @ rotation.T
    assert np.abs(products - np.diag(np.diag(products))).max() < 1e-4 * np.diag(products).max()


def test_principal_axes_of_rows_that_do_not_vary_are_axes() -> None:
    rotation = principal_rotation(np.zeros((6, 6)), 3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(6), atol=1e-6)
