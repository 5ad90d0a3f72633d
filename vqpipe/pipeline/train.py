"""The train stage: rounds of mini-batch k-means, checkpointed, until held-out rows say enough."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np

from vqpipe.codebook import Codebook
from vqpipe.errors import CodebookError
from vqpipe.kmeans.schedule import Schedule
from vqpipe.kmeans.seeding import first_distinct
from vqpipe.kmeans.state import RoundRecord, TrainState
from vqpipe.kmeans.step import take_step
from vqpipe.kmeans.stopping import next_phase
from vqpipe.pipeline.given import read_initial
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.quantizer import Quantizer
from vqpipe.rows import prepare_rows
from vqpipe.shards import batch_slices, plan_shards
from vqpipe.storage.codebook_file import write_codebook
from vqpipe.storage.samples import Sample
from vqpipe.tasks.train import TallyJob, tally_slice

CHECKPOINT_FILE = "checkpoint.npz"

# The contract says at least once a minute; a crash costs this much and one round.
CHECKPOINT_SECONDS = 20.0

_SEEDING_ROWS = 65_536


def need(run: Run) -> Need:
    """Say whether a codebook must be learnt."""
    if run.generation.is_done("train", run.train_fingerprint):
        origin = run.generation.stage("train").get("origin", "trained before")
        return Need("done", f"codebook {run.spec} {origin}")
    if run.given is not None:
        return Need("to do", f"codebook {run.spec} is taken from {run.config.codebook.source}")
    if run.generation.folder.has(CHECKPOINT_FILE):
        return Need("partial", "training was interrupted; it goes on from its checkpoint")
    return Need("to do", run.news or "no codebook was learnt")


def execute(run: Run) -> str:
    """Learn the codebook, or take the one that is given, and write it beside the codes to be."""
    run.generation.folder.create()
    if run.given is not None:
        quantizer, history, origin = run.given, [], f"taken from {run.config.codebook.source}"
    else:
        state = _train(run, run.finished_sample())
        quantizer = Quantizer(state.codebook, run.route)
        history, origin = [asdict(record) for record in state.history], "trained before"
    write_codebook(run.generation.codebook_path, quantizer, history)
    run.generation.mark_done(
        "train", run.train_fingerprint, digest=quantizer.codebook.digest, origin=origin
    )
    run.generation.folder.remove(CHECKPOINT_FILE)
    rounds = f" in {len(history)} rounds" if history else ""
    return f"codebook {run.spec}{rounds}, digest {quantizer.codebook.digest[:12]}"


def _train(run: Run, sample: Sample) -> TrainState:
    schedule = run.schedule_for(sample.rows["train"])
    state = _resume(run) or _begin(run, sample)
    run.progress.begin("train", schedule.rounds, "rounds")
    run.progress.advance(state.round)
    written = time.monotonic()
    while state.phase != "finished":
        state = _round(run, sample, schedule, state)
        if time.monotonic() - written > CHECKPOINT_SECONDS:
            _checkpoint(run, state)
            written = time.monotonic()
    return state


def _round(run: Run, sample: Sample, schedule: Schedule, state: TrainState) -> TrainState:
    """Take one round: tally a batch, step, look at the held-out rows where it is time."""
    rows = sample.rows["train"]
    slices = batch_slices(
        state.round, schedule.batch_rows, run.slice_rows(schedule.batch_rows), rows
    )
    job = TallyJob(sample, "train", Quantizer(state.codebook, run.route))
    tally = run.runner.fold(tally_slice, slices, job)
    decay = schedule.decay if state.phase == "forgetting" else 1.0
    step = take_step(state, tally, decay, run.config.seed)
    heldout = None
    last = step.state.round == schedule.rounds
    if sample.rows["heldout"] and (step.state.round % schedule.check_rounds == 0 or last):
        heldout = _heldout_distortion(run, sample, step.state.codebook)
    record = RoundRecord(
        step.state.round,
        step.state.round * schedule.batch_rows,
        tally.distortion,
        heldout,
        step.dead,
        step.moved,
    )
    shown = "" if heldout is None else f"held-out distortion {heldout:.6g}"
    run.progress.advance(1, shown)
    stepped = step.state.recorded(record)
    phase = next_phase(stepped, schedule, run.config.train.stop)
    if phase == "averaging" != stepped.phase:
        stepped = replace(stepped, averaging_from=stepped.round)
    return replace(stepped, phase=phase)


def _heldout_distortion(run: Run, sample: Sample, codebook: Codebook) -> float:
    rows = sample.rows["heldout"]
    job = TallyJob(sample, "heldout", Quantizer(codebook, run.route))
    slices = list(plan_shards(rows, run.slice_rows(rows)))
    return run.runner.fold(tally_slice, slices, job).distortion


def _begin(run: Run, sample: Sample) -> TrainState:
    """Return the state before the first round, its codewords drawn or taken from ``train.init``.

    Raises
    ------
    CodebookError
        If a KM codebook wants more codewords than there are distinct rows.
    """
    metric, spec = run.config.source.metric, run.spec
    if run.config.train.init is not None:
        return TrainState.begin(read_initial(run.config.train.init, spec, run.source.dim, metric))
    pieces = (prepare_rows(piece, metric)[0] for piece in sample.pieces("train", _SEEDING_ROWS))
    centroids, distinct = first_distinct(pieces, spec.m, spec.k)
    if spec.kind == "KM" and distinct[0] < spec.k:
        raise CodebookError(
            f"codebook {spec}: {spec.k:,} codewords are wanted but the {sample.rows['train']:,} training rows hold "
            f"only {distinct[0]:,} distinct ones; take at most KM{distinct[0]} or give more rows"
        )
    _warn_of_surplus(run, distinct)
    offset = np.zeros(run.source.dim, dtype=np.float32)
    if metric == "l2":
        offset = np.array(sample.mean, dtype=np.float32)
    return TrainState.begin(Codebook(spec.kind, metric, offset, centroids[None]))


def _warn_of_surplus(run: Run, distinct: list[int]) -> None:
    short = [column for column, count in enumerate(distinct) if count < run.spec.k]
    if short:
        run.warn(
            f"codebook {run.spec}: column {', '.join(map(str, short[:5]))}{'...' if len(short) > 5 else ''} has "
            f"fewer distinct sub-vectors ({min(distinct)} the fewest) than its {run.spec.k} codewords; the "
            "surplus stays unused"
        )


def _checkpoint(run: Run, state: TrainState) -> None:
    run.generation.folder.write_bytes(CHECKPOINT_FILE, state.to_bytes())


def _resume(run: Run) -> TrainState | None:
    """Return the state of an interrupted training; None without one, or if its file is damaged."""
    if not run.generation.folder.has(CHECKPOINT_FILE):
        return None
    try:
        return TrainState.from_bytes(run.generation.folder.read_bytes(CHECKPOINT_FILE))
    except Exception as error:
        run.warn(f"{CHECKPOINT_FILE} cannot be read ({error}); training starts over")
        return None


STAGE = Stage("train", need, execute)
