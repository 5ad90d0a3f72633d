"""Codebooks as good as FAISS's on the same rows: every row, 25 iterations."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality import AT, faiss_figures, vqpipe_figures
from runs import DATA, WORDS

from vqpipe.config import CodebookConfig, parse_codebook
from vqpipe.sources import open_source, open_table

needs_data = pytest.mark.skipif(
    not (DATA / "sift128-base-200k.bvecs").exists(),
    reason="VQPIPE_DATA names no folder with the data",
)


def compare(
    vectors: Path, codebook: str, seeds: int, queries: Path | None = None, truth: Path | None = None
) -> tuple[float, dict[int, float]]:
    """Return the ratio of mean distortions, and by how much our mean recall is lower, per k."""
    names = argparse.Namespace(
        vectors=str(vectors),
        codebook=codebook,
        queries=queries and str(queries),
        truth=truth and str(truth),
        cluster="serial",
    )
    spec = CodebookConfig.model_validate(parse_codebook(codebook)).spec
    assert spec is not None
    source = open_source(str(vectors))
    rows = source.read(0, source.rows).astype(np.float32)
    asked, nearest = None, np.empty(0, np.int64)
    if queries and truth:
        file, table = open_source(str(queries)), open_table(str(truth))
        asked = file.read(0, file.rows).astype(np.float32)
        nearest = np.asarray(table.read(0, table.rows))[:, 0]
    ours = [vqpipe_figures(names, seed) for seed in range(seeds)]
    theirs = [faiss_figures(rows, spec, seed, asked, nearest) for seed in range(seeds)]
    means = [statistics.mean(figure for figure, _ in side) for side in (ours, theirs)]
    lower = {
        k: statistics.mean(found[str(k)] for _, found in theirs)
        - statistics.mean(found[str(k)] for _, found in ours)
        for k in AT
        if asked is not None
    }
    return means[0] / means[1], lower


@pytest.mark.parametrize(("codebook", "most"), [("PQ10", 1.02), ("KM128", 1.03)])
def test_words_are_compressed_as_well_as_by_faiss(codebook: str, most: float) -> None:
    ratio, _ = compare(WORDS, codebook, seeds=1)
    assert ratio <= most


@needs_data
@pytest.mark.long
def test_sift_pq16_is_as_good_as_faiss_and_finds_as_much() -> None:
    ratio, lower = compare(
        DATA / "sift128-base-200k.bvecs",
        "PQ16",
        4,
        DATA / "sift128-query-1k.bvecs",
        DATA / "sift128-groundtruth-1k.ivecs",
    )
    assert ratio <= 1.0
    assert lower[1] <= 0.02
    assert lower[10] <= 0.01
    assert lower[100] <= 0.01


@needs_data
@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "most"), [("glove100-base-100k.npy", 1.005), ("sift128-base-200k.bvecs", 1.003)]
)
def test_km1024_in_four_passes_is_as_good_as_faiss_in_twenty_five(file: str, most: float) -> None:
    """Over all rows, though a tenth or a twentieth of them was kept from vqpipe's training."""
    ratio, _ = compare(DATA / file, "KM1024", seeds=4)
    assert ratio <= most
