"""Plots of how good the result is: training, use of codewords, recall, errors of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker

from vqpipe.dtypes import Int64
from vqpipe.evaluation.measures import STARVED_SHARE
from vqpipe.report.drawing import (
    BLUE,
    MAX_POINTS,
    ORANGE,
    RED,
    Colour,
    add_bars,
    add_hover,
    add_labels,
    add_line_across,
    dense_ended_picks,
    draw_curve,
    empty_figure,
    log_ticks,
    set_ticks,
    spread_picks,
    to_json,
    write_numbers,
)
from vqpipe.report.measured import Histogram

# With fewer than 20 points a sorted column's ends are no longer seen; the page's table has every column.
MAX_COLUMNS = MAX_POINTS // 20

# Crosses for a column's dead codewords: the first, the last, and where they lie between.
_DEAD_POINTS = 4

# More labels than this would run into one another.
_MOST_LABELS = 8


def plot_training(history: Sequence[Mapping[str, Any]], target: str) -> str:
    """Draw training and held-out distortion over the rounds.

    Parameters
    ----------
    history : sequence of mappings
        Per round ``round``, ``rows_seen``, ``training``, ``heldout`` (may be None), ``dead``,
        ``moved``.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    plot = empty_figure("round", "distortion")
    marks = []
    for key, name, colour, size, width in (
        ("training", "training rows", ORANGE, 3, 1.5),
        ("heldout", "held-out rows", BLUE, 6, 2.5),
    ):
        rounds = [entry for entry in history if entry.get(key) is not None]
        shown = [rounds[i] for i in spread_picks(len(rounds), MAX_POINTS // 2)]
        if not shown:
            continue
        fields = ("round", "rows_seen", "dead", "moved")
        data = {field: [entry.get(field) for entry in shown] for field in fields}
        source = ColumnDataSource({**data, "distortion": [float(entry[key]) for entry in shown]})
        look: dict[str, Any] = {"size": size, "width": width, "color": colour.light, "name": name}
        marks.append(draw_curve(plot, "round", "distortion", source, **look))
    finite = [float(entry["training"]) for entry in history if math.isfinite(entry["training"])]
    write_numbers(plot.yaxis, max(finite, default=0.0))
    tooltips = [
        ("", "$name"),
        ("round", "@round"),
        ("distortion", "@distortion{%.6g}"),
        ("rows seen", "@rows_seen{0,0}"),
        ("dead", "@dead{0,0}"),
        ("moved", "@moved{0,0}"),
    ]
    add_hover(plot, marks, tooltips, ["distortion"], mode="vline")
    return to_json(plot, target)


def drawn_columns(code_counts: Int64, least_even: int) -> list[int]:
    """Return the columns that are drawn: all, or as many as can be told, the least even one among them."""
    if len(code_counts) <= MAX_COLUMNS:
        return list(range(len(code_counts)))
    return sorted({*spread_picks(len(code_counts), MAX_COLUMNS - 1), least_even})


def plot_code_use(code_counts: Int64, least_even: int, target: str) -> str:
    """Draw how often each codeword is used, most used first, a line per column.

    Counts are drawn as shares of the column's mean, on a logarithmic axis; dead codewords are
    crosses under the least used one.

    Parameters
    ----------
    code_counts : int64 array of shape (columns, k)
        Rows per codeword.
    least_even : int
        The column with the lowest perplexity, which is drawn apart.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    columns = drawn_columns(code_counts, least_even)
    # A line ends where the next one begins with a gap.
    limit = MAX_POINTS // len(columns) - 1
    curves = {column: _sorted_use(code_counts[column], limit) for column in columns}
    shares = np.concatenate([curve["share"] for curve in curves.values()])
    alive = shares[shares > 0]
    least, most = (float(alive.min()), float(alive.max())) if len(alive) else (1.0, 1.0)
    plot = empty_figure("codewords, most used first", "uses / mean", y_axis_type="log")
    others = {column: curve for column, curve in curves.items() if column != least_even}
    lines = [_draw_use(plot, others, BLUE)] if others else []
    colour = ORANGE if others else BLUE
    lines.append(_draw_use(plot, {least_even: curves[least_even]}, colour))
    dead = _draw_dead(plot, curves, least / 2)
    for share in (1.0, STARVED_SHARE):
        add_line_across(plot, share)
    set_ticks(plot.yaxis, log_ticks(least / 2 if dead else least, max(most, 1.0) * 1.01, 8))
    where = [("column", "@column{0,0}"), ("codeword, by use", "@rank{0,0}")]
    uses = [("uses", "@uses{0,0}"), ("of the mean", "@share{%.4g}")]
    add_hover(plot, lines, where + uses, ["share"])
    add_hover(plot, dead, [*where, ("dead in the column", "@dead{0,0}")])
    return to_json(plot, target)


def plot_recall(recall: Mapping[int, float], target: str) -> str:
    """Draw recall@k over k.

    Parameters
    ----------
    recall : mapping of int to float
        Share of queries found, by k.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    all_places = sorted(recall)
    places = [all_places[i] for i in spread_picks(len(all_places), MAX_POINTS)]
    shares = [100.0 * recall[at] for at in places]
    # Above 100% there is room for the label of the highest point, and room at the sides for the outer ones'.
    plot = empty_figure(
        "k: rows nearest by code",
        "% of queries",
        x_axis_type="log",
        x_range=(places[0] / 2.2, places[-1] * 1.6),
        y_range=(0, 112),
    )
    source = ColumnDataSource(
        {"at": places, "share": shares, "label": [f"{share:.1f}%" for share in shares]}
    )
    curve = draw_curve(plot, "at", "share", source, size=8, color=BLUE.light)
    few = len(places) <= _MOST_LABELS
    if few:
        add_labels(plot, "at", "share", "label", source)
    set_ticks(plot.xaxis, places if few else log_ticks(places[0], places[-1]))
    plot.yaxis.ticker = FixedTicker(ticks=[0, 20, 40, 60, 80, 100])
    add_hover(
        plot,
        [curve],
        [("recall@", "@at{0,0}"), ("found", "@share{%.2f}%")],
        ["share"],
        mode="vline",
    )
    return to_json(plot, target)


def plot_errors(histogram: Histogram, distortion: float | None, target: str) -> str:
    """Draw how many rows have a squared error of each size, on a logarithmic axis.

    Parameters
    ----------
    histogram : Histogram
        With at least one count.
    distortion : float or None
        The mean, which is marked.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    edges, counts, rows = histogram.edges, histogram.counts, histogram.rows
    below = list(accumulate(counts, initial=histogram.zero))[1:]
    plot = empty_figure("squared error of a row", "% of rows", x_axis_type="log")
    source = ColumnDataSource(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "rows": counts,
            "share": [100.0 * count / rows for count in counts],
            "below": [100.0 * count / rows for count in below],
        }
    )
    bars = add_bars(plot, "low", "high", "share", source, edge=BLUE)
    if distortion is not None and distortion > 0:
        add_line_across(plot, distortion, upright=True, colour=ORANGE)
    set_ticks(plot.xaxis, log_ticks(edges[0], edges[-1]))
    tooltips = [
        ("squared error", "@low{%.4g} to @high{%.4g}"),
        ("rows", "@rows{0,0} (@share{%.2f}%)"),
        ("at or below", "@below{%.2f}% of rows"),
    ]
    add_hover(plot, [bars], tooltips, ["low", "high", "share", "below"], mode="vline")
    return to_json(plot, target)


def _sorted_use(counts: Int64, limit: int) -> dict[str, Any]:
    """Return ``rank`` (from 1), ``uses`` and ``share`` of the mean, of some codewords, and how many are ``dead``."""
    ordered = np.sort(counts)[::-1]
    used = int(np.count_nonzero(ordered))
    dead = len(ordered) - used
    picks = [*dense_ended_picks(used, limit - _DEAD_POINTS)]
    picks += [used + i for i in spread_picks(dead, _DEAD_POINTS)]
    mean = max(float(ordered.mean()), np.finfo(float).tiny) if len(ordered) else 1.0
    kept = ordered[np.array(picks, dtype=np.intp)]
    return {"rank": np.array(picks) + 1, "uses": kept, "share": kept / mean, "dead": dead}


def _draw_use(plot: Any, curves: Mapping[int, dict[str, Any]], colour: Colour) -> Any:
    """Draw the used codewords of some columns as one mark: a gap ends each column's line."""
    fields: dict[str, list[Any]] = {"rank": [], "uses": [], "share": [], "column": []}
    for column, curve in curves.items():
        alive = curve["uses"] > 0
        for field in ("rank", "uses", "share"):
            fields[field] += [*curve[field][alive].tolist(), math.nan]
        fields["column"] += [column] * (int(alive.sum()) + 1)
    many = len(curves) > 4
    return plot.line(
        "rank",
        "share",
        source=ColumnDataSource(fields),
        line_color=colour.light,
        line_alpha=0.45 if many else 1.0,
        line_width=1.2 if many else 2.2,
    )


def _draw_dead(plot: Any, curves: Mapping[int, dict[str, Any]], height: float) -> list[Any]:
    """Draw a cross for dead codewords, where there are any."""
    fields: dict[str, list[Any]] = {"rank": [], "dead": [], "column": []}
    for column, curve in curves.items():
        ranks = curve["rank"][curve["uses"] == 0].tolist()
        fields["rank"] += ranks
        fields["dead"] += [curve["dead"]] * len(ranks)
        fields["column"] += [column] * len(ranks)
    if not fields["rank"]:
        return []
    return [
        plot.scatter(
            "rank",
            height,
            source=ColumnDataSource(fields),
            marker="x",
            size=8,
            color=RED.light,
            line_width=2,
        )
    ]
