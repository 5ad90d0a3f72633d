"""What every page of this room is made of: its style, and the script that draws its plots."""

from __future__ import annotations

import json
from importlib.resources import files

from vqpipe.report.drawing import COLOURS, palette, plot_script


def page_parts() -> dict[str, str]:
    """Return ``style``, ``script`` and ``plot_script``, to stand inside their elements as they are."""
    colours = json.dumps([colour[1:] for colour in COLOURS])
    return {
        "style": f"{palette()}\n{page_text('page.css')}",
        "script": page_text("page.js").replace('"COLOURS"', colours),
        "plot_script": plot_script(),
    }


def page_text(name: str) -> str:
    """Return a template, a style sheet or a script of this room."""
    return files("vqpipe.report").joinpath(name).read_text(encoding="utf-8")
