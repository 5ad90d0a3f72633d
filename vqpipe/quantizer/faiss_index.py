"""FAISS indexes: ours written without holding their codes, theirs read as codebooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import SURPLUS, Codebook, Metric, code_bits
from vqpipe.dtypes import Codes, Int64
from vqpipe.errors import CodebookError
from vqpipe.quantizer.assign import choose_route
from vqpipe.quantizer.quantizer import Quantizer

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
    size = product.sa_code_size()
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


def _split(frame: bytes, marker: bytes) -> tuple[bytes, bytes]:
    """Return what stands before a vector's length and after its contents."""
    place = frame.index(marker)
    return frame[: place - 8], frame[place + len(marker) :]


def _empty_index(codebook: Codebook) -> tuple[Any, Any]:
    """Return an index without codes, and the IndexPQ in it."""
    _, m, k, width = codebook.centroids.shape
    bits = code_bits(k)
    product = faiss.IndexPQ(codebook.dim, m, bits)
    table = np.full((m, 1 << bits, width), SURPLUS, dtype=np.float32)
    table[:, :k] = codebook.centroids[0]
    faiss.copy_array_to_vector(table.ravel(), product.pq.centroids)
    product.is_trained = True
    if codebook.metric == "l2":
        return product, product
    index = faiss.IndexPreTransform(faiss.NormalizationTransform(codebook.dim), product)
    return index, product


def read_index_codebook(path: str) -> Quantizer:
    """Read the codebook of a FAISS PQ index.

    Parameters
    ----------
    path : str
        What ``faiss.write_index`` wrote: an IndexPQ, in an IndexIDMap or behind a
        NormalizationTransform or not.

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
    index, metric = _unwrapped(path, faiss.downcast_index(owner))
    if not isinstance(index, faiss.IndexPQ) or index.metric_type != faiss.METRIC_L2:
        raise CodebookError(
            f"codebook {path}: holds a {type(index).__name__} of metric {index.metric_type}; give an IndexPQ "
            "of metric L2 (1)"
        )
    product = index.pq
    centroids = faiss.vector_to_array(product.centroids).astype(np.float32)
    if not (index.is_trained and np.isfinite(centroids).all()):
        raise CodebookError(
            f"codebook {path}: the index is not trained; train it and write it again"
        )
    centroids = centroids.reshape(1, product.M, product.ksub, product.dsub)
    offset = np.zeros(index.d, dtype=np.float32)
    if metric == "l2":
        # The sample's mean is not known here; the codewords' own is as good a place to subtract.
        used = np.where(centroids[0] == SURPLUS, np.nan, centroids[0])
        offset = (
            np.nan_to_num(np.nanmean(used, axis=1, dtype=np.float64)).ravel().astype(np.float32)
        )
    codebook = Codebook("KM" if product.M == 1 else "PQ", metric, offset, centroids)
    return Quantizer(codebook, choose_route(codebook.spec, codebook.dim))


def _unwrapped(path: str, index: Any) -> tuple[Any, Metric]:
    """Return the innermost index, and the metric that what is around it amounts to."""
    metric: Metric = "l2"
    while isinstance(index, faiss.IndexIDMap | faiss.IndexPreTransform):
        if isinstance(index, faiss.IndexPreTransform):
            chain: Any = index.chain
            for place in range(chain.size()):
                transform = faiss.downcast_VectorTransform(chain.at(place))
                if not isinstance(transform, faiss.NormalizationTransform):
                    raise CodebookError(
                        f"codebook {path}: its {type(transform).__name__} is not supported; give an IndexPQ, "
                        "with a NormalizationTransform before it at most"
                    )
                metric = "cosine"
        index = faiss.downcast_index(index.index)
    return index, metric
