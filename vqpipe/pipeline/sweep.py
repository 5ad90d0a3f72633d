"""A sweep: several codebooks learnt from one sample and measured, FAISS's beside them, to choose by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vqpipe.config import Config
from vqpipe.evaluation.front import Standing, on_front
from vqpipe.pipeline import ingest, sample, train
from vqpipe.pipeline.advice import advise, recall_place
from vqpipe.pipeline.candidates import Candidates, begin_sweep, row_bits
from vqpipe.pipeline.export import plan_files
from vqpipe.pipeline.generation import list_generations, state_of
from vqpipe.pipeline.leftovers import find_leftovers
from vqpipe.pipeline.measure import Judge, figures_of, is_measured, measure_stage
from vqpipe.pipeline.peer import peer_figures, train_peers
from vqpipe.pipeline.pipeline import run_stage
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.survey import Surveyed
from vqpipe.pipeline.sweep_progress import Named
from vqpipe.pipeline.trial import find_trial, known_figures
from vqpipe.progress import Progress
from vqpipe.quantizer.faiss_index import index_bytes
from vqpipe.report import render_sweep
from vqpipe.runner import Runner
from vqpipe.shards import ceil_div
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.lease import PATIENCE, Patience, take_lease
from vqpipe.versions import versions

# What is kept of a training that one process did from its beginning to its end.
_TIMED = {"seconds": float, "workers": int}

PAGE_FILE, FIGURES_FILE = "sweep.html", "sweep.json"


def run_sweep(
    config: Config,
    names: Sequence[str],
    runner: Runner,
    progress: Progress,
    *,
    faiss: bool = True,
    patience: Patience = PATIENCE,
) -> dict[str, Any]:
    """Learn and measure codebooks on one sample, and return what tells them apart.

    What was learnt and measured before, with the same settings, is not done again. The output's generations
    and ``current`` stay as they are.

    Parameters
    ----------
    config, names, runner, progress
        As `begin_sweep` takes them.
    faiss : bool
        Whether FAISS learns them as well.
    patience : Patience
        How long another run's lease on the output is watched.

    Returns
    -------
    dict
        What ``sweep.json`` holds; see `_result`.

    Raises
    ------
    InputError
        For whatever of the user's input is wrong.
    LeaseError
        If a run works in the output.
    StageError
        If a stage fails; what is done stays.
    """
    found = begin_sweep(config, names, runner, progress)
    output = found.runs[0].output
    output.create()
    with take_lease(output, progress.warn, patience) as lease:
        if state_of(list_generations(output)) != found.begun_from:
            # A run worked here in between.
            found = begin_sweep(config, names, runner, progress)
        surveyed = Surveyed(found.runs[0], runner)
        for run in found.runs:
            run.hold(lease)
            run.runner = surveyed
            run.progress = Named(progress, str(run.spec))
        try:
            _sweep(found, progress, faiss=faiss)
        except BaseException:
            _say_kept(found, progress)
            raise
        result = _result(found, faiss=faiss)
        found.folder.write_json(FIGURES_FILE, result)
        found.folder.write_bytes(PAGE_FILE, render_sweep(result).encode())
        return result


def _sweep(found: Candidates, progress: Progress, *, faiss: bool) -> None:
    """Do what is not done."""
    _sweep_leftovers(found)
    for run in found.runs:
        _reopen(found, run)
    if found.runs[0].source.converted is not None:
        run_stage(found.runs[0], ingest.STAGE)
    run_stage(found.runs[0], sample.STAGE)
    judge = Judge()
    for run in found.runs:
        _train(run)
        run_stage(run, measure_stage(judge))
    if faiss:
        train_peers(found.runs, judge)


def _sweep_leftovers(found: Candidates) -> None:
    """Remove what killed processes left half-written."""
    output = found.runs[0].output
    for removal in find_leftovers(output, ()):
        removal.remove(output)


def _reopen(found: Candidates, run: Run) -> None:
    """Go on with the trial of a codebook that is there; else begin it."""
    trial = find_trial(found.folder, run.spec, run.train_fingerprint)
    if trial is not None:
        run.generation = replace(trial, guard=run.may_write)
        return
    run.generation.folder.create()
    run.generation.save()


def _train(run: Run) -> None:
    """Learn the codebook of a trial and keep how long that took, unless an earlier process began it."""
    whole = train.need(run).state == "to do"
    run_stage(run, train.STAGE)
    if "train" in run.seconds:
        record = run.generation.stage("train")
        record["seconds"] = run.seconds["train"] if whole else None
        record["workers"] = run.runner.workers
        run.generation.save()


def _say_kept(found: Candidates, progress: Progress) -> None:
    """Say what a sweep that ends early leaves: what the next one need not do."""
    done = []
    with suppress(Exception):
        done = [str(run.spec) for run in found.runs if is_measured(run, "measure", run.digest)]
    kept = f"{', '.join(done)} learnt and measured" if done else "no codebook is measured yet"
    progress.warn(f"kept in {found.folder.path}: {kept}; the same command goes on from there")


def _result(found: Candidates, *, faiss: bool) -> dict[str, Any]:
    """Return the figures of all codebooks, by rising bits, and what they share.

    Returns
    -------
    dict
        ``output, folder, page, name, metric, seed, source, sample, measured_on, in_sample, queries, workers, choice,
        advice, codebooks, versions, warnings``; of each codebook ``codebook, kind, bits_per_vector,
        bytes_per_vector, ratio, on_front, vqpipe, faiss`` (None where it was left out) and ``full``: what it takes on
        the full source.
    """
    first, drawn = found.runs[0], found.runs[0].finished_sample()
    codebooks = [_line(run, faiss=faiss) for run in found.runs]
    place = recall_place([line["vqpipe"]["recall"] for line in codebooks])
    standings = [_standing(line, place) for line in codebooks]
    for line, is_best in zip(codebooks, on_front(standings), strict=True):
        line["on_front"] = is_best
    choice, advice = advise(codebooks)
    figures = [figures_of(run, "measure") for run in found.runs]
    source = first.source
    return {
        "output": first.output.path,
        "folder": found.folder.path,
        "page": found.folder.file(PAGE_FILE),
        "name": first.config.name,
        "metric": first.config.source.metric,
        "seed": first.config.seed,
        "source": {
            "uri": list(source.uri) if isinstance(source.uri, tuple) else source.uri,
            "rows": source.rows,
            "dim": source.dim,
            "dtype": source.dtype,
            "bytes": source.rows * source.row_bytes,
        },
        "sample": {
            "path": drawn.path,
            "train_rows": drawn.rows["train"],
            "heldout_rows": drawn.rows["heldout"],
            "database_rows": max(one["database_rows"] for one in figures),
            "seconds": first.seconds.get("sample"),
        },
        "measured_on": figures[0]["distortion_rows"],
        "in_sample": figures[0]["in_sample"],
        "queries": max(one["queries"] for one in figures),
        "workers": first.runner.workers,
        "choice": choice,
        "advice": advice,
        "codebooks": codebooks,
        "versions": versions(),
        "warnings": list(dict.fromkeys(said for run in found.runs for said in run.warnings)),
    }


def _standing(line: dict[str, Any], place: str | None) -> Standing:
    ours = line["vqpipe"]
    recall = ours["recall"][place] if place and ours["recall"] else None
    return Standing(line["bits_per_vector"], ours["distortion"], recall)


def _line(run: Run, *, faiss: bool) -> dict[str, Any]:
    """Return what there is to say of one codebook."""
    bits, measured = row_bits(run.spec), figures_of(run, "measure")
    rate = measured.pop("rows_per_second")
    record = run.generation.stage("train")
    ours = {
        **measured,
        "train_rows": run.finished_sample().rows["train"],
        "train_seconds": record["seconds"] if known_figures(record, _TIMED) else None,
        "train_workers": record["workers"] if known_figures(record, _TIMED) else None,
        "rounds": len(read_codebook(run.generation.codebook_path).history),
        "digest": run.finished_digest(),
        "path": run.generation.codebook_path,
    }
    return {
        "codebook": str(run.spec),
        "kind": run.spec.kind,
        "bits_per_vector": bits,
        "bytes_per_vector": bits / 8,
        "ratio": 8 * run.source.row_bytes / bits,
        "on_front": False,
        "vqpipe": ours,
        "faiss": peer_figures(run) if faiss else None,
        "full": _full(run, rate),
    }


def _full(run: Run, rate: float) -> dict[str, Any]:
    """Return what the full source would take, by the rate of one task and the workers there are."""
    codes, rows = run.codes(), run.source.rows
    at_once = max(1, min(run.runner.workers, codes.shard_count))
    codebook = read_codebook(run.generation.codebook_path).quantizer.codebook
    return {
        "rows_per_second": rate,
        "encode_seconds": rows / (rate * at_once),
        "bytes_codes": ceil_div(rows * row_bits(run.spec), 8),
        "bytes_index": sum(
            index_bytes(codebook, file.stop - file.start, with_ids=file.start > 0)
            for file in plan_files(codes, run.spec, run.config.export)
        ),
    }
