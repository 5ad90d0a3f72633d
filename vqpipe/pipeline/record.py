"""``run.json`` and the summary: what a run is, and what came of it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from vqpipe.errors import OutputError, VqpipeError
from vqpipe.pipeline.evaluate import evaluate_fingerprint
from vqpipe.pipeline.generation import EVALUATION_FILE
from vqpipe.pipeline.run import Run
from vqpipe.retries import try_again
from vqpipe.storage.codes import find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import PATIENCE
from vqpipe.versions import versions

RUN_FILE = "run.json"

# What the summary has of `evaluation.json`, under the same names.
FIGURES = (
    "distortion",
    "relative_distortion",
    "codewords",
    "surplus",
    "perplexity",
    "dead",
    "starved",
    "imbalance",
    "recall",
    "drift",
)

# A look at the lease that is younger says enough right after it was taken.
LOOK_SECONDS = 1.0

Status = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class StageReport:
    """What became of one stage."""

    name: str
    status: Literal["done", "skipped", "failed"]
    reason: str
    seconds: float


def begin_record(run: Run) -> None:
    """Write ``run.json`` before the first stage."""
    earlier = read_run_file(run.output)
    began: dict[str, Any] = {
        "began": _now(),
        "ended": None,
        "error": None,
        "stages": [],
        "work": {},
        "summary": None,
    }
    rates = earlier.get("rows_per_second", {})
    # The lease was taken a moment ago.
    run.may_write(LOOK_SECONDS)
    run.output.write_json(RUN_FILE, {**_facts(run, "running"), **began, "rows_per_second": rates})


def end_record(
    run: Run, status: Status, reports: list[StageReport], error: VqpipeError | None = None
) -> dict[str, Any]:
    """Write ``run.json`` after the last stage and return the summary.

    A disk that refuses the record must not hide what the run itself failed of. Where another run has taken the
    output over, the record is its own.
    """
    earlier = read_run_file(run.output)
    found = summary(run, reports)
    rates = dict(earlier.get("rows_per_second", {}))
    for name, rows in run.rows_done.items():
        if run.seconds.get(name) and rows:
            rates[name] = rows / run.seconds[name]
    ended = {
        "began": earlier.get("began"),
        "ended": _now(),
        "error": None if error is None else str(error),
        "stages": found["stages"],
        "work": _work(run),
        "summary": found,
        "rows_per_second": rates,
    }
    try:
        # A run that did nothing has nothing to lose by an older look, and asks a store once less.
        if run.lease is None or run.lease.holds(0.0 if run.seconds else PATIENCE.beat_seconds):
            try_again(run.output.write_json, RUN_FILE, {**_facts(run, status), **ended})
    except OSError as refused:
        run.warn(f"{RUN_FILE} cannot be written: {refused}")
    return found


def _work(run: Run) -> dict[str, dict[str, float]]:
    """Return what each stage that ran went through and took: rows, seconds, memory, and its tasks' seconds together."""
    work: dict[str, dict[str, float]] = {}
    for name, seconds in run.seconds.items():
        work[name] = {"seconds": seconds}
        if name in run.rows_done:
            rows = run.rows_done[name]
            work[name] |= {"rows": rows, "rows_per_second": rows / max(seconds, 1e-9)}
        work[name] |= run.memory_bytes.get(name, {})
        if name in run.task_seconds:
            tasks = run.task_seconds[name]
            clock, cpu = (sum(part) for part in zip(*tasks, strict=True)) if tasks else (0.0, 0.0)
            work[name] |= {"tasks": len(tasks), "task_seconds": clock, "task_cpu_seconds": cpu}
    return work


def _facts(run: Run, status: Status) -> dict[str, Any]:
    return {
        "name": run.config.name,
        "status": status,
        "generation": run.generation.name,
        "process": os.getpid(),
        "config": run.config.plain(),
        "source": {**run.generation.facts["source"], "rows_now": run.source.rows},
        "versions": versions(),
    }


def read_run_file(output: Folder) -> dict[str, Any]:
    """Return what ``run.json`` says; nothing if there is none or it is damaged: the next run writes it anew."""
    try:
        return output.read_json(RUN_FILE) if output.has(RUN_FILE) else {}
    except OutputError:
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def summary(run: Run, reports: list[StageReport]) -> dict[str, Any]:
    """Return what ``--json`` prints. Figures are of the codes as they are, or left out."""
    figures: dict[str, Any] = {}
    stored = 0
    codes = find_codes(run.generation.codes_path)
    if codes is not None:
        stored = int(run.records().stored_bytes.sum())
        if run.generation.is_done("evaluate", evaluate_fingerprint(run)):
            figures = run.generation.folder.read_json(EVALUATION_FILE)
    return {
        "output": run.output.path,
        "generation": run.generation.name,
        "stages": [asdict(report) for report in reports],
        "rows": run.source.rows,
        "masked_rows": figures.get("masked_rows", 0),
        "bytes_in": run.source.rows * run.source.row_bytes,
        "bytes_codes": stored,
        **{name: figures.get(name) for name in FIGURES},
        "warm_start": run.generation.stage("train").get("warm_start"),
        "warnings": list(run.warnings),
    }
