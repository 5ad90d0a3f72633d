"""The report's page: what stands on it, and in which order. The one module that knows Jinja."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from vqpipe.report.absent import absent
from vqpipe.report.drawing import BLUE, INK, ORANGE, RED, Colour
from vqpipe.report.facts import ReportFacts, format_bytes, format_number, format_seconds
from vqpipe.report.headlines import (
    cards,
    drift_against,
    drift_figures,
    least_even,
    recall_at,
    rows_measured,
    verdict,
)
from vqpipe.report.loading import snippets
from vqpipe.report.measure_plots import (
    drawn_columns,
    plot_code_use,
    plot_errors,
    plot_recall,
    plot_training,
)
from vqpipe.report.measured import Histogram, Pace, read_histogram, read_increments, read_pace
from vqpipe.report.parts import page_parts, page_text
from vqpipe.report.run_plots import plot_divergence, plot_pace, plot_ratios

# A config of a thousand files is not read to its end on this page.
MOST_CONFIG_CHARACTERS = 100_000

# A column a line: of more there is a plot, and evaluation.json.
MOST_TABLE_COLUMNS = 1024


# What each colour of a plot stands for.
_Key = list[tuple[Colour, str]]


class _Plot(NamedTuple):
    target: str
    title: str
    note: str
    item: str
    key: _Key


def render_report(facts: ReportFacts) -> str:
    """Return the report as one HTML page that asks for nothing outside itself.

    Parameters
    ----------
    facts : ReportFacts
        The figures and names to show.

    Returns
    -------
    str
        The same facts give the same page.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["size"] = format_bytes
    environment.filters["duration"] = format_seconds
    return environment.from_string(page_text("page.html.j2")).render(
        facts=facts,
        verdict=verdict(facts),
        cards=cards(facts),
        absent=absent(facts),
        plots=list(_plots(facts)),
        figures=_figures(facts),
        drift=drift_figures(facts),
        drift_against=drift_against(facts),
        columns=_columns(facts),
        stored_bytes=sum(size or 0 for _, size, _ in facts.files),
        total_seconds=sum(facts.seconds.values()),
        config=facts.config_text[:MOST_CONFIG_CHARACTERS],
        config_is_cut=len(facts.config_text) > MOST_CONFIG_CHARACTERS,
        snippets=snippets(facts),
        **page_parts(),
    )


def _plots(facts: ReportFacts) -> Iterator[_Plot]:
    if facts.history:
        item = plot_training(facts.history, "plot-training")
        key: _Key = [(BLUE, "held-out rows"), (ORANGE, "training rows")]
        yield _Plot("plot-training", "Training", _training_note(facts), item, key)
    recall = recall_at(facts)
    if recall:
        note = "The share of queries whose exact nearest row is among the k rows nearest by code."
        yield _Plot("plot-recall", "Recall", note, plot_recall(recall, "plot-recall"), [])
    histogram = read_histogram(facts.evaluation.get("error_histogram"))
    if histogram is not None:
        item = plot_errors(histogram, facts.evaluation.get("distortion"), "plot-errors")
        key = [(ORANGE, "the mean, which is the distortion")]
        yield _Plot("plot-errors", "Errors of rows", _errors_note(facts, histogram), item, key)
    if facts.code_counts.size:
        column = least_even(facts)
        item = plot_code_use(facts.code_counts, column, "plot-code-use")
        note = _use_note(facts, len(drawn_columns(facts.code_counts, column)))
        yield _Plot("plot-code-use", "Use of codewords", note, item, _use_key(facts, column))
    pace = read_pace(facts.pace)
    if pace is not None:
        item = plot_pace(pace, "plot-pace")
        yield _Plot("plot-pace", "Pace of encoding", _pace_note(pace), item, [(ORANGE, "the mean")])
    yield from _drift_plots(facts)


def _drift_plots(facts: ReportFacts) -> Iterator[_Plot]:
    increments = read_increments(facts.evaluation)
    if any(one.ratio is not None for one in increments):
        note = f"Distortion of the rows that came or changed, over that of {drift_against(facts)}."
        key = [(BLUE, "ratio"), (INK, "as good as those")]
        if facts.drift_allowed is not None:
            key.append((RED, f"{facts.drift_allowed:g}: past it a run warns"))
        item = plot_ratios(increments, facts.drift_allowed, "plot-ratios")
        yield _Plot("plot-ratios", "Drift: distortion", note, item, key)
    if increments:
        note = (
            "Jensen-Shannon divergence of their codes from those of the rows before: 0 alike, 1 bit nothing in "
            "common."
        )
        item = plot_divergence(increments, "plot-divergence")
        key = [(BLUE, "mean of columns"), (ORANGE, "the column with most")]
        yield _Plot("plot-divergence", "Drift: use of codewords", note, item, key)


def _training_note(facts: ReportFacts) -> str:
    heldout = [entry for entry in facts.history if entry.get("heldout") is not None]
    note = f"Distortion, round by round; {len(facts.history):,} rounds."
    if heldout:
        last = format_number(heldout[-1]["heldout"])
        note += f" On held-out rows, which are never trained on, it ended at {last}."
    return note


def _errors_note(facts: ReportFacts, histogram: Histogram) -> str:
    median, most, nearly_all = (
        format_number(histogram.quantile(share)) for share in (0.5, 0.95, 0.99)
    )
    note = (
        f"Of {histogram.rows:,} {rows_measured(facts)}. Half are at or below {median}, 95% {most}, 99% "
        f"{nearly_all}."
    )
    if histogram.zero:
        note += f" {histogram.zero:,} are restored exactly and not drawn."
    return note


def _use_key(facts: ReportFacts, least: int) -> _Key:
    key = [(BLUE, "the column")]
    if len(facts.code_counts) > 1:
        key = [(BLUE, "a column each"), (ORANGE, f"column {least:,}, the least even")]
    if not facts.code_counts.all():
        key.append((RED, "dead"))
    return key


def _use_note(facts: ReportFacts, drawn: int) -> str:
    note = "Dashed: the mean, and the tenth of it below which a codeword is starved."
    if not facts.code_counts.all():
        note += " Dead codewords stand for no row."
    left_out = len(facts.code_counts) - drawn
    if left_out:
        note += f" {drawn:,} columns are drawn, {left_out:,} are left out."
    return note


def _pace_note(pace: Pace) -> str:
    note = f"{pace.rows:,} rows in {format_seconds(pace.seconds)}, as they were encoded last."
    if pace.shards == 1:
        return f"{note} One shard."
    least, median, most = map(format_seconds, (pace.least, pace.median, pace.most))
    return (
        f"{note} {pace.shards:,} shards took {least} to {most} each, half of them up to {median}; shard "
        f"{pace.slowest:,} took longest."
    )


def _figures(facts: ReportFacts) -> list[tuple[str, str]]:
    """Return the figures and names that fit on one line each."""
    figures = [
        ("source", facts.source),
        ("rows", f"{facts.rows:,}"),
        ("dimensions", f"{facts.dim:,}"),
        ("stored dtype", facts.source_dtype),
        ("masked rows", f"{facts.masked_rows:,}"),
        ("metric", facts.metric),
        ("codebook", facts.codebook),
        ("assignment route", facts.route),
        ("bytes of vectors", f"{facts.bytes_in:,}"),
        ("bytes of codes", f"{facts.bytes_codes:,}"),
    ]
    if facts.rows and facts.bytes_codes:
        figures.append(("bits per vector", f"{8 * facts.bytes_codes / facts.rows:,.2f}"))
    if facts.evaluation.get("distortion") is not None:
        on = rows_measured(facts)
        figures.append((f"distortion, {on}", f"{facts.evaluation['distortion']:.6g}"))
    return figures


def _columns(facts: ReportFacts) -> list[tuple[str, ...]]:
    """Return one row per column: perplexity, dead, starved, imbalance."""
    keys = ("perplexity", "dead", "starved", "imbalance")
    by_key = [(facts.evaluation.get(key) or ())[:MOST_TABLE_COLUMNS] for key in keys]
    return [
        (f"{column:,}", f"{perplexity:,.1f}", f"{dead:,}", f"{starved:,}", f"{imbalance:,.2f}")
        for column, (perplexity, dead, starved, imbalance) in enumerate(zip(*by_key, strict=False))
    ]
