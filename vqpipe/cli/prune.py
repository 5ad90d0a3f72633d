"""``vqpipe prune``."""

from __future__ import annotations

import json

import typer

from vqpipe.pipeline.prune import prune_output
from vqpipe.report.facts import format_bytes
from vqpipe.storage.folder import Folder
from vqpipe.urls import absolute


def execute(output: str, *, yes: bool, as_json: bool) -> None:
    """Remove what an output no longer needs, or say what that would be."""
    found = prune_output(Folder(absolute(output)), remove=yes)
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
        return
    for removal in found["removals"]:
        typer.echo(f"{removal['path']}: {format_bytes(removal['bytes'])}, {removal['why']}")
    size, kept = f"{found['bytes']:,} bytes", ", ".join(found["kept"])
    if not found["removals"]:
        typer.echo(f"{found['output']}: nothing to remove; kept: {kept}")
    elif yes:
        typer.echo(f"{found['output']}: {size} removed; kept: {kept}")
    else:
        typer.echo(f"{found['output']}: {size} would be removed, kept: {kept}; to do it, add --yes")
