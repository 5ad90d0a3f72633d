"""``vqpipe run``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer

from vqpipe.cli.display import Display
from vqpipe.cli.log import Logged, saying
from vqpipe.cli.status import Terminated
from vqpipe.config import Config
from vqpipe.config_file import load_config, parse_overrides
from vqpipe.engines.choose import make_runner
from vqpipe.errors import VqpipeError
from vqpipe.pipeline.begin import GENERATION_STAGES
from vqpipe.pipeline.pipeline import check_stage_names, run_pipeline


def execute(
    config: str,
    overrides: list[str],
    until: str | None,
    force: str | None,
    *,
    direct: bool,
    as_json: bool,
    log_json: bool,
) -> None:
    """Run the pipeline and print its summary."""
    check_stage_names(until, force)
    changes = parse_overrides(overrides)
    loaded = load_config(config, changes)
    try:
        with saying(as_json=log_json) as display, _saying_how_to_go_on(display):
            found = _run(config, loaded, changes, until, force, display, direct=direct)
    except VqpipeError as error:
        if as_json and error.summary is not None:
            typer.echo(json.dumps(error.summary, allow_nan=False))
        raise
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
    else:
        typer.echo(_in_words(found))


def _run(
    config: str,
    loaded: Config,
    changes: dict[str, Any],
    until: str | None,
    force: str | None,
    display: Display | Logged,
    *,
    direct: bool,
) -> dict[str, Any]:
    if direct:
        with make_runner(loaded) as runner:
            return run_pipeline(loaded, runner, display, until=until, force=force)
    display.say("prefect   starting; without a server of yours a temporary one takes about 20 s")
    # Stages and errors are shown here: Prefect need not say them on the terminal again.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # Prefect takes a second to import: a direct run does without it.
    found: dict[str, Any] = import_module("flows.run").run_flow(
        config, changes, until, force, display
    )
    return found


@contextmanager
def _saying_how_to_go_on(display: Display | Logged) -> Iterator[None]:
    """Have an interrupted run say what is kept, and the command that goes on."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        where = f" in {display.stopped}" if display.stopped else ": what is done stays"
        stop.add_note(f"interrupted{where}; go on with:\n  {go_on(sys.argv)}")
        raise


def go_on(command: Sequence[str]) -> str:
    """Return the command that goes on where this one was interrupted.

    A stage that begins a generation is not forced again: that would begin another one.

    Examples
    --------
    >>> go_on(["/usr/bin/vqpipe", "run", "my config.yaml", "--set", "seed=1", "--force", "train"])
    "vqpipe run 'my config.yaml' --set seed=1"
    """
    arguments = list(command[1:])
    for stage in GENERATION_STAGES:
        if f"--force={stage}" in arguments:
            arguments.remove(f"--force={stage}")
        for place in range(len(arguments) - 1):
            if arguments[place : place + 2] == ["--force", stage]:
                del arguments[place : place + 2]
                break
    return shlex.join(["vqpipe", *arguments])


def _in_words(found: dict[str, Any]) -> str:
    lines = [f"{found['output']} ({found['generation']}): {found['rows']:,} rows"]
    if found["masked_rows"]:
        lines[0] += f", {found['masked_rows']:,} masked"
    if found["bytes_codes"]:
        ratio = found["bytes_in"] / found["bytes_codes"]
        lines.append(
            f"  size        {found['bytes_in']:,} bytes -> {found['bytes_codes']:,} ({ratio:.1f} to 1)"
        )
    if found["distortion"] is not None:
        share = found["relative_distortion"]
        of_variance = "" if share is None else f" ({share:.2%} of the variance)"
        lines.append(f"  distortion  {found['distortion']:.6g}{of_variance}")
    if found["codewords"]:
        lines.append(f"  code use    {_use_in_words(found)}")
    if found["drift"]:
        lines.append(f"  drift       {_drift_in_words(found['drift'])}")
    if found["warm_start"]:
        lines.append(f"  warm start  {_change_in_words(found['warm_start'])}")
    if found["recall"]:
        shares = ", ".join(f"@{k} {share:.3f}" for k, share in found["recall"].items())
        lines.append(f"  recall      {shares}")
    lines += [f"  warning     {message}" for message in found["warnings"]]
    return "\n".join(lines)


def _drift_in_words(drift: dict[str, Any]) -> str:
    """Return how rows that are new or changed differ from those before."""
    compared = {"heldout": "held-out's", "train": "training rows'", "before": "the rows' before"}
    ratio = ""
    if drift["ratio"] is not None:
        ratio = f", {drift['ratio']:.3f} of {compared[drift['compared_with']]}"
    bits = drift["divergence"]
    return (
        f"{drift['rows']:,} new or changed rows: distortion {drift['distortion']:.6g}{ratio}; divergence of codes "
        f"{sum(bits) / len(bits):.4f} bits (mean), {max(bits):.4f} (largest)"
    )


def _change_in_words(change: dict[str, Any]) -> str:
    """Return how much changed since the codebook that training started from."""
    columns = len(change["codes_changed"])
    codes = sum(change["codes_changed"]) / columns
    of_codes = "" if columns == 1 else f", {codes:.1%} of their codes"
    rows = "held-out" if change["rows_are"] == "heldout" else "training"
    return f"{change['rows_changed']:.1%} of {change['rows']:,} {rows} rows changed their code{of_codes}"


def _use_in_words(found: dict[str, Any]) -> str:
    """Return how codewords are used: the worst column's figures, and the sums of all columns."""
    least, largest = (" (least)", " (largest)") if len(found["perplexity"]) > 1 else ("", "")
    surplus = sum(found["surplus"])
    unused = f" ({surplus:,} of them surplus)" if surplus else ""
    return (
        f"perplexity {min(found['perplexity']):,.1f} of {found['codewords']:,}{least}, "
        f"{sum(found['dead']):,} dead{unused}, {sum(found['starved']):,} starved, "
        f"imbalance {max(found['imbalance']):,.1f}{largest}"
    )
