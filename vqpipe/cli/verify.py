"""``vqpipe verify``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import typer

from vqpipe.cli.display import Display
from vqpipe.engines.choose import make_runner
from vqpipe.engines.serial import SerialRunner
from vqpipe.pipeline.recorded import recorded_config
from vqpipe.pipeline.verify import verify_output
from vqpipe.storage.folder import Folder
from vqpipe.urls import absolute


def execute(output: str, *, repair: bool, rows: int, as_json: bool) -> None:
    """Check an output and print what was found."""
    folder = Folder(absolute(output))
    config = recorded_config(folder)
    # Where it is not known how the output was made, this process reads it.
    engine = nullcontext(SerialRunner()) if config is None else make_runner(config)
    with Display() as display, engine as runner:
        found = verify_output(folder, config, runner, display, rows=rows, repair=repair)
    typer.echo(json.dumps(found, allow_nan=False) if as_json else "\n".join(_lines(found)))
    if not found["well"]:
        raise typer.Exit(1)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"note: {note}" for note in found["notes"]]
    for finding in found["findings"]:
        rows = ""
        if finding["shard"] is not None:
            rows = f", shard {finding['shard']} (rows {finding['start']:,} to {finding['stop']:,})"
        lines.append(f"{finding['path']}{rows}: {finding['why']}")
    seen = f"{found['shards']:,} shards, {found['rows_compared']:,} rows encoded again"
    if found["well"]:
        return [*lines, f"{found['output']}: all is well ({seen})"]
    then = "run with --repair to have the next run make them again"
    if found["repaired"]:
        then = "set pending: the next run makes them again, and only them"
    return [*lines, f"{found['output']}: {len(found['findings'])} things differ ({seen}); {then}"]
