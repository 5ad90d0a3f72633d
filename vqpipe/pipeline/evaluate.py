"""The evaluate stage: how good the codebook and the codes are."""

from __future__ import annotations

from typing import Any

import numpy as np

from vqpipe.dtypes import Int64
from vqpipe.evaluation.health import find_poor_use
from vqpipe.evaluation.measures import CodeUse, Spread
from vqpipe.evaluation.neighbours import recall
from vqpipe.pipeline.drift import (
    News,
    find_news,
    keep_baseline,
    measure_drift,
    warn_of_drift,
)
from vqpipe.pipeline.generation import EVALUATION_FILE, fingerprint, say_changes
from vqpipe.pipeline.queries import find_queries, query_file, truth_file
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.shards import ceil_div, plan_shards
from vqpipe.storage.code_use import has_use, write_use
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.samples import SetName
from vqpipe.tasks.evaluate import (
    CodeSearch,
    MeasureJob,
    Queries,
    SearchJob,
    measure_slice,
    search_codes,
    search_exact,
)

MOST_TASKS = 256

# A slice of the database: two copies of it in float32 are held.
DATABASE_SLICE_BYTES = 64 << 20


def evaluate_fingerprint(run: Run) -> str:
    """Return the fingerprint: the shards' records, the settings, and the files they name."""
    files = [
        (file.uri, list(file.stamps(0, file.rows)))
        for file in (query_file(run), truth_file(run))
        if file is not None
    ]
    before = (run.records().digest, run.sample_fingerprint, run.encode_fingerprint)
    return fingerprint([run.config.settings("evaluate"), files], *before)


def need(run: Run) -> Need:
    """Say whether figures must be taken."""
    if run.digest is None or find_codes(run.generation.codes_path) is None:
        return Need("to do", "follows from encode")
    if "evaluate" in run.redo:
        return Need("to do", "forced")
    if run.generation.is_done("evaluate", evaluate_fingerprint(run)):
        if not (run.generation.folder.has(EVALUATION_FILE) and has_use(run.finished_codes().path)):
            return Need("to do", "the figures are gone")
        return Need("done", "neither the codes nor the evaluate settings have changed")
    if run.generation.stage("evaluate"):
        was = run.generation.stage("evaluate").get("settings", {})
        changes = say_changes("evaluate", was, run.config.settings("evaluate"))
        return Need("to do", changes or "the codes, the queries or their truth have changed")
    return Need("to do", "no figures were taken")


def execute(run: Run) -> str:
    """Measure distortion, count codes, search, and write ``evaluation.json``."""
    codes, heard = run.finished_codes(), len(run.warnings)
    queries, truth = find_queries(run)
    news = find_news(run, codes)
    found, nearest = _search(run, codes, queries, truth, news)
    facts = {
        **_distortion(run, codes, found.valid_rows),
        "rows": codes.rows,
        "masked_rows": codes.rows - found.valid_rows,
        **_use(run, found.use, codes.rows),
        "recall": None,
        "queries": queries.count,
        "database_rows": 0,
    }
    facts["drift"] = measure_drift(run, codes, news, found.new_use, facts)
    asked = np.zeros(0, dtype=bool) if nearest is None else nearest >= 0
    if nearest is not None and asked.any():
        facts["recall"] = recall(
            nearest[asked], found.nearest.rows[asked], run.config.evaluate.recall_at
        )
        facts["queries"] = int(asked.sum())
        facts["database_rows"] = found.valid_rows if truth is not None else _database_rows(run)
    run.rows_done["evaluate"] = codes.rows
    run.may_write()
    write_use(codes.path, found.use.counts)
    run.generation.folder.write_json(EVALUATION_FILE, facts)
    keep_baseline(run, codes, found.use)
    # What is poor about the figures is said for as long as they stand.
    warnings = run.warnings[heard:]
    settings = run.config.settings("evaluate")
    run.generation.mark_done(
        "evaluate", evaluate_fingerprint(run), warnings=warnings, settings=settings
    )
    return _in_words(facts)


def _in_words(facts: dict[str, Any]) -> str:
    parts = [f"distortion {facts['distortion']:.6g}"]
    if facts["relative_distortion"] is not None:
        parts[0] += f" ({facts['relative_distortion']:.2%} of the variance)"
    if facts["recall"]:
        parts += [f"recall@{k} {share:.3f}" for k, share in facts["recall"].items()]
    return ", ".join(parts)


def _use(run: Run, use: CodeUse, rows: int) -> dict[str, Any]:
    """Return how codewords are used, and warn where that is poor."""
    codebook = read_codebook(run.generation.codebook_path).quantizer.codebook
    surplus = codebook.surplus
    findings = find_poor_use(use, surplus)
    if findings:
        listed = "; ".join(map(str, findings))
        run.warn(
            f"codebook {run.spec}: codewords are used poorly: {listed}; so its codes tell rows apart less "
            f"well than codes of their size can; {_remedy(run, rows)}"
        )
    return {
        "codewords": codebook.k,
        "surplus": surplus,
        "perplexity": use.perplexity,
        "dead": use.dead,
        "starved": use.starved,
        "imbalance": use.imbalance,
    }


def _remedy(run: Run, rows: int) -> str:
    if run.given is not None:
        return f"it was learnt elsewhere: learn one from these rows (codebook: {run.spec})"
    if rows > run.rows_at_begin:
        return f"it was learnt when there were {run.rows_at_begin:,} rows: learn it again with --force train"
    return (
        "if many rows are alike there, a codebook of fewer codewords does as well; otherwise train on more rows "
        "(train.rows) or longer (train.rounds, train.stop)"
    )


def _distortion(run: Run, codes: CodeArray, valid_rows: int) -> dict[str, Any]:
    """Return distortion over all rows, from the records, and over held-out rows, measured."""
    over_all = float(run.records().squared_error.sum()) / max(1, valid_rows)
    facts: dict[str, Any] = {
        "distortion": over_all,
        "relative_distortion": None,
        "distortion_rows": "all",
        "in_sample": False,
        "distortion_all_rows": over_all,
    }
    if run.given is not None:
        return facts
    sample = run.finished_sample()
    name: SetName = "heldout" if sample.rows["heldout"] else "train"
    rows = min(sample.rows[name], max(sample.rows["heldout"], 10_000))
    job = MeasureJob(sample, name, run.generation.codebook_path, run.finished_digest())
    spread: Spread = run.runner.fold(
        measure_slice, list(plan_shards(rows, run.slice_rows(rows))), job
    )
    return {
        **facts,
        "distortion": spread.distortion,
        "relative_distortion": spread.relative_distortion,
        "distortion_rows": name,
        "in_sample": name == "train",
    }


def _search(
    run: Run, codes: CodeArray, queries: Queries, truth: Int64 | None, news: News | None
) -> tuple[CodeSearch, Int64 | None]:
    """Go once through all codes; also find each query's exact nearest row, unless it is given.

    Returns
    -------
    found : CodeSearch
    nearest : int64 array of shape (queries,) or None
        None where recall is left out; -1 for a query without any row to find.
    """
    wanted = queries.count > 0
    all_rows = truth is not None
    sample = None if all_rows or not wanted else run.finished_sample()
    job = SearchJob(
        queries,
        max(run.config.evaluate.recall_at) if wanted else 0,
        sample,
        _database_rows(run) if sample else 0,
        codes,
        run.generation.codebook_path,
        run.finished_digest(),
        () if news is None else news.shards,
    )
    run.progress.begin("evaluate", codes.rows, "rows")
    stretch = codes.shard_rows * ceil_div(codes.shard_count, MOST_TASKS)
    found = run.runner.fold(search_codes, list(plan_shards(codes.rows, stretch)), job)
    run.progress.advance(codes.rows)
    if not wanted:
        return found, None
    if truth is not None:
        return found, truth
    slices = list(
        plan_shards(job.database_rows, max(1, DATABASE_SLICE_BYTES // (4 * run.source.dim)))
    )
    return found, run.runner.fold(search_exact, slices, job).rows[:, 0]


def _database_rows(run: Run) -> int:
    there = run.finished_sample().rows["database"]
    wanted = run.config.evaluate.rows
    return there if wanted == "auto" else min(there, wanted)


STAGE = Stage("evaluate", need, execute, warn_of_drift)
