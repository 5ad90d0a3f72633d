"""The quantizer: a codebook plus the route by which rows find their codewords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe import kernels
from vqpipe.codebook import Codebook
from vqpipe.dtypes import Codes, Float32, Float64, Labels
from vqpipe.errors import CodebookError, InvalidRowError
from vqpipe.kmeans.tally import (
    Tally,
    residual_errors,
    squared_errors,
    tally_left,
    tally_rows,
)
from vqpipe.quantizer.assign import Route, make_assigner
from vqpipe.quantizer.beam import make_beam_search
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
        """Place prepared rows where they are compared, and return them: offset subtracted, rotated.

        What is given is spent.
        """
        rows -= self.codebook.offset
        return self.rotate(rows)

    def rotate(self, moved: Float32) -> Float32:
        """Rotate rows from which the offset was subtracted; the same array where there is no rotation.

        In blocks of the route: a product's last bits depend on the rows that it has.
        """
        if self.codebook.rotation is None:
            return moved
        size = self.route.block_rows
        rotated = np.empty_like(moved)
        for start in range(0, len(moved), size):
            block = moved[start : start + size]
            found = len(block)
            if found < size:
                block = np.concatenate(
                    [block, np.zeros((size - found, moved.shape[1]), np.float32)]
                )
            rotated[start : start + found] = (block @ self._turning)[:found]
        return rotated

    def assign(self, centred: Float32) -> Labels:
        """Return the codewords of placed rows, shape (rows, columns).

        Those of the nearest in each column; over several stages, those that the beam search finds.
        """
        if self.codebook.stages > 1:
            return self._beam_search(centred)[:, 0]
        return self._assigner(centred)

    def tally(self, centred: Float32) -> Tally:
        """Return what placed rows say about the last stage's codewords.

        After other stages it is learnt from what each choice in the beam leaves of a row, as FAISS does: it
        will have to follow all of them. (Learnt from the best choices alone, 8 stages ended 5% worse.)
        """
        left = centred
        if self.codebook.stages > 1:
            left = self._before.residuals(centred, every=True)
        return tally_rows(left, self._assigner(left), self._centred_centroids)

    def tally_all(self, centred: Float32) -> Tally:
        """Return what placed rows say about the codewords of all stages together."""
        labels = self.assign(centred)
        left = centred - self.codebook.decode_placed(labels)
        return tally_left(left, labels, self.codebook.k)

    def residuals(self, centred: Float32, *, every: bool) -> Float32:
        """Return what the codewords of placed rows leave of them.

        Parameters
        ----------
        centred : float32 array of shape (rows, dim)
        every : bool
            Whether for every choice in the beam, row after row, or for the best alone.
        """
        labels = self._beam_search(centred)
        labels = labels if every else labels[:, :1]
        left = np.repeat(centred, labels.shape[1], axis=0)
        left -= self.codebook.decode_placed(labels.reshape(len(left), -1))
        return left

    @cached_property
    def _before(self) -> Quantizer:
        """The quantizer of all stages but the last."""
        return replace(self, codebook=self.codebook.first_stages(self.codebook.stages - 1))

    def squared_errors(self, centred: Float32, labels: Labels) -> Float64:
        """Return ||x - c||^2 of each row, summed over its columns; float64 of shape (rows,).

        From placed rows: a rotation changes no length.
        """
        if self.codebook.stages > 1:
            return residual_errors(centred, labels, self.codebook.every_centred)
        sum_up = kernels.squared_errors if kernels.can_compile() else squared_errors
        errors = sum_up(centred, labels, self._centred_centroids)
        summed: Float64 = errors.sum(axis=1)
        return summed

    @cached_property
    def _centred_centroids(self) -> Float32:
        """Of the last stage."""
        return self.codebook.centred(-1)

    @cached_property
    def _turning(self) -> Float32:
        """The rotation as rows are multiplied with it."""
        rotation = self.codebook.rotation
        return np.empty(0, np.float32) if rotation is None else np.ascontiguousarray(rotation.T)

    @cached_property
    def _assigner(self) -> Callable[[Float32], Labels]:
        return make_assigner(self._centred_centroids, self.route)

    @cached_property
    def _beam_search(self) -> Callable[[Float32], Labels]:
        return make_beam_search(self.codebook.every_centred[:, 0])
