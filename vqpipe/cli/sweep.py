"""``vqpipe sweep``."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table as Shown

from vqpipe.cli.display import Display
from vqpipe.config_file import load_config, parse_overrides
from vqpipe.engines.choose import make_runner
from vqpipe.pipeline.sweep import run_sweep
from vqpipe.report.sweep_words import Table, cost_table, notes, quality_table

# Stands in the config's place of a codebook, which need not be there.
_ANY = "KM1"


def execute(
    config: str,
    codebooks: list[str],
    overrides: list[str],
    to: str | None,
    *,
    faiss: bool,
    as_json: bool,
) -> None:
    """Learn and measure codebooks on one sample, and print what tells them apart."""
    changes = {**parse_overrides(overrides), "codebook": _ANY}
    if to is not None:
        changes["output"] = to
    loaded = load_config(config, changes)
    with Display() as display, make_runner(loaded) as runner:
        found = run_sweep(loaded, codebooks, runner, display, faiss=faiss)
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    source = found["source"]
    typer.echo(
        f"{found['name']}: {source['rows']:,} rows of {source['dim']:,} dims ({source['dtype']}, {found['metric']}), "
        f"{found['sample']['train_rows']:,} of them to learn from"
    )
    for table in (quality_table(found), cost_table(found)):
        typer.echo("")
        console.print(_shown(table))
    typer.echo("")
    for note in notes(found):
        console.print(note, markup=False, soft_wrap=False)
    typer.echo("")
    console.print(found["advice"], markup=False)
    for message in found["warnings"]:
        console.print(f"warning: {message}", markup=False)
    typer.echo(found["page"])


def _shown(table: Table) -> Shown:
    shown = Shown(box=None, pad_edge=False)
    for place, heading in enumerate(table.headings):
        shown.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    return shown
