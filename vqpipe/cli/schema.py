"""``vqpipe schema``."""

from __future__ import annotations

import json

import typer

from vqpipe.config import Config


def execute() -> None:
    """Print the JSON Schema of the config."""
    found = Config.model_json_schema(by_alias=True)
    typer.echo(
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **found}, indent=2)
    )
