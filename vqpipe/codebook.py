"""The codebook: what it is made of, what it costs, and its digest."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from vqpipe.dtypes import Codes, Float32, Labels
from vqpipe.errors import CodebookError

Kind = Literal["KM", "PQ", "OPQ", "RQ"]
Metric = Literal["l2", "cosine"]

# A codeword for which there were no distinct rows left lies here: never the nearest, so never used.
SURPLUS = np.float32(1e18)


@dataclass(frozen=True, slots=True)
class CodebookSpec:
    """The kind and the sizes of a codebook, before there is one.

    Attributes
    ----------
    kind : str
        ``KM`` (plain vector quantization), ``PQ`` (product quantization, Jégou et al. 2011), ``OPQ`` (a
        rotation and PQ, Ge et al. 2013) or ``RQ`` (residual quantization, Chen et al. 2010).
    m : int
        Sub-vectors per row: 1 for KM and RQ.
    k : int
        Codewords per column.
    stages : int
        Residual stages: 1 but for RQ.
    """

    kind: Kind
    m: int
    k: int
    stages: int = 1

    @property
    def columns(self) -> int:
        """Codes per row."""
        return self.stages * self.m

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
        return self.columns * np.dtype(self.code_dtype).itemsize

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
        return f"KM{self.k}" if self.kind == "KM" else f"{self.kind}{self.columns}x{self.bits}"


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


def are_usable(values: Float32) -> bool:
    """Say whether all values are numbers, and small enough that distances to them do not overflow."""
    return bool((np.abs(values) <= SURPLUS).all())


@dataclass(frozen=True, eq=False)
class Codebook:
    """Centroids and what must be done to a row before it is compared with them.

    A row is *placed*: the offset is subtracted from it, and what is left is rotated, ``R (x - o)``. What a
    row is replaced by is ``R^T (sum of its codewords, moved by -R o) + o``: the first stage's codewords
    stand for placed rows, each later stage's for what the stages before leave over of them.

    Attributes
    ----------
    kind : str
        ``KM``, ``PQ``, ``OPQ`` or ``RQ``.
    metric : str
        ``l2``, or ``cosine``: rows are divided by their norm first.
    offset : float32 array of shape (dim,)
        Subtracted from rows before any product, so that products do not cancel (the sample's mean; zero
        under cosine).
    centroids : float32 array of shape (stages, m, k, dim / m)
        In the data's own place: ``offset`` is not subtracted from what is stored of the first stage. With a
        rotation that place is the rotated one, where ``R o`` is the offset. Later stages hold residuals,
        which have no place.
    rotation : float32 array of shape (dim, dim) or None
        ``R``, orthonormal.
    """

    kind: Kind
    metric: Metric
    offset: Float32
    centroids: Float32
    rotation: Float32 | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.metric not in get_args(Metric):
            raise CodebookError(
                f"codebook of kind {self.kind!r} and metric {self.metric!r}: there is none"
            )
        shape = self.centroids.shape
        if len(shape) != 4 or 0 in shape or self.centroids.dtype != np.float32:
            raise CodebookError(
                f"centroids of shape {self.centroids.shape} and dtype {self.centroids.dtype}: "
                "a codebook holds float32 centroids of shape (stages, m, k, dim / m)"
            )
        self._check("offset", self.offset, (self.dim,))
        if self.rotation is not None:
            self._check("rotation", self.rotation, (self.dim, self.dim))
        if (self.rotation is not None) != (self.kind == "OPQ"):
            has = "without a" if self.rotation is None else "with a"
            raise CodebookError(f"codebook of kind {self.kind} {has} rotation: OPQ alone has one")
        if (self.stages > 1 and self.kind != "RQ") or (self.m > 1 and self.kind in ("KM", "RQ")):
            raise CodebookError(
                f"centroids of shape {self.centroids.shape}: a codebook of kind {self.kind} has "
                f"{'one stage' if self.kind != 'RQ' else 'm = 1'}"
            )

    def _check(self, name: str, array: Float32, shape: tuple[int, ...]) -> None:
        if array.shape != shape or array.dtype != np.float32:
            raise CodebookError(
                f"{name} of shape {array.shape} and dtype {array.dtype}: expected "
                f"float32 of shape {shape}, as the centroids have"
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
        return CodebookSpec(self.kind, self.m, self.k, self.stages)

    @property
    def surplus(self) -> list[int]:
        """Per column, codewords for which there were no distinct rows left."""
        far = (self.centroids == SURPLUS).all(axis=3)
        return [int(count) for count in far.sum(axis=2).ravel()]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sizes as JSON, then offset, rotation and centroids as little-endian float32."""
        head = {
            "kind": self.kind,
            "metric": self.metric,
            "dim": self.dim,
            "stages": self.stages,
            "m": self.m,
            "k": self.k,
        }
        sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for array in (self.offset, self.rotation, self.centroids):
            if array is not None:
                sha.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return sha.hexdigest()

    def stage_offset(self, stage: int) -> Float32:
        """Return what must be subtracted from a stage's stored centroids, shape (m, dim / m).

        The offset where rows are compared, ``R o``, for the first stage; zero for residuals.
        """
        offset = self.offset
        if stage % self.stages:
            offset = np.zeros_like(offset)
        elif self.rotation is not None:
            # Not by BLAS: its last bits depend on the number of threads.
            wide = np.einsum("ij,j->i", self.rotation, offset, dtype=np.float64)
            offset = wide.astype(np.float32)
        return offset.reshape(self.m, -1)

    def centred(self, stage: int = 0) -> Float32:
        """Return the centroids of a stage as placed rows are compared with them, shape (m, k, dim / m)."""
        stored = self.centroids[stage]
        moved: Float32 = stored - self.stage_offset(stage)[:, None]
        # What is far away stays far away, whatever the offset.
        moved[stored == SURPLUS] = SURPLUS
        return moved

    def first_stages(self, count: int) -> Codebook:
        """Return the codebook of the first ``count`` stages."""
        return replace(self, centroids=self.centroids[:count])

    def stored(self, centred: Float32, stage: int = 0) -> Float32:
        """Return centroids as they are stored, in the data's own place: what `centred` undoes."""
        moved: Float32 = centred + self.stage_offset(stage)[:, None]
        moved[(centred == SURPLUS).all(axis=2)] = SURPLUS
        return moved

    def turned(self, rotation: Float32) -> Codebook:
        """Return the codebook of the same centred centroids under another rotation."""
        bare = replace(self, rotation=rotation)
        return replace(bare, centroids=bare.stored(self.centred())[None])

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
        if self.rotation is None:
            return self._sum(codes, self.centroids)
        placed = self.decode_placed(codes).astype(np.float64)
        vectors: Float32 = (placed @ self.rotation + self.offset).astype(np.float32)
        return vectors

    def decode_placed(self, codes: Codes | Labels) -> Float32:
        """Return the same where rows are compared: offset subtracted, rotated. Equal codes give equal rows."""
        return self._sum(codes, self.every_centred)

    @cached_property
    def every_centred(self) -> Float32:
        """The centroids of all stages as placed rows are compared with them."""
        return np.stack([self.centred(stage) for stage in range(self.stages)])

    def _sum(self, codes: Codes | Labels, centroids: Float32) -> Float32:
        """Return the sums of the codewords that codes name."""
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
        by_stage = codes.astype(np.intp).reshape(len(codes), self.stages, self.m)
        places = np.arange(self.m)
        vectors: Float32 = centroids[0][places, by_stage[:, 0]].reshape(len(codes), self.dim)
        for stage in range(1, self.stages):
            vectors += centroids[stage][places, by_stage[:, stage]].reshape(len(codes), self.dim)
        return vectors
