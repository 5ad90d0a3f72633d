"""The train stage: rounds of mini-batch k-means, checkpointed, until held-out rows say enough."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from vqpipe.kmeans.schedule import Schedule
from vqpipe.kmeans.state import RoundRecord, TrainState
from vqpipe.kmeans.step import take_step
from vqpipe.kmeans.stopping import next_phase
from vqpipe.kmeans.tally import Tally
from vqpipe.memory import tally_bytes
from vqpipe.pipeline.generation import STAGES_FILE, Generation, list_generations
from vqpipe.pipeline.legs import planned_rounds, planned_rows
from vqpipe.pipeline.looks import look_slices, looked
from vqpipe.pipeline.refine import begin_refining, refine_all
from vqpipe.pipeline.rotation import turn
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sizes import MOST_HELDOUT_ROWS
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.pipeline.starts import begin_next_stage, begin_training, initial_codebook
from vqpipe.pipeline.trial import SWEEP_FOLDER, find_trained
from vqpipe.quantizer import Quantizer, choose_search
from vqpipe.shards import batch_slices, plan_shards
from vqpipe.storage.codebook_file import write_codebook
from vqpipe.storage.samples import Sample, SetName
from vqpipe.tasks.train import CompareJob, Slice, TallyJob, compare_slice, tally_slice

CHECKPOINT_FILE = "checkpoint.npz"
CODEBOOK_FOLDER = "codebook.zarr"

# The contract says at least once a minute; a crash costs this much and one round.
CHECKPOINT_SECONDS = 20.0


def need(run: Run) -> Need:
    """Say whether a codebook must be learnt."""
    there = run.generation.folder.has(CODEBOOK_FOLDER)
    if run.generation.is_done("train", run.train_fingerprint) and not there:
        return Need("to do", f"{CODEBOOK_FOLDER} is gone")
    if run.generation.is_done("train", run.train_fingerprint):
        origin = run.generation.stage("train").get("origin", "trained before")
        return Need("done", f"codebook {run.spec} {origin}")
    earlier = find_same_codebook(run)
    if earlier is not None and not run.generation.folder.has(STAGES_FILE):
        return Need("done", f"codebook {run.spec} is taken over from {earlier.name}")
    if run.given is not None:
        return Need("to do", f"codebook {run.spec} is taken from {run.config.codebook.source}")
    if run.generation.folder.has(CHECKPOINT_FILE):
        return Need("partial", "training was interrupted; it goes on from its checkpoint")
    return Need("to do", run.news or "no codebook was learnt")


def find_same_codebook(run: Run) -> Generation | None:
    """Return an earlier generation, or a sweep's trial, whose codebook this one would learn again."""
    if run.redo & {"train"}:
        return None
    for generation in list_generations(run.output):
        if generation.is_done("train", run.train_fingerprint):
            return generation
    return find_trained(run.output / SWEEP_FOLDER, run.spec, run.train_fingerprint)


def execute(run: Run) -> str:
    """Learn the codebook, or take the one that is given, and write it beside the codes to be."""
    run.generation.folder.create()
    heard, changed = len(run.warnings), None
    if run.given is not None:
        quantizer = replace(run.given, route=run.route)
        history, origin = [], f"taken from {run.config.codebook.source}"
    else:
        sample = run.finished_sample()
        state = _train(run, sample)
        quantizer = Quantizer(state.codebook, run.route)
        changed = _change(run, sample, quantizer)
        history, origin = [asdict(record) for record in state.history], "trained before"
    run.may_write()
    write_codebook(run.generation.codebook_path, quantizer, history)
    run.generation.mark_done(
        "train",
        run.train_fingerprint,
        digest=quantizer.codebook.digest,
        origin=origin,
        warm_start=changed,
        warnings=run.warnings[heard:],
    )
    run.generation.folder.remove(CHECKPOINT_FILE)
    rounds = f" in {len(history)} rounds" if history else ""
    said = f"codebook {run.spec}{rounds}, digest {quantizer.codebook.digest[:12]}"
    if changed is None:
        return said
    rows = "held-out" if changed["rows_are"] == "heldout" else "training"
    return f"{said}; {changed['rows_changed']:.1%} of {rows} rows changed their code"


def _train(run: Run, sample: Sample) -> TrainState:
    schedule = run.schedule_for(sample.rows["train"])
    state = _resume(run) or begin_training(run, sample)
    planned = planned_rows(run.spec, schedule)
    run.progress.begin("train", planned, "rows", done=state.rows_seen)
    written = time.monotonic()
    while True:
        seen = state.rows_seen
        if state.phase == "turning":
            state = turn(run, sample, state)
        elif state.phase == "refining":
            state = refine_all(run, sample, schedule, state)
        elif state.phase == "refined":
            return state
        else:
            state, tally = _fan_out(run, sample, schedule, state)
            if tally is not None:
                state = _step(run, schedule, state, tally)
                # It may be as large as the codebook, and the next one is on its way.
                del tally
            elif state.codebook.stages < run.spec.stages:
                state = begin_next_stage(run, sample, state)
            elif run.spec.stages > 1:
                state = begin_refining(state)
            else:
                return state
        run.progress.advance(state.rows_seen - seen, _in_words(run, schedule, state))
        if time.monotonic() - written > CHECKPOINT_SECONDS:
            _checkpoint(run, state)
            written = time.monotonic()


def _fan_out(
    run: Run, sample: Sample, schedule: Schedule, state: TrainState
) -> tuple[TrainState, Tally | None]:
    """Tally the next batch, and look at the rows that judge the codewords where that is due.

    Both are against the same codewords, so they go out together.

    Returns
    -------
    state : TrainState
        As given, with what was seen on the last line of history, and in the phase that follows from it.
    tally : Tally or None
        None after the last round.
    """
    finished, items = state.phase == "finished", []
    if not finished:
        batch = schedule.batches[state.round]
        slices = batch_slices(
            schedule.starts[state.round], batch, run.slice_rows(batch), schedule.rows
        )
        items = [Slice("train", shard) for shard in slices]
    if state.round and (finished or schedule.looks_after(state.round)):
        items += look_slices(run, sample, state)
    if not items:
        return state, None
    quantizer = Quantizer(state.codebook, choose_search(state.probes))
    job = TallyJob(sample, quantizer, run.route)
    rows = max(item.shard.rows for item in items)
    size = tally_bytes(run.spec, run.source.dim, rows)
    result = run.runner.fold(tally_slice, items, job, result_bytes=size)
    if result.look is not None:
        state = looked(run, sample, state, result.look)
        state = next_phase(state, schedule, run.config.train.stop)
    return state, result.training


def _step(run: Run, schedule: Schedule, state: TrainState, tally: Tally) -> TrainState:
    """Take one step and say which phase follows."""
    forgetting = state.phase == "forgetting"
    decay = (schedule.decay if forgetting else schedule.averaging_decay)(state.round)
    step = take_step(state, tally, decay, run.config.seed, moves=forgetting)
    taken = step.state.round
    record = RoundRecord(
        len(state.history) + 1,
        state.rows_before + schedule.starts[taken],
        tally.distortion,
        None,
        step.dead,
        step.moved,
    )
    return next_phase(step.state.recorded(record), schedule, run.config.train.stop)


def _in_words(run: Run, schedule: Schedule, state: TrainState) -> str:
    """Return how far training is: rounds, and what held-out rows said last."""
    said = f"round {len(state.history)} of at most {planned_rounds(run.spec, schedule)}"
    looks = [record.heldout for record in state.history if record.heldout is not None]
    return f"{said}, held-out distortion {looks[-1]:.6g}" if looks else said


def _change(run: Run, sample: Sample, learnt: Quantizer) -> dict[str, Any] | None:
    """Return how many held-out rows have another code than under ``train.init``."""
    if run.config.train.init is None:
        return None
    name: SetName = "heldout" if sample.rows["heldout"] else "train"
    rows = min(sample.rows[name], max(sample.rows["heldout"], MOST_HELDOUT_ROWS))
    before = Quantizer(initial_codebook(run), run.route)
    found = run.runner.fold(
        compare_slice,
        list(plan_shards(rows, run.slice_rows(rows))),
        CompareJob(sample, name, before, learnt),
    )
    return {
        "from": before.codebook.digest,
        "rows": found.rows,
        "rows_are": name,
        "rows_changed": found.changed / found.rows,
        "codes_changed": [count / found.rows for count in found.changed_codes.tolist()],
    }


def _checkpoint(run: Run, state: TrainState) -> None:
    run.may_write()
    with run.generation.folder.writing(CHECKPOINT_FILE) as file:
        state.write(file)


def _resume(run: Run) -> TrainState | None:
    """Return the state of an interrupted training; None without one, or if its file is damaged."""
    if not run.generation.folder.has(CHECKPOINT_FILE):
        return None
    try:
        with run.generation.folder.reading(CHECKPOINT_FILE) as file:
            return TrainState.read(file)
    except Exception as error:
        run.warn(f"{CHECKPOINT_FILE} cannot be read ({error}); training starts over")
        return None


def kept(run: Run) -> str:
    """Say what an interrupted training leaves."""
    return f"training goes on from its last checkpoint, one every {CHECKPOINT_SECONDS:.0f} s"


STAGE = Stage("train", need, execute, kept=kept)
