"""``vqpipe export``."""

from __future__ import annotations

import json

import typer

from vqpipe.cli.display import Display
from vqpipe.engines.choose import make_runner_for
from vqpipe.engines.serial import SerialRunner
from vqpipe.pipeline.added_export import (
    ROWS_PER_SECOND,
    check_format,
    export_elsewhere,
    export_inside,
)
from vqpipe.pipeline.finished import find_finished
from vqpipe.pipeline.recorded import recorded_config
from vqpipe.storage.folder import Folder
from vqpipe.urls import absolute


def execute(output: str, *, to: str, out: str | None, overwrite: bool, as_json: bool) -> None:
    """Write an export of the current generation and say where it is."""
    folder = Folder(absolute(output))
    wanted = check_format(to)
    with Display() as display:
        if out is None:
            seconds = find_finished(folder).codes.rows / ROWS_PER_SECOND
            with make_runner_for(recorded_config(folder), seconds) as runner:
                said = export_inside(folder, wanted, runner, display, overwrite=overwrite)
        else:
            # One file is one task, and workers need not see where it is to lie.
            said = export_elsewhere(
                folder, wanted, out, SerialRunner(), display, overwrite=overwrite
            )
    if as_json:
        typer.echo(json.dumps(said, allow_nan=False))
    else:
        for path, written in said["files"].items():
            typer.echo(f"{path}: {written['rows']:,} rows, {written['bytes']:,} bytes")
