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


def plan_rounds(spec: CodebookSpec, schedule: Schedule) -> Iterator[tuple[int, int]]:
    """Yield each round's rows, and how many rows are cut into slices as large as its, if no held-out rows end a leg."""
    if spec.kind == "OPQ":
        turned = rotation_rows(spec.k, schedule.rows)
        yield from [(turned, turned)] * TURNING_ROUNDS
    for _ in range(spec.stages):
        yield from ((batch, batch) for batch in schedule.batches)
    if spec.stages > 1:
        # As large as slices of a batch, however many there are: they take the memory that is planned for those.
        yield from [(schedule.rows, schedule.largest_batch)] * refining_rounds(schedule)


def planned_rounds(spec: CodebookSpec, schedule: Schedule) -> int:
    """Return how many rounds a training takes at most, over all its legs."""
    return sum(1 for _ in plan_rounds(spec, schedule))


def planned_rows(spec: CodebookSpec, schedule: Schedule) -> int:
    """Return how many rows these rounds go through."""
    return sum(rows for rows, _ in plan_rounds(spec, schedule))
