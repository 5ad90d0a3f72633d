"""FAISS indexes of our codebooks, written without holding their codes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import SURPLUS, Codebook, code_bits
from vqpipe.dtypes import Codes, Float32, Int64

Packed = NDArray[np.uint8]

# Stands where the codes go while the rest of an index is serialized; found again by its bytes.
_MARKER_CODES = 64


def pack_codes(codes: Codes, k: int) -> Packed:
    """Return codes as FAISS packs them: ``bits`` bits each, little end first, rows padded to bytes.

    Parameters
    ----------
    codes : unsigned array of shape (rows, columns)
    k : int
        Codewords per column.

    Returns
    -------
    uint8 array of shape (rows, ceil(columns * bits / 8))
    """
    bits = code_bits(k)
    if bits == 8:
        return np.ascontiguousarray(codes, dtype=np.uint8)
    packed: Packed = faiss.pack_bitstrings(codes.astype(np.int32), bits)
    return packed


def packed_row_bytes(columns: int, k: int) -> int:
    """Return the bytes of one row's packed codes."""
    return (columns * code_bits(k) + 7) // 8


def write_index(
    file: BinaryIO, codebook: Codebook, codes: Iterable[Codes], rows: int,
    ids: Iterable[Int64] | None = None, *, two_way: bool = True,
) -> None:  # fmt: skip
    """Write a FAISS index of codes that need never be in memory together.

    Everything but the codes is what FAISS itself serializes; the codes are put where it puts them.

    Parameters
    ----------
    file : binary file
    codebook : Codebook
    codes : iterable of unsigned arrays of shape (rows of the piece, columns)
        In order. Consumed once, before the ids.
    rows : int
        Rows in all pieces together.
    ids : iterable of int64 arrays, optional
        Where they differ from positions: then the index is wrapped in an id map. Consumed once, after the
        codes.
    two_way : bool
        Whether the map is an IndexIDMap2, which can reconstruct a row by its id, or an IndexIDMap, which
        cannot: opened, they take about 50 and 8 bytes a row beside the codes.
    """
    index, product = _empty_index(codebook)
    size = packed_row_bytes(codebook.columns, codebook.k)
    # A fixed pattern of bytes that no header holds, as long as a whole number of codes.
    marker = np.random.default_rng(0).integers(0, 256, _MARKER_CODES * size, dtype=np.uint8)
    faiss.copy_array_to_vector(marker, product.codes)
    outer = index
    if ids is not None:
        outer = faiss.IndexIDMap2(index) if two_way else faiss.IndexIDMap(index)
    for part in (outer, index, product):
        part.ntotal = rows
    id_marker = np.arange(-_MARKER_CODES, 0, dtype=np.int64)
    if ids is not None:
        faiss.copy_array_to_vector(id_marker, outer.id_map)
    frame = faiss.serialize_index(outer).tobytes()
    head, frame = _split(frame, marker.tobytes())
    file.write(head)
    file.write(np.uint64(rows * size).tobytes())
    file.writelines(pack_codes(piece, codebook.k).tobytes() for piece in codes)
    if ids is not None:
        middle, frame = _split(frame, id_marker.tobytes())
        file.write(middle)
        file.write(np.uint64(rows).tobytes())
        file.writelines(numbers.astype("<i8").tobytes() for numbers in ids)
    file.write(frame)


def index_bytes(codebook: Codebook, rows: int, *, with_ids: bool = False) -> int:
    """Return the size of what `write_index` writes for so many rows."""
    ids = [np.empty(0, np.int64)] if with_ids else None
    file = io.BytesIO()
    write_index(file, codebook, [], 0, ids)
    row_bytes = packed_row_bytes(codebook.columns, codebook.k) + (8 if with_ids else 0)
    return file.tell() + rows * row_bytes


def _split(frame: bytes, marker: bytes) -> tuple[bytes, bytes]:
    """Return what stands before a vector's length and after its contents."""
    place = frame.index(marker)
    return frame[: place - 8], frame[place + len(marker) :]


def _empty_index(codebook: Codebook) -> tuple[Any, Any]:
    """Return an index without codes, and the one in it that is to hold them."""
    flat = _empty_residual(codebook) if codebook.kind == "RQ" else _empty_product(codebook)
    flat.is_trained = True
    transforms = []
    if codebook.metric == "cosine":
        transforms.append(faiss.NormalizationTransform(codebook.dim))
    if codebook.rotation is not None:
        transforms.append(_placing(codebook, codebook.rotation))
    if not transforms:
        return flat, flat
    index = faiss.IndexPreTransform(transforms.pop(), flat)
    for transform in reversed(transforms):
        index.prepend_transform(transform)
    return index, flat


def _empty_product(codebook: Codebook) -> Any:
    _, m, k, width = codebook.centroids.shape
    bits = code_bits(k)
    product = faiss.IndexPQ(codebook.dim, m, bits)
    table = np.full((m, 1 << bits, width), SURPLUS, dtype=np.float32)
    # After a transform that places rows, the codewords of placed rows.
    table[:, :k] = codebook.centroids[0] if codebook.rotation is None else codebook.centred()
    faiss.copy_array_to_vector(table.ravel(), product.pq.centroids)
    return product


def _empty_residual(codebook: Codebook) -> Any:
    index = faiss.IndexResidualQuantizer(
        codebook.dim, codebook.stages, code_bits(codebook.k), faiss.METRIC_L2
    )
    table = np.full((codebook.stages, 1 << code_bits(codebook.k), codebook.dim), SURPLUS)
    table[:, : codebook.k] = codebook.centroids[:, 0]
    faiss.copy_array_to_vector(table.astype(np.float32).ravel(), index.rq.codebooks)
    index.rq.is_trained = True
    # Whoever opens it would else compute products of all codewords with all: gigabytes for 12 bits.
    index.rq.train_type |= faiss.ResidualQuantizer.Skip_codebook_tables
    return index


def _placing(codebook: Codebook, rotation: Float32) -> Any:
    """Return the transform that places rows: ``R x - R o``."""
    transform = faiss.LinearTransform(codebook.dim, codebook.dim, True)
    faiss.copy_array_to_vector(rotation.ravel(), transform.A)
    faiss.copy_array_to_vector(-codebook.stage_offset(0).ravel(), transform.b)
    transform.is_trained = True
    transform.set_is_orthonormal()
    return transform
