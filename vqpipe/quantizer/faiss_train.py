"""Codebooks that FAISS learns by its own training, to compare ours with."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from typing import Any

import faiss
import numpy as np

from vqpipe.codebook import Codebook, CodebookSpec, Metric, code_bits
from vqpipe.dtypes import Float32
from vqpipe.quantizer.assign import choose_route
from vqpipe.quantizer.faiss_codebook import read_index_codebook
from vqpipe.quantizer.quantizer import Quantizer

ITERATIONS = 25

# FAISS's own seed, to which ours is added.
_SEED = 1234

# After its first stage a residual quantizer learns from what each choice in the beam leaves of a row.
_BEAM = 5

# Of its distances a residual quantizer would hold 5 GB at once.
_DISTANCE_BYTES = 1 << 28

# Rows in float32 that a training holds at its peak, the ones it is given among them: measured 1.4, 1.2, 5.3 and 17.4.
_COPIES = {"KM": 2, "PQ": 2, "OPQ": 6, "RQ": 18}


def training_bytes(spec: CodebookSpec, dim: int, rows: int) -> int:
    """Return about what `train_by_faiss` takes, the rows included."""
    distances = _DISTANCE_BYTES if spec.kind == "RQ" else 0
    return _COPIES[spec.kind] * rows * dim * 4 + distances + 4 * spec.stages * spec.k * dim * 4


def train_by_faiss(rows: Float32, spec: CodebookSpec, metric: Metric, seed: int) -> Quantizer:
    """Have FAISS learn a codebook from all rows that it is given: 25 iterations, no restarts.

    Parameters
    ----------
    rows : float32 array of shape (rows, dim)
        Prepared: normalised under cosine.
    spec : CodebookSpec
        KM by ``Kmeans``, PQ by ``IndexPQ``, OPQ by an ``OPQMatrix`` before it, RQ by ``IndexResidualQuantizer``.
    metric : str
    seed : int

    Returns
    -------
    Quantizer
        That holds FAISS's codewords and finds them as it finds ours.
    """
    dim = rows.shape[1]
    seed = (_SEED + seed) % (1 << 31)
    if spec.kind == "KM":
        kmeans = faiss.Kmeans(
            dim, spec.k, niter=ITERATIONS, seed=seed, spherical=metric == "cosine",
            min_points_per_centroid=1, max_points_per_centroid=len(rows),
        )  # fmt: skip
        kmeans.train(rows)
        centroids = np.asarray(kmeans.centroids, np.float32)[None, None]
        offset = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        codebook = Codebook("KM", metric, offset, centroids)
    else:
        codebook = replace(_learn(rows, spec, seed), metric=metric)
    if metric == "cosine":
        codebook = replace(codebook, offset=np.zeros(dim, np.float32))
    return Quantizer(codebook, choose_route(spec, dim))


def _learn(rows: Float32, spec: CodebookSpec, seed: int) -> Codebook:
    """Train an index and return its codebook, by way of its file: the reader of indexes checks what is in it."""
    dim, bits = rows.shape[1], code_bits(spec.k)
    index: Any
    if spec.kind == "RQ":
        index = faiss.IndexResidualQuantizer(dim, spec.stages, bits)
        index.rq.max_mem_distances = _DISTANCE_BYTES
        # Products of all codewords with all: gigabytes for 12 bits, and no part of learning.
        index.rq.train_type |= faiss.ResidualQuantizer.Skip_codebook_tables
        clustering = index.rq.cp
    else:
        index = faiss.IndexPQ(dim, spec.m, bits)
        clustering = index.pq.cp
    clustering.niter = ITERATIONS
    clustering.seed = seed
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = _BEAM * len(rows)
    if spec.kind == "OPQ":
        rotation = faiss.OPQMatrix(dim, spec.m)
        rotation.max_train_points = len(rows)
        # Left alone it would turn rows for a product of 8 bits. It is only pointed to: the name keeps it alive.
        product = faiss.ProductQuantizer(dim, spec.m, bits)
        product.cp.min_points_per_centroid = 1
        rotation.pq = product
        index = faiss.IndexPreTransform(rotation, index)
    index.train(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trained.faiss")
        faiss.write_index(index, path)
        return read_index_codebook(path).codebook
