"""What a training takes at most: the search for a rotation, each residual stage, and refining them together."""

from __future__ import annotations

from collections.abc import Iterator

from vqpipe.codebook import CodebookSpec
from vqpipe.kmeans.refine import REFINING_ROUNDS
from vqpipe.kmeans.rotation import TURNING_ROUNDS, rotation_rows
from vqpipe.kmeans.schedule import Schedule


def refining_rounds(schedule: Schedule) -> int:
    """Return how many rounds refine all residual stages together, at most."""
    return min(REFINING_ROUNDS, schedule.rounds)


def planned_legs(spec: CodebookSpec, schedule: Schedule) -> Iterator[tuple[int, ...]]:
    """Yield the rows of each round, leg after leg, if no held-out rows end a leg sooner."""
    if spec.kind == "OPQ":
        yield (rotation_rows(spec.k, schedule.rows),) * TURNING_ROUNDS
    for _ in range(spec.stages):
        yield schedule.batches
    if spec.stages > 1:
        yield (schedule.rows,) * refining_rounds(schedule)


def planned_rounds(spec: CodebookSpec, schedule: Schedule) -> int:
    """Return how many rounds a training takes at most, over all its legs."""
    return sum(len(leg) for leg in planned_legs(spec, schedule))


def planned_rows(spec: CodebookSpec, schedule: Schedule) -> int:
    """Return how many rows these rounds go through."""
    return sum(sum(leg) for leg in planned_legs(spec, schedule))
