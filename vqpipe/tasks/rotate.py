"""Seeking the rotation of an OPQ codebook: one slice of its rows, and the one small problem that they add up to."""

from __future__ import annotations

from dataclasses import dataclass

from vqpipe.dtypes import Float32, Float64
from vqpipe.kmeans.rotation import cross_products, nearest_rotation, principal_rotation
from vqpipe.kmeans.tally import Tally, tally_rows
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard
from vqpipe.tasks.train import TallyJob


@dataclass(frozen=True, eq=False)
class Turn:
    """What rows say about codewords and rotation.

    Attributes
    ----------
    tally : Tally
        Of the rows as they are rotated now.
    cross : float64 array of shape (dim, dim)
        Products of the centred rows, not rotated, with what they are decoded to.
    """

    tally: Tally
    cross: Float64

    def __add__(self, other: Turn) -> Turn:
        """Return what the rows of both say."""
        return Turn(self.tally + other.tally, self.cross + other.cross)


def turn_slice(shard: Shard, job: TallyJob) -> Turn:
    """Find the codewords of a slice of training rows and say where they pull codewords and rotation."""
    rows = _centred(shard, job)
    codebook = job.quantizer.codebook
    rotated = job.quantizer.rotate(rows)
    labels = job.quantizer.assign(rotated)
    tally = tally_rows(rotated, labels, codebook.centred())
    return Turn(tally, cross_products(rows, codebook.decode_placed(labels)))


def covariance_slice(shard: Shard, job: TallyJob) -> Float64:
    """Return the summed products of the dims of a slice of training rows, float64 of shape (dim, dim)."""
    rows = _centred(shard, job)
    return cross_products(rows, rows)


def _centred(shard: Shard, job: TallyJob) -> Float32:
    codebook = job.quantizer.codebook
    stored = job.sample.vectors("train", shard.start, shard.stop)
    rows: Float32 = prepare_rows(stored, codebook.metric)[0] - codebook.offset
    return rows


@dataclass(frozen=True, eq=False)
class RotationJob:
    """A matrix of products, and how many sub-vectors share the axes."""

    products: Float64
    m: int


def solve_rotation(problem: str, job: RotationJob) -> Float32:
    """Return the rotation that follows from a matrix of products: the ``nearest``, or the ``principal`` one.

    A task of its own, since only tasks run on one thread: the threads' number would show in the last bits.
    """
    if problem == "nearest":
        return nearest_rotation(job.products)
    return principal_rotation(job.products, job.m)
