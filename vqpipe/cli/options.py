"""What several commands take, and how a command's module is called."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from vqpipe.cli.status import exit_statuses

OutputPath = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="The folder, or URL, that a config calls output.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file, if there is one; else it is refused.")
]


def call(module: str, **arguments: Any) -> None:
    """Load a command's module and run it, errors turned into exit statuses."""
    with exit_statuses():
        import_module(f"vqpipe.cli.{module}").execute(**arguments)
