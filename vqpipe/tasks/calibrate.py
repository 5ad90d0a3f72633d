"""Calibration: the assignment route is chosen where rows will be assigned."""

from __future__ import annotations

from dataclasses import dataclass

from vqpipe.codebook import CodebookSpec
from vqpipe.quantizer import Route, calibrate_route


@dataclass(frozen=True, slots=True)
class CalibrateJob:
    """The shape of the codebook to be."""

    spec: CodebookSpec
    dim: int


def calibrate(item: None, job: CalibrateJob) -> Route:
    """Return the route for a shape on this worker's CPU, on one thread as all tasks run."""
    return calibrate_route(job.spec, job.dim)
