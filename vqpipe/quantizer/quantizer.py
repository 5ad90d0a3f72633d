"""The quantizer: a codebook plus the route by which rows find their codewords."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe import kernels
from vqpipe.codebook import Codebook
from vqpipe.dtypes import Codes, Float32, Float64
from vqpipe.errors import CodebookError, InvalidRowError
from vqpipe.kmeans.tally import Tally, squared_errors, tally_rows
from vqpipe.quantizer.assign import Route, make_assigner
from vqpipe.rows import prepare_rows


@dataclass(frozen=True)
class Quantizer:
    """Encodes vectors to codes and decodes codes to vectors.

    Attributes
    ----------
    codebook : Codebook
    route : Route
    """

    codebook: Codebook
    route: Route

    def __reduce__(self) -> tuple[type[Quantizer], tuple[Codebook, Route]]:
        """Travel as codebook and route: what is laid out for them is laid out anew where it is used."""
        return Quantizer, (self.codebook, self.route)

    def encode(self, vectors: NDArray[Any]) -> Codes:
        """Return the codes of vectors.

        Parameters
        ----------
        vectors : float32, float16, uint8 or int8 array of shape (rows, dim)
            In the data's own place; need not be normalised under cosine.

        Returns
        -------
        unsigned array of shape (rows, columns)
            In the smallest dtype that holds a code.

        Raises
        ------
        CodebookError
            For another number of dims.
        InvalidRowError
            For a row with NaN or Inf, or a zero row under cosine.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.codebook.dim:
            raise CodebookError(
                f"vectors of shape {vectors.shape}: this {self.codebook.spec} codebook encodes "
                f"vectors of shape (rows, {self.codebook.dim})"
            )
        rows, valid = prepare_rows(vectors, self.codebook.metric)
        if not valid.all():
            bad = np.flatnonzero(~valid)
            raise InvalidRowError(
                f"row {bad[0]} ({len(bad)} such rows): holds NaN or Inf, overflows, or is zero under "
                "cosine, so no codeword is its nearest; leave such rows out",
                tuple(int(row) for row in bad[:10]),
            )
        return self.assign(self.centre(rows)).astype(self.codebook.spec.code_dtype)

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for, as `Codebook.decode`."""
        return self.codebook.decode(codes)

    def centre(self, rows: Float32) -> Float32:
        """Subtract the offset from prepared rows, in place, and return them."""
        rows -= self.codebook.offset
        return rows

    def assign(self, centred: Float32) -> NDArray[np.intp]:
        """Return the nearest codewords of centred rows, shape (rows, m)."""
        labels: NDArray[np.intp] = self._assigner(centred)
        return labels

    def tally(self, centred: Float32) -> Tally:
        """Return what centred rows say about the codewords."""
        return tally_rows(centred, self.assign(centred), self._centred_centroids)

    def squared_errors(self, centred: Float32, labels: NDArray[np.intp]) -> Float64:
        """Return ||x - c||^2 of each row, summed over its columns; float64 of shape (rows,)."""
        sum_up = kernels.squared_errors if kernels.can_compile() else squared_errors
        errors = sum_up(centred, labels, self._centred_centroids)
        summed: Float64 = errors.sum(axis=1)
        return summed

    @cached_property
    def _centred_centroids(self) -> Float32:
        return self.codebook.centred()

    @cached_property
    def _assigner(self) -> Any:
        return make_assigner(self.codebook, self.route)
