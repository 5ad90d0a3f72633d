"""The stages of a sweep that measure: what a codebook leaves of held-out rows, finds, and takes; FAISS's likewise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from vqpipe.dtypes import Int64
from vqpipe.evaluation.neighbours import recall
from vqpipe.pipeline.evaluate import (
    database_rows,
    database_slices,
    find_nearest,
    measure_codebook,
)
from vqpipe.pipeline.fast import settle_route
from vqpipe.pipeline.generation import fingerprint
from vqpipe.pipeline.queries import find_queries, named_files
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.pipeline.trial import known_figures
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.tasks.trial import TrialJob, TrialSearch, search_sampled

# What is kept of a measurement, and of which types: what lacks one of them is measured again.
_KEPT: dict[str, type | tuple[type, ...]] = {
    "distortion": float,
    "relative_distortion": (float, type(None)),
    "distortion_rows": str,
    "in_sample": bool,
    "recall": (dict, type(None)),
    "queries": int,
    "database_rows": int,
    "codewords": int,
    "surplus": list,
    "perplexity": list,
    "dead": list,
    "rows_per_second": float,
}


@dataclass
class Judge:
    """What all codebooks of a sweep are judged by: each query's exact nearest row, found once.

    Attributes
    ----------
    nearest : int64 array of shape (queries,) or None
        None before it was needed.
    """

    nearest: Int64 | None = field(default=None, repr=False)

    def truth(self, run: Run, job: TrialJob) -> Int64:
        """Return each query's exact nearest row."""
        if self.nearest is None:
            # Moved by the sample's mean, as a run's are: what FAISS's codebook is moved by is another point.
            own = replace(job, codebook=run.generation.codebook_path, digest=run.finished_digest())
            self.nearest = find_nearest(run, own)
        return self.nearest


def measure_fingerprint(run: Run, digest: str | None) -> str:
    """Return the fingerprint of a measurement: the queries, the rows searched, the codebook."""
    settings = [run.config.settings("evaluate"), run.config.encode.assign, named_files(run)]
    return fingerprint(settings, run.sample_fingerprint, digest or "")


def measure(run: Run, judge: Judge, codebook: str, digest: str) -> dict[str, Any]:
    """Return the figures of a codebook on the sample: ours, or another's of the same kind.

    Parameters
    ----------
    run : Run
        Of a trial whose sample is finished.
    judge : Judge
    codebook : str
        Path of a ``codebook.zarr``.
    digest : str

    Returns
    -------
    dict
        ``distortion`` and what belongs to it, ``recall``, ``queries`` and ``database_rows`` as evaluate names them;
        use of codewords over the database rows; ``rows_per_second`` that one task encodes.
    """
    sample, (queries, _) = run.finished_sample(), find_queries(run)
    places = max(run.config.evaluate.recall_at) if queries.count else 0
    job = TrialJob(queries, sample, database_rows(run), codebook, digest, places)
    spread = measure_codebook(run, codebook, digest)
    found: TrialSearch = run.runner.fold(search_sampled, database_slices(run, job), job)
    shares = None
    if queries.count:
        truth = judge.truth(run, job)
        asked = truth >= 0
        at = run.config.evaluate.recall_at
        shares = recall(truth[asked], found.nearest.rows[asked], at) if asked.any() else None
    quantizer = read_codebook(codebook).quantizer
    return {
        **spread,
        "recall": shares,
        "queries": queries.count if shares else 0,
        "database_rows": job.database_rows if shares else 0,
        "codewords": quantizer.codebook.k,
        "surplus": quantizer.codebook.surplus,
        "perplexity": found.use.perplexity,
        "dead": found.use.dead,
        "rows_per_second": found.rows / max(found.seconds, 1e-9),
    }


def is_measured(run: Run, stage: str, digest: str | None) -> bool:
    """Say whether a stage of a trial holds the figures of a codebook."""
    record = run.generation.stage(stage)
    wanted = measure_fingerprint(run, digest)
    return run.generation.is_done(stage, wanted) and known_figures(record, _KEPT)


def figures_of(run: Run, stage: str) -> dict[str, Any]:
    """Return the figures that a stage of a trial holds."""
    record = run.generation.stage(stage)
    return {name: record[name] for name in _KEPT}


def in_words(figures: dict[str, Any]) -> str:
    """Return the figures on one line."""
    share = figures["relative_distortion"]
    said = f"distortion {figures['distortion']:.6g}"
    said += "" if share is None else f" ({share:.2%} of the variance)"
    found = [f"recall@{k} {part:.3f}" for k, part in (figures["recall"] or {}).items()]
    return ", ".join([said, *found])


def measure_stage(judge: Judge) -> Stage:
    """Return the stage that measures the codebook of a trial."""
    return Stage("measure", _need, partial(_execute, judge=judge))


def _need(run: Run) -> Need:
    if is_measured(run, "measure", run.digest):
        return Need("done", in_words(figures_of(run, "measure")))
    return Need("to do", "no figures were taken")


def _execute(run: Run, judge: Judge) -> str:
    settle_route(run)
    figures = measure(run, judge, run.generation.codebook_path, run.finished_digest())
    run.generation.mark_done("measure", measure_fingerprint(run, run.digest), **figures)
    return in_words(figures)
