"""The pipeline: the stages in order, each run if it must be, and what came of them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from vqpipe.config import Config
from vqpipe.errors import OutputError, StageError, VqpipeError
from vqpipe.pipeline import encode, evaluate, export, ingest, report, sample, train
from vqpipe.pipeline.begin import begin_run, establish
from vqpipe.pipeline.generation import current_name, set_current
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Stage
from vqpipe.pipeline.versions import versions
from vqpipe.progress import Progress
from vqpipe.runner import Runner

RUN_FILE = "run.json"

ROUTE: tuple[Stage, ...] = (
    ingest.STAGE,
    sample.STAGE,
    train.STAGE,
    encode.STAGE,
    evaluate.STAGE,
    export.STAGE,
    report.STAGE,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageReport:
    """What became of one stage."""

    name: str
    status: Literal["done", "skipped", "failed"]
    reason: str
    seconds: float


def stages_until(until: str | None) -> tuple[Stage, ...]:
    """Return the stages up to and with the one named; all of them for None."""
    names = [stage.name for stage in ROUTE]
    return ROUTE if until is None else ROUTE[: names.index(until) + 1]


def run_pipeline(
    config: Config,
    runner: Runner,
    progress: Progress,
    *,
    until: str | None = None,
    force: str | None = None,
    call: Callable[[Run, Stage, str | None], StageReport] | None = None,
) -> dict[str, Any]:
    """Run the stages that must run and return the summary.

    Parameters
    ----------
    config : Config
    runner : Runner
    progress : Progress
    until : str, optional
        The last stage to run; ``current`` is then left where it is.
    force : str, optional
        A stage to take as never done.
    call : callable, optional
        How a stage is run, `run_stage` unless an orchestrator wraps it.

    Raises
    ------
    InputError
        For whatever of the user's input is wrong.
    StageError
        If a stage fails; the output is a valid resume point.
    """
    run = begin_run(config, runner, progress, force)
    open_output(run)
    reports: list[StageReport] = []
    try:
        for stage in stages_until(until):
            reports.append((call or run_stage)(run, stage, until))  # noqa: PERF401
    except VqpipeError as error:
        close_output(run, reports, error)
        raise
    return close_output(run, reports)


def run_stage(run: Run, stage: Stage, until: str | None = None) -> StageReport:
    """Run one stage if it must run.

    Raises
    ------
    InputError
        As it comes: the message is for the user.
    StageError
        In place of any other error, saying how to go on.
    """
    began = time.perf_counter()
    try:
        need = stage.need(run)
        if need.state == "done" and not (stage.name in run.redo and stage.name != "ingest"):
            report = StageReport(stage.name, "skipped", need.reason, 0.0)
        else:
            _log.info("%s: %s", stage.name, need.reason)
            done = stage.execute(run)
            seconds = time.perf_counter() - began
            run.seconds[stage.name] = seconds
            report = StageReport(stage.name, "done", f"{done} ({need.reason})", seconds)
        if stage.name == "export" and until is None:
            publish(run)
    except BaseException as error:
        seconds = time.perf_counter() - began
        run.progress.finish(stage.name, "failed", str(error), seconds)
        if isinstance(error, VqpipeError) or not isinstance(error, Exception):
            raise
        raise _wrapped(run, stage.name, error) from error
    run.progress.finish(stage.name, report.status, report.reason, report.seconds)
    return report


def _wrapped(run: Run, stage: str, error: Exception) -> VqpipeError:
    if isinstance(error, PermissionError):
        return OutputError(
            f"{stage}: {error.filename or run.output.path} may not be written ({error.strerror}); give the user "
            "who runs this the right to, then run again: what is done stays"
        )
    return StageError(
        stage,
        f"{type(error).__name__}: {error}; what is done stays in {run.output.path}: mend the cause and run again "
        "to go on",
    )


def publish(run: Run) -> None:
    """Point readers at the generation, now that it is complete."""
    if current_name(run.output) != run.generation.name:
        set_current(run.output, run.generation.name)


def open_output(run: Run) -> None:
    """Write down that a run has begun, before its first stage."""
    establish(run)
    run.output.write_json(RUN_FILE, _record(run, "running", [], None))


def close_output(
    run: Run, reports: list[StageReport], error: VqpipeError | None = None
) -> dict[str, Any]:
    """Write down how a run ended and return its summary."""
    found = summary(run, reports)
    status = "done" if error is None else "failed"
    run.output.write_json(RUN_FILE, _record(run, status, reports, found, error))
    return found


def _record(
    run: Run,
    status: str,
    reports: list[StageReport],
    found: dict[str, Any] | None,
    error: VqpipeError | None = None,
) -> dict[str, Any]:
    earlier = run.output.read_json(RUN_FILE) if run.output.has(RUN_FILE) else {}
    rates = dict(earlier.get("rows_per_second", {}))
    rows = {"sample": run.rows_at_begin, "encode": run.source.rows, "evaluate": run.source.rows}
    if found is not None and error is None:
        for name, seconds in run.seconds.items():
            if name in rows and seconds > 0:
                rates[name] = rows[name] / seconds
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "name": run.config.name,
        "status": status,
        "generation": run.generation.name,
        "began": now if status == "running" else earlier.get("began", now),
        "ended": None if status == "running" else now,
        "error": None if error is None else str(error),
        "process": os.getpid(),
        "config": run.config.plain(),
        "source": {**run.generation.facts["source"], "rows_now": run.source.rows},
        "versions": versions(),
        "stages": [asdict(report) for report in reports],
        "rows_per_second": rates,
        "summary": found,
    }


def summary(run: Run, reports: list[StageReport]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    folder = run.generation.folder
    figures: dict[str, Any] = {}
    if folder.has(evaluate.EVALUATION_FILE):
        figures = folder.read_json(evaluate.EVALUATION_FILE)
    stored = 0
    if folder.has("codes.zarr"):
        stored = int(run.finished_codes().records().stored_bytes.sum())
    return {
        "output": run.output.path,
        "generation": run.generation.name,
        "stages": [asdict(report) for report in reports],
        "rows": run.source.rows,
        "masked_rows": figures.get("masked_rows", 0),
        "bytes_in": run.source.rows * run.source.row_bytes,
        "bytes_codes": stored,
        **{
            name: figures.get(name)
            for name in ("distortion", "relative_distortion", "perplexity", "recall")
        },
        "warnings": list(run.warnings),
    }
