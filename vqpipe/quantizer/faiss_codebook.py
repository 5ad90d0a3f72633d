"""Codebooks that FAISS learnt, read from its indexes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqpipe.codebook import SURPLUS, Codebook, Kind, Metric, are_usable
from vqpipe.dtypes import Float32, Float64
from vqpipe.errors import CodebookError
from vqpipe.quantizer.assign import choose_route
from vqpipe.quantizer.faiss_file import IndexFile, Transform, read_index_file
from vqpipe.quantizer.quantizer import Quantizer

# By so much the products of a rotation's axes may be off; FAISS allows as much.
_ORTHONORMAL = 4e-5

# FAISS's number of the metric.
_L2 = 1


@dataclass(frozen=True, eq=False)
class _Before:
    """What the transforms before an index amount to.

    Attributes
    ----------
    metric : str
    rotation : float32 array of shape (dim, dim) or None
    bias : float32 array of shape (dim,) or (1,)
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
    index = read_index_file(path)
    if index.metric != _L2:
        raise CodebookError(
            f"codebook {path}: holds an {index.name} of metric {index.metric}; give an IndexPQ or an "
            "IndexResidualQuantizer of metric L2 (1)"
        )
    before = _Before("l2", None, np.zeros(1, dtype=np.float32))
    for transform in index.transforms:
        before = _followed(path, before, transform, index)
    kind, centroids = _kind(path, index, before), index.centroids
    if not index.is_trained:
        raise CodebookError(
            f"codebook {path}: the index is not trained; train it and write it again"
        )
    if not (are_usable(centroids) and are_usable(before.bias)):
        raise CodebookError(
            f"codebook {path}: has values that are NaN or beyond {SURPLUS:g}, so no distance to them can be told; "
            "restore it, or learn it again"
        )
    if before.rotation is not None:
        # Rows are x -> R x + b: the data's own place, rotated, is b away.
        bias = np.broadcast_to(before.bias, before.rotation.shape[:1])
        moved = centroids[0] - bias.reshape(len(centroids[0]), 1, -1)
        moved[(centroids[0] == SURPLUS).all(axis=2)] = SURPLUS
        centroids = moved[None]
    codebook = Codebook(kind, before.metric, _offset(centroids, before), centroids, before.rotation)
    return Quantizer(codebook, choose_route(codebook.spec, codebook.dim))


def _kind(path: str, index: IndexFile, before: _Before) -> Kind:
    """Return the kind of codebook."""
    if index.name == "IndexPQ":
        if before.rotation is not None:
            return "OPQ"
        return "KM" if index.centroids.shape[1] == 1 else "PQ"
    bits = sorted(set(index.bits))
    if len(bits) > 1 or before.rotation is not None:
        what = f"stages of {bits} bits" if len(bits) > 1 else "a rotation before its stages"
        raise CodebookError(
            f"codebook {path}: the IndexResidualQuantizer has {what}, which is not supported; give one with "
            "stages of one size and no more than a NormalizationTransform before it"
        )
    return "RQ"


def _offset(centroids: Float32, before: _Before) -> Float32:
    """Return what is subtracted from rows: not the sample's mean, which is not known here.

    The mean of the first stage's codewords is as good.
    """
    dim = centroids.shape[1] * centroids.shape[3]
    if before.metric != "l2":
        return np.zeros(dim, dtype=np.float32)
    used = centroids[0] != SURPLUS
    sums: Float64 = np.where(used, centroids[0], 0).sum(axis=1, dtype=np.float64)
    mean = (sums / np.maximum(used.sum(axis=1), 1)).ravel()
    if before.rotation is not None:
        mean = np.einsum("i,ij->j", mean, before.rotation.astype(np.float64))
    offset: Float32 = mean.astype(np.float32)
    return offset


def _followed(path: str, before: _Before, transform: Transform, index: IndexFile) -> _Before:
    """Return what a transform makes of rows after the ones before it."""
    dims = {transform.d_in, transform.d_out, *_dims(index)}
    if before.rotation is None and len(dims) == 1:
        if transform.name == "NormalizationTransform":
            return _Before("cosine", None, before.bias)
        rotation = transform.matrix
        if rotation is not None and _is_orthonormal(rotation):
            bias = before.bias if transform.bias is None else transform.bias
            return _Before(before.metric, rotation, bias)
    raise CodebookError(
        f"codebook {path}: its {transform.name} ({transform.d_in} to {transform.d_out} dims) is not "
        "supported; before an index there may be a NormalizationTransform, then one rotation (OPQMatrix) of as "
        "many dims as before"
    )


def _dims(index: IndexFile) -> set[int]:
    """Return the dims that the codewords give; none where there are no codewords."""
    shape = index.centroids.shape
    return {shape[1] * shape[3]} if len(shape) == 4 else set()


def _is_orthonormal(rotation: Float32) -> bool:
    if not (np.abs(rotation) < 2).all():
        return False
    wide = rotation.astype(np.float64)
    return bool(np.abs(wide @ wide.T - np.eye(len(wide))).max() <= _ORTHONORMAL)
