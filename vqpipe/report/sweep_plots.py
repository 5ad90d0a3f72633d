"""The plots of a sweep: what a codebook's bits buy, vqpipe's beside FAISS's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, FixedTicker, NumeralTickFormatter

from vqpipe.report.drawing import (
    BLUE,
    INK,
    MAX_POINTS,
    ORANGE,
    add_hover,
    empty_figure,
    to_json,
)

# A name beside each of more points than this would hide the others.
_MOST_NAMES = 40

# Points of equal bits are near each other where names would overlap: by this share of the largest figure.
_NEAR = 0.08


def plot_against_bits(
    codebooks: Sequence[Mapping[str, Any]], of: Mapping[str, Sequence[float | None]], label: str, target: str
) -> str:  # fmt: skip
    """Draw a figure of each codebook against its bits: points, and a line along the Pareto front.

    Parameters
    ----------
    codebooks : sequence of mappings
        ``codebook``, ``bits_per_vector``, ``on_front``.
    of : mapping of str to sequence of float
        The figure of each codebook, in their order, under ``vqpipe`` and ``faiss``; None where there is none.
    label : str
        Of the figure.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    there = zip(codebooks, of["vqpipe"], strict=True)
    bits = sorted({int(one["bits_per_vector"]) for one, value in there if value is not None})
    largest = max((value for side in of.values() for value in side if value is not None), default=1)
    # From zero, so that a difference looks as large as it is; names stand above the highest points.
    plot = empty_figure(
        "bits per vector",
        label,
        x_axis_type="log",
        x_range=_room(bits),
        y_range=(0, 1.15 * largest),
    )
    plot.xaxis.ticker = FixedTicker(ticks=bits)
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    front = [
        (one["bits_per_vector"], value)
        for one, value in zip(codebooks, of["vqpipe"], strict=True)
        if one["on_front"] and value is not None
    ][:MAX_POINTS]
    if len(front) > 1:
        places, values = map(list, zip(*front, strict=True))
        plot.line(places, values, line_color=BLUE.light, line_width=1.5, line_alpha=0.6)
    looks = {
        "faiss": ("FAISS", {"marker": "diamond", "size": 11, "line_color": ORANGE.light, "fill_color": None}),
        "vqpipe": ("vqpipe", {"marker": "circle", "size": 8, "color": BLUE.light}),
    }  # fmt: skip
    marks = []
    for side, (name, look) in looks.items():
        shown = [
            (one["codebook"], one["bits_per_vector"], value)
            for one, value in zip(codebooks, of[side], strict=True)
            if value is not None
        ][:MAX_POINTS]
        if not shown:
            continue
        names, places, values = (list(part) for part in zip(*shown, strict=True))
        source = ColumnDataSource({"codebook": names, "bits": places, "value": values})
        marks.append(plot.scatter("bits", "value", source=source, name=name, **look))
        if side == "vqpipe" and len(names) <= _MOST_NAMES:
            _write_names(plot, shown, _NEAR * largest)
    tooltips = [("", "$name"), ("codebook", "@codebook"), ("bits", "@bits{0,0}"), (label, "@value{%.4g}")]  # fmt: skip
    add_hover(plot, marks, tooltips, ["value"])
    return to_json(plot, target)


def _write_names(plot: Any, shown: Sequence[tuple[str, int, float]], near: float) -> None:
    """Write names beside points; those of points that are near each other on one line."""
    lines: list[tuple[list[str], int, float]] = []
    for name, bits, value in sorted(shown, key=lambda point: (point[1], -point[2])):
        if lines and lines[-1][1] == bits and lines[-1][2] - value < near:
            lines[-1][0].append(name)
        else:
            lines.append(([name], bits, value))
    data = {
        "text": [", ".join(names) for names, _, _ in lines],
        "bits": [bits for _, bits, _ in lines],
        "value": [value for _, _, value in lines],
    }
    plot.text(
        "bits", "value", text="text", source=ColumnDataSource(data), x_offset=7, y_offset=-4,
        text_color=INK.light, text_font_size="12px",
    )  # fmt: skip


def _room(bits: Sequence[int]) -> tuple[float, float]:
    """Return the ends of the axis: room for a name beside the last point."""
    return (bits[0] / 1.2, bits[-1] * 1.45) if bits else (1, 10)
