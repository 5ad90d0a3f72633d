"""``vqpipe plan``."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from vqpipe.cli.display import Display
from vqpipe.config_file import load_config, parse_overrides
from vqpipe.engines.serial import SerialRunner
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.plan import plan_run
from vqpipe.report.facts import format_bytes, format_seconds


def execute(config: str, overrides: list[str], *, as_json: bool) -> None:
    """Print what a run would do."""
    loaded = load_config(config, parse_overrides(overrides))
    run = begin_run(loaded, SerialRunner(), Display())
    plan = plan_run(run)
    if as_json:
        typer.echo(json.dumps(plan, allow_nan=False))
        return
    typer.echo(f"{plan['output']} ({plan['generation']}): {plan['rows']:,} rows")
    for stage in plan["stages"]:
        typer.echo(f"{stage['name']:<9} {stage['state']}: {stage['reason']}")
    ahead = [stage for stage in plan["stages"] if stage["state"] != "done"]
    if ahead:
        Console().print(_table(ahead))
    most = max((stage["worker_bytes"] for stage in plan["stages"]), default=0)
    if most:
        allowed = format_bytes(plan["memory_per_worker"])
        typer.echo(f"peak memory of a worker: {format_bytes(most)} of {allowed} allowed")


def _table(stages: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("stage", "left"),
        ("rows", "right"),
        ("tasks", "right"),
        ("read", "right"),
        ("write up to", "right"),
        ("one core", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for stage in stages:
        table.add_row(
            stage["name"],
            _number(stage["rows"]),
            _number(stage["tasks"]),
            format_bytes(stage["bytes_read"]) if stage["bytes_read"] else "",
            format_bytes(stage["bytes_written"]) if stage["bytes_written"] else "",
            "" if stage["seconds"] is None else format_seconds(stage["seconds"]),
        )
    return table


def _number(value: int) -> str:
    return f"{value:,}" if value else ""
