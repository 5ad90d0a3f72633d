"""The report's page: what stands on it, and in which order. The one module that knows Jinja."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from vqpipe.report.facts import ReportFacts, format_bytes, format_seconds
from vqpipe.report.headlines import absent, cards, drift_against, recall_at, rows_measured, verdict
from vqpipe.report.plots import (
    MAX_COLUMNS,
    plot_code_use,
    plot_recall,
    plot_script,
    plot_training,
)


class _Plot(NamedTuple):
    target: str
    title: str
    note: str
    item: str


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
    template = files("vqpipe.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        facts=facts,
        verdict=verdict(facts),
        cards=cards(facts),
        absent=absent(facts),
        plots=_plots(facts),
        figures=_figures(facts),
        drift=_drift(facts),
        drift_against=drift_against(facts),
        columns=_columns(facts),
        stored_bytes=sum(size for _, size, _ in facts.files),
        total_seconds=sum(facts.seconds.values()),
        loading=_loading(facts),
        plot_script=plot_script(),
    )


def _plots(facts: ReportFacts) -> list[_Plot]:
    plots = []
    if facts.history:
        note = "Distortion in each round; the held-out one is measured on rows never trained on."
        item = plot_training(facts.history, "plot-training")
        plots.append(_Plot("plot-training", "Training", note, item))
    if facts.code_counts:
        left_out = max(0, len(facts.code_counts) - MAX_COLUMNS)
        note = "Dashed: the mean, and the tenth of it that is starved. Red crosses: dead codewords."
        if left_out:
            note += f" The first {MAX_COLUMNS} columns are drawn, {left_out:,} are left out."
        item = plot_code_use(facts.code_counts, "plot-code-use")
        plots.append(_Plot("plot-code-use", "Use of codewords", note, item))
    recall = recall_at(facts)
    if recall:
        note = "The share of queries whose exact nearest row is among the k rows nearest by code."
        plots.append(_Plot("plot-recall", "Recall", note, plot_recall(recall, "plot-recall")))
    return plots


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
        ("codebook digest", facts.codebook_digest),
        ("assignment route", facts.route),
        ("bytes of vectors", f"{facts.bytes_in:,}"),
        ("bytes of codes", f"{facts.bytes_codes:,}"),
    ]
    if facts.evaluation.get("distortion") is not None:
        on = rows_measured(facts)
        figures.append((f"distortion, {on}", f"{facts.evaluation['distortion']:.6g}"))
    return figures


def _drift(facts: ReportFacts) -> list[tuple[str, str]]:
    """Return the figures of rows that are new; none where there are none."""
    drift = facts.evaluation.get("drift")
    if not drift:
        return []
    bits = drift["divergence"]
    worst = max(range(len(bits)), key=lambda column: float(bits[column]))
    ratio = "not known: theirs is 0" if drift["ratio"] is None else f"{drift['ratio']:.4g}"
    return [
        ("new or changed rows", f"{drift['rows']:,}"),
        ("their distortion", f"{drift['distortion']:.6g}"),
        (f"that of {drift_against(facts)}", f"{drift['compared_distortion']:.6g}"),
        ("ratio", ratio),
        (
            "Jensen-Shannon divergence of codes, mean of columns",
            f"{sum(bits) / len(bits):.4f} bits",
        ),
        (f"the same, largest (column {worst:,})", f"{bits[worst]:.4f} bits"),
    ]


def _columns(facts: ReportFacts) -> list[tuple[str, ...]]:
    """Return one row per column: perplexity, dead, starved, imbalance."""
    keys = ("perplexity", "dead", "starved", "imbalance")
    by_key = [facts.evaluation.get(key) or () for key in keys]
    return [
        (f"{column:,}", f"{perplexity:,.1f}", f"{dead:,}", f"{starved:,}", f"{imbalance:,.2f}")
        for column, (perplexity, dead, starved, imbalance) in enumerate(zip(*by_key, strict=False))
    ]


def _loading(facts: ReportFacts) -> str:
    """Return the lines of Python that load what was made."""
    indexes = [path for path, _, _ in facts.files if path.endswith(".faiss")]
    lines = [
        "import faiss, vqpipe, zarr",
        f"OUTPUT = {facts.output!r}",
        'codes = vqpipe.open_codes(OUTPUT)["codes"]',
        f'quantizer = vqpipe.load_codebook(OUTPUT + "/{facts.generation}/codebook.zarr")',
        f'plain = zarr.open_group(OUTPUT + "/{facts.generation}/codes.zarr", mode="r")["codes"]',
    ]
    lines += [f"index = faiss.read_index(OUTPUT + {'/' + path!r})" for path in indexes[:1]]
    return "\n".join(lines)
