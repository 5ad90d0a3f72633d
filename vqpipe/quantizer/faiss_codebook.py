"""Codebooks that FAISS learnt, read from its indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from vqpipe.codebook import SURPLUS, Codebook, Kind, Metric
from vqpipe.dtypes import Float32, Float64
from vqpipe.errors import CodebookError
from vqpipe.quantizer.assign import choose_route
from vqpipe.quantizer.quantizer import Quantizer

# By so much the products of a rotation's axes may be off; FAISS allows as much.
_ORTHONORMAL = 4e-5


@dataclass(frozen=True, eq=False)
class _Before:
    """What the transforms before an index amount to.

    Attributes
    ----------
    metric : str
    rotation : float32 array of shape (dim, dim) or None
    bias : float32 array of shape (dim,)
        Added after the rotation.
    """

    metric: Metric
    rotation: Float32 | None
    bias: Float32


def read_index_codebook(path: str) -> Quantizer:
    """Read the codebook of a FAISS index.

    Parameters
    ----------
    path : str
        What ``faiss.write_index`` wrote: an IndexPQ, behind a rotation (OPQ) or not, or an
        IndexResidualQuantizer; each in an IndexIDMap or behind a NormalizationTransform or not.

    Raises
    ------
    CodebookError
        If the file is no index or another kind of index.
    """
    try:
        # Kept by name: what is inside an index lives no longer than the index itself.
        owner = faiss.read_index(path)
    except Exception as error:
        raise CodebookError(
            f"codebook {path}: FAISS cannot read it as an index: it is damaged, or something else; give a "
            "codebook.zarr, or what faiss.write_index wrote"
        ) from error
    index, before = _unwrapped(path, faiss.downcast_index(owner))
    known = isinstance(index, faiss.IndexPQ | faiss.IndexResidualQuantizer)
    if not known or index.metric_type != faiss.METRIC_L2:
        raise CodebookError(
            f"codebook {path}: holds a {type(index).__name__} of metric {index.metric_type}; give an IndexPQ "
            "or an IndexResidualQuantizer of metric L2 (1)"
        )
    kind, centroids = _centroids(path, index, before)
    if not (index.is_trained and np.isfinite(centroids).all()):
        raise CodebookError(
            f"codebook {path}: the index is not trained; train it and write it again"
        )
    if before.rotation is not None:
        # Rows are x -> R x + b: the data's own place, rotated, is b away.
        moved = centroids[0] - before.bias.reshape(len(centroids[0]), 1, -1)
        moved[(centroids[0] == SURPLUS).all(axis=2)] = SURPLUS
        centroids = moved[None]
    codebook = Codebook(kind, before.metric, _offset(centroids, before), centroids, before.rotation)
    return Quantizer(codebook, choose_route(codebook.spec, codebook.dim))


def _centroids(path: str, index: Any, before: _Before) -> tuple[Kind, Float32]:
    """Return the kind of codebook, and its centroids of shape (stages, m, k, dim / m)."""
    if isinstance(index, faiss.IndexPQ):
        product = index.pq
        values = faiss.vector_to_array(product.centroids).astype(np.float32)
        kind: Kind = "KM" if product.M == 1 else "PQ"
        if before.rotation is not None:
            kind = "OPQ"
        return kind, values.reshape(1, product.M, product.ksub, product.dsub)
    residual = index.rq
    bits = sorted(set(faiss.vector_to_array(residual.nbits).tolist()))
    if len(bits) > 1 or before.rotation is not None:
        what = f"stages of {bits} bits" if len(bits) > 1 else "a rotation before its stages"
        raise CodebookError(
            f"codebook {path}: the IndexResidualQuantizer has {what}, which is not supported; give one with "
            "stages of one size and no more than a NormalizationTransform before it"
        )
    values = faiss.vector_to_array(residual.codebooks).astype(np.float32)
    if values.size != residual.M * index.d << bits[0]:
        raise CodebookError(
            f"codebook {path}: the index is not trained; train it and write it again"
        )
    return "RQ", values.reshape(residual.M, 1, -1, index.d)


def _offset(centroids: Float32, before: _Before) -> Float32:
    """Return what is subtracted from rows: not the sample's mean, which is not known here.

    The mean of the first stage's codewords is as good.
    """
    dim = centroids.shape[1] * centroids.shape[3]
    if before.metric != "l2":
        return np.zeros(dim, dtype=np.float32)
    used = np.where(centroids[0] == SURPLUS, np.nan, centroids[0])
    mean: Float64 = np.nan_to_num(np.nanmean(used, axis=1, dtype=np.float64)).ravel()
    if before.rotation is not None:
        mean = np.einsum("i,ij->j", mean, before.rotation.astype(np.float64))
    return mean.astype(np.float32)


def _unwrapped(path: str, index: Any) -> tuple[Any, _Before]:
    """Return the innermost index, and what is around it."""
    before = _Before("l2", None, np.zeros(index.d, dtype=np.float32))
    while isinstance(index, faiss.IndexIDMap | faiss.IndexPreTransform):
        if isinstance(index, faiss.IndexPreTransform):
            chain: Any = index.chain
            for place in range(chain.size()):
                before = _followed(path, before, faiss.downcast_VectorTransform(chain.at(place)))
        index = faiss.downcast_index(index.index)
    return index, before


def _followed(path: str, before: _Before, transform: Any) -> _Before:
    """Return what a transform makes of rows after the ones before it."""
    if before.rotation is None:
        if isinstance(transform, faiss.NormalizationTransform):
            return _Before("cosine", None, before.bias)
        if isinstance(transform, faiss.LinearTransform) and transform.d_in == transform.d_out:
            rotation = faiss.vector_to_array(transform.A).astype(np.float32)
            if rotation.size == transform.d_in**2:
                rotation = rotation.reshape(transform.d_in, -1)
                wide = rotation.astype(np.float64)
                if np.abs(wide @ wide.T - np.eye(len(wide))).max() <= _ORTHONORMAL:
                    bias = (
                        faiss.vector_to_array(transform.b) if transform.have_bias else before.bias
                    )
                    return _Before(before.metric, rotation, bias.astype(np.float32))
    raise CodebookError(
        f"codebook {path}: its {type(transform).__name__} ({transform.d_in} to {transform.d_out} dims) is not "
        "supported; before an index there may be a NormalizationTransform, then one rotation (OPQMatrix) of as "
        "many dims as before"
    )
