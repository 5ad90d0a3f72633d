"""What a FAISS index file says, by plain reads: no size in it is believed before the file is seen to hold it.

``faiss.read_index`` takes memory by the sizes in the file and trusts that they fit one another, so that a
damaged file can end the process; and it would read the codes of all rows, where only the codebook is
wanted.

The layout is that of ``faiss/impl/index_write.cpp`` in FAISS 1.15, little-endian throughout.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal

import numpy as np

from vqpipe.dtypes import Float32
from vqpipe.errors import CodebookError

# Indexes around an index, and transforms before one; more of them is damage.
_MOST_NESTED = 8

# What a message calls an index that holds no codebook of ours, by the four letters that begin it.
_OTHERS = {
    **dict.fromkeys(("IxF2", "IxFI", "IxFl"), "IndexFlat"),
    "IxSQ": "IndexScalarQuantizer",
    "IwFl": "IndexIVFFlat",
    "IwPQ": "IndexIVFPQ",
    "IwSq": "IndexIVFScalarQuantizer",
    "IHNf": "IndexHNSWFlat",
    "IxHe": "IndexLSH",
    "IPfs": "IndexPQFastScan",
}

# Of transforms that are a matrix: the bytes of their own before it, and whether three vectors follow those.
_MATRICES = {
    "LTra": ("LinearTransform", "", False),
    "rrot": ("RandomRotationMatrix", "", False),
    "Viqm": ("ITQMatrix", "<ii", False),
    "Pcam": ("PCAMatrix", "<ff?i", True),
}

# Ways of an additive quantizer to keep norms: from the first on a table of norms follows, from the second one more.
_NORM_CODES, _NORM_TABLES, _LAST_SEARCH = 6, 8, 9


@dataclass(frozen=True, eq=False)
class Transform:
    """What is done to rows before an index sees them.

    Attributes
    ----------
    name : str
        FAISS's name of its kind.
    d_in, d_out : int
    matrix : float32 array of shape (d_out, d_in) or None
    bias : float32 array of shape (d_out,) or None
        Added after the matrix.
    """

    name: str
    d_in: int
    d_out: int
    matrix: Float32 | None = None
    bias: Float32 | None = None


@dataclass(frozen=True, eq=False)
class IndexFile:
    """What is wanted of an index.

    Attributes
    ----------
    name : str
        ``IndexPQ`` or ``IndexResidualQuantizer``.
    metric : int
        FAISS's number: 1 is L2.
    is_trained : bool
    bits : tuple of int
        Of each stage's codes; one for all columns of an IndexPQ.
    centroids : float32 array of shape (stages, m, k, dim / m), or (0,)
        Empty where it is not trained, or where stages differ in their bits.
    transforms : tuple of Transform
        In their order.
    """

    name: Literal["IndexPQ", "IndexResidualQuantizer"]
    metric: int
    is_trained: bool
    bits: tuple[int, ...]
    centroids: Float32
    transforms: tuple[Transform, ...] = ()


class _Reader:
    """An open index file, and how much of it is left."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self.left = os.fstat(file.fileno()).st_size

    def fail(self, why: str) -> CodebookError:
        return CodebookError(
            f"codebook {self.path}: cannot be read as a FAISS index: {why}; it is damaged, or something else: give a "
            "codebook.zarr, or what faiss.write_index wrote"
        )

    def bytes(self, count: int) -> bytes:
        if count > self.left:
            raise self.fail(f"it should go on for {count} bytes, and {self.left} are left")
        self.left -= count
        found = self._file.read(count)
        if len(found) != count:
            raise self.fail("it was cut while it was read")
        return found

    def values(self, format: str) -> tuple[Any, ...]:
        return struct.unpack(format, self.bytes(struct.calcsize(format)))

    def name(self) -> str:
        return self.bytes(4).decode("latin1")

    def vector(self, dtype: str) -> Any:
        (count,) = self.values("<Q")
        return np.frombuffer(self.bytes(count * np.dtype(dtype).itemsize), dtype)

    def skip_vector(self, item_bytes: int) -> None:
        (count,) = self.values("<Q")
        if count * item_bytes > self.left:
            raise self.fail(f"{count * item_bytes} bytes should follow, and {self.left} are left")
        self.left -= count * item_bytes
        self._file.seek(count * item_bytes, os.SEEK_CUR)


def read_index_file(path: str) -> IndexFile:
    """Read what is before the codes of a FAISS index, and check that the rest is there.

    Parameters
    ----------
    path : str
        An IndexPQ or IndexResidualQuantizer, behind transforms and id maps or not.

    Raises
    ------
    CodebookError
        If the file is missing, damaged, no index, or another kind of index.
    """
    try:
        with open(path, "rb") as file:
            reader = _Reader(path, file)
            found = _read_index(reader, _MOST_NESTED)
    except OSError as error:
        raise CodebookError(
            f"codebook {path}: cannot be read ({error.strerror}); check the path and your right to read it"
        ) from error
    if reader.left:
        raise reader.fail(f"it has {reader.left} bytes after its end")
    return found


def _read_index(reader: _Reader, nested: int) -> IndexFile:
    name = reader.name()
    if name in _OTHERS:
        raise CodebookError(
            f"codebook {reader.path}: holds an {_OTHERS[name]}; give an IndexPQ or an IndexResidualQuantizer of "
            "metric L2 (1)"
        )
    if name not in ("IxPT", "IxMp", "IxM2", "IxPq", "IxRq") or not nested:
        raise reader.fail(f"{name!r} begins no kind of index that is known here, or one too deep")
    *_, is_trained, metric = reader.values("<iqqq?i")
    if metric > 1:
        reader.values("<f")
    if name == "IxPq":
        return _read_product(reader, metric, is_trained)
    if name == "IxRq":
        return _read_residual(reader, metric, is_trained)
    transforms: tuple[Transform, ...] = ()
    if name == "IxPT":
        (count,) = reader.values("<i")
        if not 0 <= count <= _MOST_NESTED:
            raise reader.fail(f"{count} transforms should follow")
        transforms = tuple(_read_transform(reader) for _ in range(count))
    inner = _read_index(reader, nested - 1)
    if name != "IxPT":
        reader.skip_vector(8)
    return replace(inner, transforms=transforms + inner.transforms)


def _read_product(reader: _Reader, metric: int, is_trained: bool) -> IndexFile:
    dim, m, bits = reader.values("<QQQ")
    values = reader.vector("<f4")
    if not (0 < bits < 32 and 0 < m <= dim and dim % m == 0 and values.size == dim << bits):
        raise reader.fail(
            f"its product has {values.size} values, dim = {dim}, m = {m} and {bits} bits"
        )
    reader.skip_vector(1)
    # How it searches.
    reader.values("<i?i")
    centroids = values.reshape(1, m, 1 << bits, dim // m)
    return IndexFile("IndexPQ", metric, is_trained, (bits,), centroids.astype(np.float32))


def _read_residual(reader: _Reader, metric: int, is_trained: bool) -> IndexFile:
    dim, stages = reader.values("<QQ")
    bits = tuple(reader.vector("<u8").tolist())
    (is_learnt,) = reader.values("<?")
    values = reader.vector("<f4")
    search, *_ = reader.values("<iff")
    if not 0 <= search <= _LAST_SEARCH:
        raise reader.fail(f"it searches in a way {search}")
    if search >= _NORM_CODES:
        reader.skip_vector(4)
    if search >= _NORM_TABLES:
        reader.skip_vector(4)
    # How it was learnt, and the size of a code.
    reader.values("<iiQ")
    reader.skip_vector(1)
    fits = 0 < stages == len(bits) and dim > 0 and all(0 < some < 32 for some in bits)
    if not fits or values.size not in (0, dim * sum(1 << some for some in bits)):
        raise reader.fail(
            f"its {stages} stages have {values.size} values, dim = {dim} and {len(bits)} sizes"
        )
    if not values.size or len(set(bits)) > 1:
        centroids = np.empty(0, np.float32)
    else:
        centroids = values.reshape(stages, 1, 1 << bits[0], dim).astype(np.float32)
    trained = is_trained and is_learnt and bool(values.size)
    return IndexFile("IndexResidualQuantizer", metric, trained, bits, centroids)


def _read_transform(reader: _Reader) -> Transform:
    name = reader.name()
    if name == "VNrm":
        reader.values("<f")
        d_in, d_out, _ = reader.values("<ii?")
        return Transform("NormalizationTransform", d_in, d_out)
    if name not in _MATRICES:
        raise reader.fail(f"{name!r} is no transform that is known here")
    called, own, has_vectors = _MATRICES[name]
    reader.values(own)
    for _ in range(3 if has_vectors else 0):
        reader.skip_vector(4)
    (has_bias,) = reader.values("<?")
    matrix, bias = reader.vector("<f4"), reader.vector("<f4")
    d_in, d_out, _ = reader.values("<ii?")
    if d_in < 1 or d_out < 1 or (has_bias and bias.size != d_out):
        raise reader.fail(
            f"its {called} is from {d_in} to {d_out} dims, with {bias.size} values to add"
        )
    # An untrained matrix is empty; a PCA keeps axes beyond those that it gives.
    return Transform(
        called,
        d_in,
        d_out,
        matrix.reshape(d_out, d_in).astype(np.float32) if matrix.size == d_in * d_out else None,
        bias.astype(np.float32) if has_bias else None,
    )
