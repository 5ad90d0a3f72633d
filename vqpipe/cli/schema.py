"""``vqpipe schema``."""

from __future__ import annotations

import json
import os

import typer

from vqpipe.config import Config
from vqpipe.errors import OutputError

SCHEMA_FILE = "vqpipe.schema.json"

# The first line of a config: editors with a YAML language server complete and check keys by it. Its path is taken from
# the config's folder, so that it needs no network and fits the version that is installed.
SCHEMA_LINE = "# yaml-language-server: $schema={}\n"


def execute(path: str | None) -> None:
    """Print the JSON Schema of the config, or write it to a file."""
    text = schema_text()
    if path is None:
        typer.echo(text, nl=False)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(
            f"--to {path}: cannot be written ({error.strerror}); name a file in a folder that is there and may be "
            "written to"
        ) from error
    line = SCHEMA_LINE.format(os.path.basename(path))
    typer.echo(f"{path}: written; a config beside it begins with\n{line}", nl=False)


def schema_text() -> str:
    """Return the schema as JSON."""
    found = Config.model_json_schema(by_alias=True)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
    return json.dumps(whole, indent=2) + "\n"
