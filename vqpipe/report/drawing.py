"""How every plot looks, and how it gets onto the page. With the plots' modules the one that knows Bokeh.

A plot is handed on as JSON. Its colours are those of light paper; the page's script puts the dark ones in their place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from bokeh.core.properties import value
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models import (
    BasicTickFormatter,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
)
from bokeh.models.annotations import Span
from bokeh.plotting import figure
from bokeh.resources import Resources

from vqpipe.report.facts import format_number

# More points than a wide screen has pixels show nothing more and cost page size.
MAX_POINTS = 2000


class Colour(NamedTuple):
    """A colour on light paper, and what takes its place on a dark screen: each is told from all others."""

    name: str
    light: str
    dark: str


INK = Colour("ink", "#4b5158", "#b4bac1")
RULE = Colour("rule", "#e3e6e9", "#2d3238")
BLUE = Colour("blue", "#2a6fc9", "#6aa9ff")
AREA = Colour("area", "#9dbfe9", "#355f96")
ORANGE = Colour("orange", "#c8610f", "#f2a155")
RED = Colour("red", "#c62f28", "#ff7d74")
COLOURS = (INK, RULE, BLUE, AREA, ORANGE, RED)

_FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
_SIZE = "12px"


def palette() -> str:
    """Return the colours as variables of a style sheet: for what the page itself says of the plots."""
    light, dark = (
        " ".join(f"--plot-{colour.name}: {getattr(colour, shade)};" for colour in COLOURS)
        for shade in ("light", "dark")
    )
    on_screen = "@media screen and (prefers-color-scheme: dark)"
    return f":root {{ {light} }}\n{on_screen} {{ :root {{ {dark} }} }}"


def plot_script() -> str:
    """Return BokehJS itself, to stand inside a script element."""
    (library, *_) = Resources(mode="inline", components=["bokeh"]).js_raw
    return library.replace("</script", "<\\/script")


def empty_figure(x_label: str, y_label: str, **options: Any) -> Any:
    """Return a figure without marks, as wide as its place on the page."""
    plot = figure(
        height=280,
        sizing_mode="stretch_width",
        x_axis_label=x_label,
        y_axis_label=y_label,
        tools="",
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **options,
    )
    axes = plot.axis
    axes.axis_label_text_color = axes.major_label_text_color = INK.light
    axes.axis_label_text_font_size = axes.major_label_text_font_size = _SIZE
    axes.axis_label_text_font = axes.major_label_text_font = _FONT
    axes.axis_label_text_font_style = "normal"
    axes.axis_line_color = axes.major_tick_line_color = INK.light
    axes.minor_tick_line_color = None
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color = RULE.light
    return plot


def write_numbers(axis: Any, largest: float) -> None:
    """Have an axis write numbers as people do: with thousands, and powers of ten where they are needed."""
    if 1000 <= largest < 1e12:
        axis.formatter = NumeralTickFormatter(format="0,0")
    else:
        axis.formatter = BasicTickFormatter(power_limit_high=6, power_limit_low=-4)


def set_ticks(axis: Any, ticks: Sequence[float]) -> None:
    """Label an axis at these places, and only there."""
    axis.ticker = FixedTicker(ticks=list(ticks))
    axis.major_label_overrides = {tick: format_number(tick) for tick in ticks}


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from ``low`` to ``high``, both above zero, for a logarithmic axis.

    Examples
    --------
    >>> log_ticks(3.0, 2000.0), log_ticks(4.0, 21.0)
    ([3.0, 10.0, 30.0, 100.0, 300.0, 1000.0], [5.0, 10.0, 20.0])
    >>> log_ticks(1e-9, 1e9)
    [1e-07, 0.001, 10.0, 100000.0, 1000000000.0]
    >>> log_ticks(101.0, 103.9)
    [101.0, 102.0, 103.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) < 2:
            break
        if len(ticks) <= most:
            return ticks
    if len(ticks) > most:
        stride = -(-len(ticks) // most)
        return ticks[stride // 2 :: stride]
    # Narrower than round numbers are apart, it is nearly a linear axis.
    step = 10.0 ** math.floor(math.log10(max(high - low, low * 1e-6) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) < most)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def add_line_across(plot: Any, at: float, *, upright: bool = False, colour: Colour = INK) -> None:
    """Draw a dashed line through the whole plot."""
    line = Span(
        location=at,
        dimension="height" if upright else "width",
        line_color=colour.light,
        line_dash=[5, 4],
        line_width=1.5,
    )
    plot.add_layout(line)


def add_bars(plot: Any, left: str, right: str, top: str, source: Any, edge: Colour = AREA) -> Any:
    """Draw bars between fields of a source, from zero on, and return them."""
    plot.y_range.start = 0
    return plot.quad(
        left=left,
        right=right,
        top=top,
        bottom=0,
        source=source,
        fill_color=AREA.light,
        line_color=edge.light,
    )


def add_hover(
    plot: Any,
    marks: list[Any],
    tooltips: list[tuple[str, str]],
    reals: Sequence[str] = (),
    mode: Literal["mouse", "vline"] = "mouse",
) -> None:
    """Show tooltips on the marks; ``reals`` are the fields that are written by a format of printf's.

    Modes are Bokeh's: ``vline`` finds a mark above or below the pointer as well, which a finger hits more easily.
    """
    hover = HoverTool(
        renderers=marks,
        tooltips=tooltips,
        formatters={f"@{field}": "printf" for field in reals},
        line_policy="nearest",
        mode=mode,
    )
    plot.add_tools(hover)


def draw_curve(
    plot: Any,
    x: str,
    y: str,
    source: ColumnDataSource,
    *,
    size: float,
    width: float = 2.0,
    **look: Any,
) -> Any:
    """Draw points and the line through them; return what tells its figures wherever the pointer is above or below."""
    points = plot.scatter(x, y, source=source, size=size, **look)
    line = plot.line(x, y, source=source, line_width=width, **look)
    return line if len(source.data[x]) > 1 else points


def add_labels(plot: Any, x: str, y: str, text: str, source: Any) -> None:
    """Write a label above each point and to its left, where a rising line leaves room."""
    plot.text(
        x,
        y,
        text=text,
        source=source,
        x_offset=9,
        y_offset=-7,
        text_align="right",
        text_baseline="bottom",
        text_color=INK.light,
        text_font_size=_SIZE,
        text_font=value(_FONT),
    )


def spread_picks(length: int, limit: int) -> list[int]:
    """Return at most ``limit`` positions, evenly spread, the first and the last among them.

    Examples
    --------
    >>> spread_picks(3, 10), spread_picks(101, 5)
    ([0, 1, 2], [0, 25, 50, 75, 100])
    """
    if length <= limit:
        return list(range(length))
    return [i * (length - 1) // (limit - 1) for i in range(limit)]


def dense_ended_picks(length: int, limit: int) -> list[int]:
    """Return at most ``limit`` positions, denser at both ends, where sorted counts bend.

    Examples
    --------
    >>> dense_ended_picks(3, 10), dense_ended_picks(101, 5)
    ([0, 1, 2], [0, 15, 50, 85, 100])
    """
    if length <= limit:
        return list(range(length))
    turns = np.pi * np.arange(limit) / (limit - 1)
    return sorted({round(float(at)) for at in (length - 1) * (1 - np.cos(turns)) / 2})


def to_json(plot: Any, target: str) -> str:
    """Return a figure as JSON in which no ``<`` can end the script element around it."""
    # For the page's script, which is handed the drawn plots and not their places.
    plot.tags = [target]
    item = _number_ids(json_item(plot, ID(target)), f"{target}-", {})
    # Keys stay in Bokeh's order: an object is defined where its id comes first.
    return json.dumps(item, separators=(",", ":")).replace("<", "\\u003c")


def _number_ids(node: Any, prefix: str, names: dict[str, str]) -> Any:
    """Rename ids in order of appearance: Bokeh's go on counting from page to page."""
    if isinstance(node, list):
        return [_number_ids(child, prefix, names) for child in node]
    if not isinstance(node, dict):
        return node
    return {
        key: names.setdefault(child, f"{prefix}{len(names)}")
        if key in ("id", "root_id")
        else _number_ids(child, prefix, names)
        for key, child in node.items()
    }
