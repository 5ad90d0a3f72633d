"""Residual stages refined together: rounds over all training rows, after each stage was learnt for itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vqpipe.codebook import Codebook
from vqpipe.kmeans.refine import refine
from vqpipe.kmeans.schedule import Schedule
from vqpipe.kmeans.state import RoundRecord, TrainState
from vqpipe.kmeans.tally import Tally
from vqpipe.memory import refining_bytes
from vqpipe.pipeline.legs import refining_rounds
from vqpipe.pipeline.looks import look_slices, looked
from vqpipe.pipeline.run import Run
from vqpipe.quantizer import Quantizer
from vqpipe.shards import plan_shards
from vqpipe.storage.samples import Sample
from vqpipe.tasks.train import Slice, TallyJob, refine_slice


def begin_refining(state: TrainState) -> TrainState:
    """Return the state before the first round, once the last stage is learnt."""
    begun = TrainState.begin(state.codebook).after(state)
    return replace(begun, phase="refining")


def refine_all(run: Run, sample: Sample, schedule: Schedule, state: TrainState) -> TrainState:
    """Take one round: held-out rows judge the last one, and all training rows say where the next one leads."""
    last, items = state.round == refining_rounds(schedule), []
    if not last:
        size = run.slice_rows(schedule.largest_batch)
        items = [Slice("train", shard) for shard in plan_shards(schedule.rows, size)]
    if state.round:
        items += look_slices(run, sample, state)
    if not items:
        return replace(state, phase="refined")
    job = TallyJob(sample, Quantizer(state.codebook, run.route), run.route)
    result = run.runner.fold(
        refine_slice, items, job, result_bytes=refining_bytes(run.spec, run.source.dim)
    )
    if result.look is not None:
        state = _settled(looked(run, sample, state, result.look), run.config.train.stop)
    if state.phase == "refined" or result.training is None:
        return replace(state, phase="refined")
    return _step(state, result.training)


def _settled(state: TrainState, stop: float) -> TrainState:
    """End where held-out distortion fell by less than ``stop``; where it rose, as it was before."""
    before, now = (record.heldout for record in state.history[-2:])
    if before is None or now is None or now <= before * (1 - stop):
        return state
    codebook = state.codebook if now < before or state.rival is None else state.rival
    return replace(state, codebook=codebook, phase="refined")


def _step(state: TrainState, tally: Tally) -> TrainState:
    codebook = refine(state.codebook, tally)
    record = RoundRecord(
        len(state.history) + 1,
        state.rows_seen + tally.rows,
        tally.distortion,
        None,
        _living(codebook) - len(tally.touched),
        0,
    )
    stepped = replace(state, codebook=codebook, rival=state.codebook, round=state.round + 1)
    return stepped.recorded(record)


def _living(codebook: Codebook) -> int:
    return codebook.stages * codebook.k - int(np.sum(codebook.surplus))
