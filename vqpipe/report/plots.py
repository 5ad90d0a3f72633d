"""The report's plots, and the script that draws them. The one module that knows Bokeh.

A plot is handed on as JSON; its points are bounded whatever the run's size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, NumeralTickFormatter
from bokeh.models.annotations import Span
from bokeh.plotting import figure
from bokeh.resources import Resources

from vqpipe.evaluation.measures import STARVED_SHARE

# More points than a wide screen has pixels show nothing more and cost page size.
MAX_POINTS = 2000

# More lines than this hide one another; the page's table still has every column.
MAX_COLUMNS = 16

# A canvas does not follow the colour scheme, and prints as it was drawn: one grey that keeps a
# contrast above 4:1 on the page's white and on its near-black alike.
_INK = "#7a7a7a"
_RULE = "rgba(128, 128, 128, 0.3)"
_BLUE, _ORANGE, _RED = "#3987d8", "#d97a1e", "#dd4a43"


def plot_script() -> str:
    """Return BokehJS itself, to stand inside a script element."""
    (library, *_) = Resources(mode="inline", components=["bokeh"]).js_raw
    return library.replace("</script", "<\\/script")


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
    plot = _empty_figure("round", "distortion")
    lines = []
    for key, name, colour in (("training", "training", _ORANGE), ("heldout", "held out", _BLUE)):
        rounds = [entry for entry in history if entry.get(key) is not None]
        shown = [rounds[i] for i in spread_picks(len(rounds), MAX_POINTS // 2)]
        if not shown:
            continue
        fields = ("round", "rows_seen", "dead", "moved")
        data = {field: [entry.get(field) for entry in shown] for field in fields}
        source = ColumnDataSource({**data, "distortion": [float(entry[key]) for entry in shown]})
        lines.append(
            plot.line(
                "round",
                "distortion",
                source=source,
                name=name,
                legend_label=name,
                line_color=colour,
                line_width=2,
            )
        )
        plot.scatter("round", "distortion", source=source, color=colour, size=4)
    tooltips = [
        ("", "$name"),
        ("round", "@round"),
        ("distortion", "@distortion{%.6g}"),
        ("rows seen", "@rows_seen{0,0}"),
        ("dead", "@dead{0,0}"),
        ("moved", "@moved{0,0}"),
    ]
    _add_hover(plot, lines, tooltips, "@distortion")
    _style_legend(plot)
    return _to_json(plot, target)


def plot_code_use(code_counts: Sequence[Sequence[int]], target: str) -> str:
    """Draw how often each codeword is used, most used first, a line per column.

    Counts are drawn as shares of the column's mean, on a logarithmic axis; dead codewords are
    crosses under the least used one.

    Parameters
    ----------
    code_counts : sequence of sequences of int
        Rows per codeword, for each column. Only the first ``MAX_COLUMNS`` columns are drawn.
    target : str
        Id of the element that the plot is drawn into.

    Returns
    -------
    str
        The plot as JSON, safe inside a script element.
    """
    plot = _empty_figure("codewords, most used first", "uses / mean uses", y_axis_type="log")
    shown = code_counts[:MAX_COLUMNS]
    columns = [_sorted_use(counts, MAX_POINTS // len(shown)) for counts in shown]
    least = min((float(use[use > 0].min()) for _, _, use in columns if use.any()), default=1.0)
    marks = []
    for column, (ranks, counts, use) in enumerate(columns):
        for dead in (False, True):
            kept = (counts == 0) == dead
            if not kept.any():
                continue
            data = {
                "rank": ranks[kept].tolist(),
                "uses": counts[kept].tolist(),
                "share": use[kept].tolist(),
                "height": np.maximum(use[kept], least / 2).tolist(),
            }
            marks.append(_draw_use(plot, ColumnDataSource(data), f"column {column}", dead=dead))
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[000000]")
    for share in (1.0, STARVED_SHARE):
        plot.add_layout(Span(location=share, line_color=_INK, line_dash="dashed", line_width=1))
    tooltips = [
        ("", "$name"),
        ("rank", "@rank{0,0}"),
        ("uses", "@uses{0,0}"),
        ("of the mean", "@share{%.4g}"),
    ]
    _add_hover(plot, marks, tooltips, "@share")
    return _to_json(plot, target)


def plot_recall(recall: Mapping[int, float], target: str) -> str:
    """Draw recall@k as bars.

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
    names = [f"@{at:,}" for at in sorted(recall)][:MAX_POINTS]
    shares = [100.0 * recall[at] for at in sorted(recall)][:MAX_POINTS]
    # Above 100% there is room for the tallest bar's own label.
    plot = _empty_figure("recall@k", "% of queries", x_range=names, y_range=(0, 112))
    source = ColumnDataSource(
        {"at": names, "share": shares, "label": [f"{share:.1f}%" for share in shares]}
    )
    bars = plot.vbar("at", top="share", width=0.6, source=source, fill_color=_BLUE, line_color=None)
    plot.text(
        "at",
        "share",
        text="label",
        source=source,
        text_align="center",
        text_baseline="bottom",
        text_color=_INK,
        text_font_size="13px",
    )
    plot.yaxis.ticker = FixedTicker(ticks=[0, 20, 40, 60, 80, 100])
    _add_hover(plot, [bars], [("recall", "@at"), ("found", "@share{%.3f}%")], "@share")
    return _to_json(plot, target)


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


def _sorted_use(counts: Sequence[int], limit: int) -> tuple[Any, Any, Any]:
    """Return ranks from 1, counts and shares of the mean, at most ``limit`` of each."""
    ordered = np.sort(np.asarray(counts, dtype=np.int64))[::-1]
    used = int(np.count_nonzero(ordered))
    # Where use ends is what the plot is for: the last used and the first dead codeword are kept.
    edge = {i for i in (used - 1, used) if 0 <= i < len(ordered)}
    picks = np.array(sorted(edge.union(spread_picks(len(ordered), limit - 2))), dtype=np.intp)
    mean = max(float(ordered.mean()), np.finfo(float).tiny) if len(ordered) else 1.0
    return picks + 1, ordered[picks], ordered[picks] / mean


def _draw_use(plot: Any, source: ColumnDataSource, name: str, *, dead: bool) -> Any:
    if dead:
        return plot.scatter(
            "rank", "height", source=source, name=f"{name}: dead", marker="x", size=7, color=_RED
        )
    plot.scatter("rank", "height", source=source, size=2.5, color=_BLUE, alpha=0.6)
    return plot.line(
        "rank",
        "height",
        source=source,
        name=name,
        line_color=_BLUE,
        line_alpha=0.6,
        hover_line_color=_ORANGE,
        hover_line_alpha=1.0,
    )


def _empty_figure(x_label: str, y_label: str, **options: Any) -> Any:
    plot = figure(
        height=300,
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
    plot.axis.axis_label_text_color = plot.axis.major_label_text_color = _INK
    plot.axis.axis_label_text_font_size = plot.axis.major_label_text_font_size = "13px"
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = _INK
    plot.axis.minor_tick_line_color = None
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color = _RULE
    return plot


def _add_hover(plot: Any, marks: list[Any], tooltips: list[tuple[str, str]], real: str) -> None:
    """Show tooltips on the marks; ``real`` is the field that is written as a float."""
    hover = HoverTool(
        renderers=marks, tooltips=tooltips, formatters={real: "printf"}, line_policy="nearest"
    )
    plot.add_tools(hover)


def _style_legend(plot: Any) -> None:
    plot.legend.background_fill_color = plot.legend.border_line_color = None
    plot.legend.label_text_color = _INK
    plot.legend.label_text_font_size = "13px"


def _to_json(plot: Any, target: str) -> str:
    """Return a figure as JSON in which no ``<`` can end the script element around it."""
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
