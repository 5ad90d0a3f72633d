"""The ``vqpipe`` flow: one Prefect task per stage, each calling one function of vqpipe."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.states import Failed

from flows.page import Page
from flows.server import start_server
from vqpipe.config import Config
from vqpipe.config_file import load_config
from vqpipe.engines.choose import make_runner
from vqpipe.errors import VqpipeError
from vqpipe.pipeline.pipeline import run_pipeline, run_stage
from vqpipe.pipeline.record import StageReport
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Stage
from vqpipe.progress import Progress, Silent
from vqpipe.runner import Runner


@dataclass
class _Caller:
    """Whoever started the flow in this process: shown progress, and given errors as they are."""

    progress: Progress = field(default_factory=Silent)
    error: VqpipeError | None = None
    stop: BaseException | None = None
    summary: dict[str, Any] | None = None


_TASK_NAMES = {
    "ingest": "ingest: make the source readable by rows",
    "sample": "sample: draw training and held-out rows",
    "train": "train: learn the codebook",
    "encode": "encode: write codes for new and changed shards",
    "evaluate": "evaluate: measure distortion, code use and recall",
    "export": "export: write indexes for search",
    "report": "report: draw the page",
}

_caller: ContextVar[_Caller] = ContextVar("caller")


@flow(name="vqpipe", validate_parameters=True)
def vqpipe(
    config: str,
    overrides: dict[str, Any] | None = None,
    until: str | None = None,
    force: str | None = None,
) -> Any:
    """Run a config: sample, train, encode, evaluate, export, report.

    Parameters
    ----------
    config
        Path of the config file.
    overrides
        Dotted keys and values, as {"train.rows": 1000000}.
    until
        Stop after this stage.
    force
        Take this stage as never done.
    """
    caller = _caller.get(None) or _Caller()
    try:
        loaded = load_config(config, overrides)
        with Page(caller.progress, _flow_run()) as page, make_runner(loaded) as runner:
            summary = _run(loaded, runner, page, until, force)
    except VqpipeError as error:
        # Returned as a state: a traceback would hide the sentence that says what to do.
        caller.error = error
        return Failed(message=str(error))
    except BaseException as error:
        caller.stop = None if isinstance(error, Exception) else error
        raise
    caller.summary = summary
    return summary


def _flow_run() -> UUID | None:
    context = FlowRunContext.get()
    return context.flow_run.id if context is not None and context.flow_run is not None else None


def _run(
    config: Config, runner: Runner, page: Page, until: str | None, force: str | None
) -> dict[str, Any]:
    try:
        summary = run_pipeline(config, runner, page, until=until, force=force, call=run_as_task)
    except VqpipeError as error:
        if error.summary is not None:
            page.conclude(error.summary)
        raise
    page.conclude(summary)
    return summary


def run_as_task(run: Run, stage: Stage, until: str | None) -> StageReport:
    """Run one stage as a Prefect task, named so that a person knows what it does."""
    failure: list[VqpipeError] = []

    # The output folder decides what is done already, so Prefect's cache has no say.
    @task(name=stage.name, task_run_name=_TASK_NAMES[stage.name], cache_policy=NO_CACHE)
    def work() -> Any:
        try:
            report = run_stage(run, stage, until)
        except VqpipeError as error:
            failure.append(error)
            return Failed(message=str(error))
        get_run_logger().info("%s %s: %s", report.name, report.status, report.reason)
        return report

    state: Any = work(return_state=True)
    if failure:
        raise failure[0]
    report: StageReport = state.result()
    return report


def run_flow(
    config: str,
    overrides: dict[str, Any],
    until: str | None,
    force: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """Run the flow in this process and return the pipeline's summary.

    Raises
    ------
    VqpipeError
        As the pipeline raised it.
    """
    start_server()
    caller = _Caller(progress)
    token = _caller.set(caller)
    try:
        state: Any = vqpipe(config, overrides, until, force, return_state=True)
    except Exception as error:
        if caller.stop is not None:
            # It was interrupted, and the server could not be told.
            raise caller.stop from None
        if caller.summary is None:
            raise
        # The output is whole: that the server could not be told is no failure of the run.
        progress.warn(f"the run is done, but Prefect's server could not be told: {error}")
        return caller.summary
    finally:
        _caller.reset(token)
    if caller.error is not None:
        raise caller.error
    found: dict[str, Any] = state.result()
    return found
