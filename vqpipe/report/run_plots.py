"""Plots of how the work went: shards over time, and increments against what was learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.models import ColumnDataSource, Range1d

from vqpipe.report.drawing import (
    BLUE,
    ORANGE,
    RED,
    add_bars,
    add_hover,
    add_line_across,
    draw_curve,
    empty_figure,
    set_ticks,
    spread_picks,
    to_json,
    write_numbers,
)
from vqpipe.report.measured import Increment, Pace

# More ticks than this run into one another on a phone.
_MOST_TICKS = 8


def plot_pace(pace: Pace, target: str) -> str:
    """Draw how many rows a second were encoded, over the time that it took.

    Parameters
    ----------
    pace : Pace
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    unit, seconds = _time_unit(pace.seconds)
    width = pace.seconds / len(pace.rates) / seconds
    source = ColumnDataSource(
        {
            "from": [i * width for i in range(len(pace.rates))],
            "to": [(i + 1) * width for i in range(len(pace.rates))],
            "rate": list(pace.rates),
            "ended": list(pace.ended),
        }
    )
    plot = empty_figure(f"{unit} since the first shard was sent", "rows/s")
    bars = add_bars(plot, "from", "to", "rate", source)
    plot.x_range = Range1d(start=0, end=pace.seconds / seconds)
    write_numbers(plot.yaxis, max(pace.rates))
    add_line_across(plot, pace.rows / pace.seconds, colour=ORANGE)
    tooltips = [
        (unit, "@from{%.3g} to @to{%.3g}"),
        ("rows/s", "@rate{0,0}"),
        ("shards that ended", "@ended{0,0}"),
    ]
    add_hover(plot, [bars], tooltips, ["from", "to"], mode="vline")
    return to_json(plot, target)


def plot_ratios(increments: Sequence[Increment], allowed: float | None, target: str) -> str:
    """Draw how much larger new rows' distortion was, increment by increment.

    Parameters
    ----------
    increments : sequence of Increment
        At least one with a ratio.
    allowed : float or None
        The ratio past which a run warns, which is marked.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    known = [one for one in increments if one.ratio is not None]
    source = ColumnDataSource(
        {
            "number": [one.number for one in known],
            "ratio": [one.ratio for one in known],
            "rows": [one.rows for one in known],
        }
    )
    plot = _increment_figure(increments, "distortion / that learnt from")
    curve = draw_curve(plot, "number", "ratio", source, size=7, color=BLUE.light)
    ratios = [one.ratio or 0.0 for one in known]
    plot.y_range = Range1d(start=0, end=1.1 * max([*ratios, allowed or 0.0, 1.0]))
    add_line_across(plot, 1.0)
    if allowed is not None:
        add_line_across(plot, allowed, colour=RED)
    tooltips = [("increment", "@number"), ("rows", "@rows{0,0}"), ("ratio", "@ratio{%.4g}")]
    add_hover(plot, [curve], tooltips, ["ratio"], mode="vline")
    return to_json(plot, target)


def plot_divergence(increments: Sequence[Increment], target: str) -> str:
    """Draw how differently new rows used the codewords, increment by increment.

    Parameters
    ----------
    increments : sequence of Increment
        At least one.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    plot = _increment_figure(increments, "bits")
    marks = []
    for field, name, colour in (
        ("largest", "the column with most", ORANGE),
        ("mean", "mean of columns", BLUE),
    ):
        source = ColumnDataSource(
            {
                "number": [one.number for one in increments],
                "bits": [getattr(one, field) for one in increments],
                "rows": [one.rows for one in increments],
            }
        )
        look: dict[str, Any] = {"size": 7, "color": colour.light, "name": name}
        marks.append(draw_curve(plot, "number", "bits", source, **look))
    most = max(one.largest for one in increments)
    plot.y_range = Range1d(start=0, end=1.1 * most if most > 0 else 1.0)
    tooltips = [
        ("", "$name"),
        ("increment", "@number"),
        ("rows", "@rows{0,0}"),
        ("divergence", "@bits{%.4f} bits"),
    ]
    add_hover(plot, marks, tooltips, ["bits"], mode="vline")
    return to_json(plot, target)


def _increment_figure(increments: Sequence[Increment], y_label: str) -> Any:
    """Return a figure over increments: whole numbers, with half of one to spare at either side."""
    plot = empty_figure("increment", y_label)
    first, last = increments[0].number, increments[-1].number
    plot.x_range = Range1d(start=first - 0.5, end=last + 0.5)
    set_ticks(plot.xaxis, [first + i for i in spread_picks(last - first + 1, _MOST_TICKS)])
    return plot


def _time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit that so long a time is told in, and its seconds."""
    if seconds < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)
