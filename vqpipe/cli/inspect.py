"""``vqpipe inspect``."""

from __future__ import annotations

import json
from typing import Any

import typer

from vqpipe.pipeline.inspection import inspect_path


def execute(path: str, *, as_json: bool) -> None:
    """Print what a path holds."""
    found = inspect_path(path)
    typer.echo(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            for item in value:
                lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        else:
            shown = f"{value:,}" if isinstance(value, int) else value
            lines.append(f"{indent}{key}: {'none' if value is None else shown}")
    return lines
