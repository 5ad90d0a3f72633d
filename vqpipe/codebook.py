"""The codebook: what it is made of, what it costs, and its digest."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from vqpipe.dtypes import Codes, Float32
from vqpipe.errors import CodebookError

Metric = Literal["l2", "cosine"]

# A codeword for which there were no distinct rows left lies here: never the nearest, so never used.
SURPLUS = np.float32(1e18)


@dataclass(frozen=True, slots=True)
class CodebookSpec:
    """The kind and the sizes of a codebook, before there is one.

    Attributes
    ----------
    kind : str
        ``KM`` (plain vector quantization) or ``PQ`` (product quantization, Jégou et al. 2011).
    m : int
        Sub-vectors per row: 1 for KM.
    k : int
        Codewords per column.
    """

    kind: Literal["KM", "PQ"]
    m: int
    k: int

    @property
    def columns(self) -> int:
        """Codes per row."""
        return self.m

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return code_bits(self.k)

    @property
    def code_dtype(self) -> str:
        """The smallest unsigned dtype that holds a code."""
        return code_dtype(self.k)

    @property
    def row_code_bytes(self) -> int:
        """Bytes of one row's codes in memory."""
        return self.m * np.dtype(self.code_dtype).itemsize

    def check_dim(self, dim: int) -> None:
        """Refuse a dim that ``m`` does not divide.

        Raises
        ------
        CodebookError
        """
        if dim % self.m:
            near = [m for m in range(1, dim + 1) if dim % m == 0]
            best = sorted(sorted(near, key=lambda m: abs(m - self.m))[:4])
            raise CodebookError(
                f"codebook {self}: m = {self.m} does not divide the source's dim = {dim}, so the "
                f"vectors cannot be cut into {self.m} equal sub-vectors; take m from {best}"
            )

    def __str__(self) -> str:
        return f"KM{self.k}" if self.kind == "KM" else f"PQ{self.m}x{self.bits}"


def code_bits(k: int) -> int:
    """Return the bits that a code of ``k`` codewords takes, at least 1.

    Examples
    --------
    >>> code_bits(256), code_bits(257), code_bits(1)
    (8, 9, 1)
    """
    return max(1, math.ceil(math.log2(k)))


def code_dtype(k: int) -> str:
    """Return the smallest unsigned dtype for codes below ``k``.

    Examples
    --------
    >>> code_dtype(256), code_dtype(257)
    ('uint8', 'uint16')
    """
    return str(np.min_scalar_type(k - 1))


@dataclass(frozen=True, eq=False)
class Codebook:
    """Centroids and what must be done to a row before it is compared with them.

    Attributes
    ----------
    kind : str
        ``KM`` or ``PQ``.
    metric : str
        ``l2``, or ``cosine``: rows are divided by their norm first.
    offset : float32 array of shape (dim,)
        Subtracted from rows and centroids before any product, so that products do not cancel
        (the sample's mean; zero under cosine).
    centroids : float32 array of shape (stages, m, k, dim / m)
        In the data's own place: ``offset`` is not subtracted from what is stored.
    """

    kind: Literal["KM", "PQ"]
    metric: Metric
    offset: Float32
    centroids: Float32

    def __post_init__(self) -> None:
        if self.centroids.ndim != 4 or self.centroids.dtype != np.float32:
            raise CodebookError(
                f"centroids of shape {self.centroids.shape} and dtype {self.centroids.dtype}: "
                "a codebook holds float32 centroids of shape (stages, m, k, dim / m)"
            )
        if self.offset.shape != (self.dim,) or self.offset.dtype != np.float32:
            raise CodebookError(
                f"offset of shape {self.offset.shape} and dtype {self.offset.dtype}: expected "
                f"float32 of shape ({self.dim},), as the centroids have"
            )

    @property
    def stages(self) -> int:
        """Residual stages; 1 but for residual quantization."""
        return int(self.centroids.shape[0])

    @property
    def m(self) -> int:
        """Sub-vectors per row."""
        return int(self.centroids.shape[1])

    @property
    def k(self) -> int:
        """Codewords per column."""
        return int(self.centroids.shape[2])

    @property
    def dim(self) -> int:
        """Dimensions of a row."""
        return int(self.centroids.shape[1] * self.centroids.shape[3])

    @property
    def columns(self) -> int:
        """Codes per row."""
        return self.stages * self.m

    @property
    def spec(self) -> CodebookSpec:
        """Kind and sizes."""
        return CodebookSpec(self.kind, self.m, self.k)

    @property
    def surplus(self) -> list[int]:
        """Per column, codewords for which there were no distinct rows left."""
        far = (self.centroids == SURPLUS).all(axis=3)
        return [int(count) for count in far.sum(axis=2).ravel()]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sizes as JSON, then offset and centroids as little-endian float32."""
        head = {
            "kind": self.kind,
            "metric": self.metric,
            "dim": self.dim,
            "stages": self.stages,
            "m": self.m,
            "k": self.k,
        }
        sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for array in (self.offset, self.centroids):
            sha.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return sha.hexdigest()

    def centred(self) -> Float32:
        """Return the centroids of the one stage moved by the offset, shape (m, k, dim / m)."""
        moved: Float32 = self.centroids[0] - self.offset.reshape(self.m, 1, -1)
        # What is far away stays far away, whatever the offset.
        moved[self.centroids[0] == SURPLUS] = SURPLUS
        return moved

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for.

        Parameters
        ----------
        codes : unsigned array of shape (rows, columns)

        Returns
        -------
        float32 array of shape (rows, dim)
            In the data's own place; normalised vectors under cosine.

        Raises
        ------
        CodebookError
            For another number of columns, or a code that names no codeword.

        Examples
        --------
        >>> import numpy as np
        >>> centroids = np.float32([[[[0, 0], [1, 2]]]])
        >>> Codebook("KM", "l2", np.zeros(2, np.float32), centroids).decode(np.array([[1]]))
        array([[1., 2.]], dtype=float32)
        """
        if codes.ndim != 2 or codes.shape[1] != self.columns:
            raise CodebookError(
                f"codes of shape {codes.shape}: this {self.spec} codebook has {self.columns} "
                f"columns, so codes have shape (rows, {self.columns})"
            )
        if codes.size and not (codes.min() >= 0 and codes.max() < self.k):
            bad = int(codes.max() if codes.max() >= self.k else codes.min())
            raise CodebookError(
                f"code {bad}: this {self.spec} codebook has codewords 0 to "
                f"{self.k - 1}; the codes belong to another codebook"
            )
        picked = self.centroids[0][np.arange(self.m), codes.astype(np.intp)]
        vectors: Float32 = picked.reshape(len(codes), self.dim)
        return vectors
