"""``vqpipe decode``."""

from __future__ import annotations

import json

import typer

from vqpipe.cli.display import Display
from vqpipe.pipeline.decode import ENDINGS, decode_output, parse_rows
from vqpipe.pipeline.finished import find_finished
from vqpipe.storage.folder import Folder
from vqpipe.storage.target import choose_target
from vqpipe.urls import absolute


def execute(output: str, *, rows: str | None, to: str, overwrite: bool, as_json: bool) -> None:
    """Write what codes stand for."""
    found = find_finished(Folder(absolute(output)))
    start, stop = parse_rows(rows, found.codes.rows)
    target = choose_target(to, ENDINGS, overwrite=overwrite)
    with Display() as display:
        decode_output(found, target, start, stop, display)
    dim = found.codebook.dim
    if as_json:
        said = {"output": found.output.path, "generation": found.generation.name}
        shape = {"file": target.path, "start": start, "stop": stop, "dim": dim}
        typer.echo(json.dumps({**said, **shape}))
    else:
        typer.echo(f"{target.path}: rows {start:,} to {stop:,} as float32 of {dim} dims")
