"""The page of a sweep: the advice, the plots, the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

from vqpipe.report.drawing import BLUE, ORANGE
from vqpipe.report.parts import page_parts, page_text
from vqpipe.report.sweep_plots import plot_against_bits
from vqpipe.report.sweep_words import cost_table, notes, quality_table


def render_sweep(sweep: Mapping[str, Any]) -> str:
    """Return a sweep as one HTML page that asks for nothing outside itself.

    Parameters
    ----------
    sweep : mapping
        What ``sweep.json`` holds.

    Returns
    -------
    str
        The same figures give the same page.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(page_text("sweep.html.j2")).render(
        sweep=sweep,
        tables=[("How good", quality_table(sweep)), ("What it takes", cost_table(sweep))],
        notes=notes(sweep),
        plots=_plots(sweep),
        key=[(BLUE, "vqpipe"), (ORANGE, "FAISS")],
        **page_parts(),
    )


def _plots(sweep: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the target, the title and the JSON of each plot."""
    codebooks = sweep["codebooks"]
    distortion = {
        side: [one[side] and one[side]["relative_distortion"] for one in codebooks]
        for side in ("vqpipe", "faiss")
    }
    plots = [("plot-distortion", "relative distortion", distortion)]
    there = [one["vqpipe"]["recall"] for one in codebooks if one["vqpipe"]["recall"]]
    for k in there[0] if there else ():
        shares = {
            side: [(one[side] or {"recall": None})["recall"] for one in codebooks]
            for side in ("vqpipe", "faiss")
        }
        found = {side: [recall and recall[k] for recall in shares[side]] for side in shares}
        plots.append((f"plot-recall-{k}", f"recall@{k}", found))
    return [
        (target, f"{label[0].upper()}{label[1:]} against bits", plot_against_bits(codebooks, of, label, target))
        for target, label, of in plots
    ]  # fmt: skip
