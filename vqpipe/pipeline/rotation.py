"""The search for an OPQ codebook's rotation: rounds before the streamed training, checkpointed like it."""

from __future__ import annotations

from dataclasses import replace

from vqpipe.codebook import Codebook
from vqpipe.kmeans.rotation import (
    SETTLING_ROUNDS,
    TRIAL_ROUNDS,
    TURNING_ROUNDS,
    rotation_rows,
)
from vqpipe.kmeans.state import RoundRecord, TrainState
from vqpipe.kmeans.step import take_step
from vqpipe.memory import tally_bytes
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.starts import count_distinct, draw_placed, run_one, warn_of_surplus
from vqpipe.quantizer import Quantizer, choose_search
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.samples import Sample
from vqpipe.tasks.rotate import RotationJob, covariance_slice, solve_rotation, turn_slice
from vqpipe.tasks.train import TallyJob


def turn(run: Run, sample: Sample, state: TrainState) -> TrainState:
    """Take one round of the search: codewords to the means of their rows, the rotation to both."""
    slices = _slices(run, sample)
    job = _job(run, sample, state.codebook)
    size = tally_bytes(run.spec, run.source.dim, slices[0].rows) + 8 * run.source.dim**2
    found = run.runner.fold(turn_slice, slices, job, result_bytes=size)
    # Nothing is remembered: a round sees all the rows there are.
    step = take_step(state, found.tally, 0.0, run.config.seed, moves=True)
    codebook = step.state.codebook
    if _turns(state.round):
        cross = RotationJob(found.cross, run.spec.m)
        codebook = codebook.turned(run_one(run, solve_rotation, "nearest", cross))
    record = RoundRecord(
        len(state.history) + 1,
        step.state.round * found.tally.rows,
        found.tally.distortion,
        None,
        step.dead,
        step.moved,
    )
    return _next(run, sample, replace(step.state, codebook=codebook).recorded(record))


def _turns(taken: int) -> bool:
    """Say whether the rotation follows in the round after so many: not at once after a start."""
    since = taken - TRIAL_ROUNDS if taken >= TRIAL_ROUNDS else taken
    return since >= SETTLING_ROUNDS


def _next(run: Run, sample: Sample, state: TrainState) -> TrainState:
    """Return the state that goes on: from the other start, from the better of both, or with training."""
    if state.round == TRIAL_ROUNDS:
        other = _principal_start(run, sample, state.codebook)
        return replace(state, codebook=other, rival=state.codebook)
    if state.round == 2 * TRIAL_ROUNDS and state.rival is not None:
        first, second = (state.history[end - 1].training for end in (TRIAL_ROUNDS, state.round))
        return replace(
            state, codebook=state.rival if first <= second else state.codebook, rival=None
        )
    if state.round < TURNING_ROUNDS:
        return state
    warn_of_surplus(run, count_distinct(state.codebook))
    return TrainState.begin(state.codebook).after(state)


def _principal_start(run: Run, sample: Sample, codebook: Codebook) -> Codebook:
    """Return a codebook along principal axes, its codewords drawn anew."""
    job = _job(run, sample, codebook)
    products = run.runner.fold(
        covariance_slice, _slices(run, sample), job, result_bytes=8 * run.source.dim**2
    )
    rotation = run_one(run, solve_rotation, "principal", RotationJob(products, run.spec.m))
    bare = codebook.turned(rotation)
    seeds, _ = draw_placed(run, sample, bare, first=True)
    return replace(bare, centroids=bare.stored(seeds)[None])


def _slices(run: Run, sample: Sample) -> list[Shard]:
    rows = rotation_rows(run.spec.k, sample.rows["train"])
    return list(plan_shards(rows, run.slice_rows(rows)))


def _job(run: Run, sample: Sample, codebook: Codebook) -> TallyJob:
    return TallyJob(sample, Quantizer(codebook, choose_search(0)), run.route)
