"""The pipeline: the stages in order, each run if it must be, and what came of them."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from vqpipe.config import STAGES, Config
from vqpipe.errors import ConfigError, OutputError, StageError, VqpipeError, WorkerError
from vqpipe.logs import about
from vqpipe.pipeline import encode, evaluate, export, ingest, report, sample, train
from vqpipe.pipeline.begin import begin_run, establish
from vqpipe.pipeline.generation import current_name, list_generations, set_current, state_of
from vqpipe.pipeline.leftovers import sweep, was_cut_short
from vqpipe.pipeline.record import StageReport, begin_record, end_record
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Stage
from vqpipe.pipeline.survey import Surveyed, measure_memory
from vqpipe.progress import Progress
from vqpipe.retries import try_again
from vqpipe.runner import Runner
from vqpipe.storage.lease import PATIENCE, Patience, take_lease
from vqpipe.storage.objects.view import looking_anew, viewing

ROUTE: tuple[Stage, ...] = (
    ingest.STAGE,
    sample.STAGE,
    train.STAGE,
    encode.STAGE,
    evaluate.STAGE,
    export.STAGE,
    report.STAGE,
)

# How a stage is run: the run, the stage, and the last stage that is to run.
Call = Callable[[Run, Stage, str | None], StageReport]

_log = logging.getLogger(__name__)


def check_stage_names(until: str | None, force: str | None) -> None:
    """Refuse names that no stage has.

    Raises
    ------
    ConfigError
    """
    for option, name in (("--until", until), ("--force", force)):
        if name is not None and name not in STAGES:
            near = difflib.get_close_matches(name.lower(), STAGES, 1, 0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"{option} {name!r}: there is no such stage; {hint}take one of {', '.join(STAGES)}"
            )


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
    call: Call | None = None,
    patience: Patience = PATIENCE,
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
    patience : Patience
        How long another run's lease on the output is watched.

    Raises
    ------
    LeaseError
        If another run works in the output, or has taken it over.
    InputError
        For whatever of the user's input is wrong.
    StageError
        If a stage fails; the output is a valid resume point.
    """
    check_stage_names(until, force)
    run = begin_run(config, runner, progress, force)
    run.output.create()
    began = time.monotonic()
    with take_lease(run.output, run.warn, patience) as lease:
        if time.monotonic() - began > patience.poll_seconds:
            # Whoever was waited for may have written what was seen before.
            run.view.clear()
        if state_of(list_generations(run.output)) != run.begun_from:
            # Another run worked here in between.
            run = begin_run(config, runner, progress, force)
        run.hold(lease)
        run.runner = Surveyed(run, runner)
        with about(run=lease.run):
            return _run_stages(run, stages_until(until), until, call or run_stage)


def _run_stages(run: Run, stages: Sequence[Stage], until: str | None, call: Call) -> dict[str, Any]:
    reports: list[StageReport] = []
    try:
        _begin_output(run)
        for stage in stages:
            with about(stage=stage.name):
                reports.append(call(run, stage, until))
        if run.seconds:
            # Workers may have been killed though the run went on.
            sweep(run)
        with viewing(run.view):
            return end_record(run, "done", reports)
    except VqpipeError as error:
        failed = stages[min(len(reports), len(stages) - 1)].name
        reports.append(StageReport(failed, "failed", str(error), 0.0))
        error.summary = end_record(run, "failed", reports, error)
        raise
    except BaseException:
        end_record(run, "stopped", reports)
        raise


def _begin_output(run: Run) -> None:
    """Write down that a run has begun, before its first stage."""
    try:
        with viewing(run.view):
            if was_cut_short(run.output):
                try_again(sweep, run)
            try_again(establish, run)
            try_again(begin_record, run)
    except OSError as error:
        raise _wrapped(run, "begin", error) from error


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
        with viewing(run.view):
            # A stage goes on where it was, so it may be begun again when storage was away for a moment.
            report = try_again(_run_if_needed, run, stage, began)
            if stage.remind is not None:
                try_again(stage.remind, run)
            if stage.name == "export" and until is None:
                publish(run)
    except BaseException as error:
        seconds = time.perf_counter() - began
        if not isinstance(error, Exception):
            run.progress.finish(stage.name, "stopped", stage.kept(run), seconds)
            raise
        run.progress.finish(stage.name, "failed", str(error), seconds)
        if isinstance(error, VqpipeError) and not isinstance(error, WorkerError):
            raise
        raise _wrapped(run, stage.name, error) from error
    run.progress.finish(stage.name, report.status, report.reason, report.seconds)
    return report


def _run_if_needed(run: Run, stage: Stage, began: float) -> StageReport:
    need = stage.need(run)
    if need.state == "done":
        for message in run.generation.stage(stage.name).get("warnings", ()):
            run.warn(message)
        return StageReport(stage.name, "skipped", need.reason, 0.0)
    _log.info("%s: %s", stage.name, need.reason)
    run.may_write()
    run.progress.begin(stage.name, 0, "")
    with looking_anew(run.view):
        done = stage.execute(run)
    seconds = time.perf_counter() - began
    run.seconds[stage.name] = seconds
    run.memory_bytes[stage.name] = measure_memory(run)
    return StageReport(stage.name, "done", f"{done} ({need.reason})", seconds)


def _wrapped(run: Run, stage: str, error: Exception) -> VqpipeError:
    if isinstance(error, VqpipeError) and not isinstance(error, WorkerError):
        return error
    if stage == "begin" and isinstance(error, PermissionError):
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
        run.may_write()
        set_current(run.output, run.generation.name)
