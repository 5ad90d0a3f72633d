"""FAISS beside vqpipe: its own training of the same codebooks on the same sample, measured by the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vqpipe.memory import PROCESS_BYTES
from vqpipe.pipeline.generation import fingerprint
from vqpipe.pipeline.measure import (
    Judge,
    figures_of,
    in_words,
    is_measured,
    measure,
    measure_fingerprint,
)
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.trial import is_codebook, known_figures
from vqpipe.quantizer.faiss_train import ITERATIONS, training_bytes
from vqpipe.tasks.trial import FaissItem, FaissJob, FaissTrained, train_faiss
from vqpipe.versions import versions

FAISS_CODEBOOK = "faiss.zarr"

_KEPT: dict[str, type | tuple[type, ...]] = {"digest": str, "rows": int, "seconds": float}


def faiss_rows(run: Run) -> int:
    """Return how many training rows FAISS learns from: as many as it can hold in a worker's memory."""
    rows, dim = run.finished_sample().rows["train"], run.source.dim
    room = int(run.config.memory_per_worker) - PROCESS_BYTES
    fixed = training_bytes(run.spec, dim, 0)
    each = training_bytes(run.spec, dim, 1) - fixed
    return min(rows, max(0, room - fixed) // each)


def train_peers(runs: Sequence[Run], judge: Judge) -> None:
    """Have FAISS learn what it has not learnt before, a task a codebook, and measure what it learnt.

    A training that fails is warned of and left out: it is no part of what vqpipe does.
    """
    pending = {_path(run): run for run in runs if not _is_trained(run)}
    for path, run in list(pending.items()):
        if faiss_rows(run) < run.spec.k:
            run.warn(f"faiss: memory_per_worker holds too few rows for {run.spec}; it is left out")
            del pending[path]
    if pending:
        _train(pending)
    for run in runs:
        if _is_trained(run) and not is_measured(run, "faiss_measure", _digest(run)):
            _measure(run, judge)


def _train(pending: Mapping[str, Run]) -> None:
    """Have FAISS learn codebooks, each by one task, and keep them as they come."""
    first = next(iter(pending.values()))
    items = [FaissItem(run.spec, faiss_rows(run), path) for path, run in pending.items()]
    job = FaissJob(first.finished_sample(), first.config.source.metric, first.config.seed)
    first.progress.begin("faiss", len(items), "codebooks")
    for outcome in first.runner.map(train_faiss, items, job):
        run = pending[outcome.item.path]
        if outcome.error is not None:
            run.warn(f"faiss: training {run.spec} failed, so it is left out: {outcome.error}")
        else:
            _keep(run, outcome.item, outcome.value())
        first.progress.advance(1, str(run.spec))


def peer_figures(run: Run) -> dict[str, Any] | None:
    """Return the figures of FAISS's codebook; None where there are none."""
    if not (_is_trained(run) and is_measured(run, "faiss_measure", _digest(run))):
        return None
    record = run.generation.stage("faiss")
    figures = figures_of(run, "faiss_measure")
    del figures["rows_per_second"]
    trained = {"train_rows": record["rows"], "train_seconds": record["seconds"]}
    return {**figures, **trained, "digest": record["digest"]}


def _is_trained(run: Run) -> bool:
    """Say whether FAISS's codebook is there: of this sample, seed and version, and of as many rows as may be."""
    record = run.generation.stage("faiss")
    return (
        run.generation.is_done("faiss", _fingerprint(run, faiss_rows(run)))
        and known_figures(record, _KEPT)
        and is_codebook(_path(run), record["digest"])
    )


def _fingerprint(run: Run, rows: int) -> str:
    settings = [str(run.spec), run.config.seed, rows, ITERATIONS, versions().get("faiss-cpu")]
    return fingerprint(settings, run.sample_fingerprint)


def _keep(run: Run, item: FaissItem, trained: FaissTrained) -> None:
    run.generation.mark_done(
        "faiss",
        _fingerprint(run, item.rows),
        digest=trained.digest,
        rows=item.rows,
        seconds=trained.seconds,
    )


def _measure(run: Run, judge: Judge) -> None:
    digest = _digest(run)
    figures = measure(run, judge, _path(run), digest)
    run.generation.mark_done("faiss_measure", measure_fingerprint(run, digest), **figures)
    seconds = float(run.generation.stage("faiss")["seconds"])
    run.progress.finish("faiss", "done", f"{run.spec}: {in_words(figures)}", seconds)


def _digest(run: Run) -> str:
    return str(run.generation.stage("faiss").get("digest"))


def _path(run: Run) -> str:
    return run.generation.folder.file(FAISS_CODEBOOK)
