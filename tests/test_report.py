"""The report: one page that opens offline, says what it is given and escapes what it is given."""

from __future__ import annotations

import dataclasses
import json
import math
from html.parser import HTMLParser
from typing import Any

import pytest

from vqpipe.report import ReportFacts, render_report
from vqpipe.report.plots import MAX_COLUMNS, MAX_POINTS, spread_picks

HOSTILE = "<script>alert(1)</script>\"'&"
MAX_PAGE_BYTES = 8 << 20

# Attributes by which a tag asks for something.
ASKING = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "ping"}


class Page(HTMLParser):
    """What a browser would see: tags, text and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.asked: list[tuple[str, str | None]] = []
        self.policy = ""
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()
        self.plots = [json.loads(s) for s in self.scripts if s.startswith('{"target_id"')]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [(tag, value) for key, value in attrs if key in ASKING]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = str(dict(attrs)["content"])
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def make_facts(**changes: Any) -> ReportFacts:
    """Return the facts of a small PQ run, changed as asked."""
    counts = [[(5 * word + column) % 17 for word in range(16)] for column in range(2)]
    facts = ReportFacts(
        name="sift-pq2",
        generation="v7",
        rows=123_456,
        dim=128,
        source="file:///data/sift.bvecs",
        source_dtype="uint8",
        codebook="PQ2x4",
        codebook_digest="ab" * 32,
        metric="l2",
        route="blocks-of-4096",
        bytes_in=15_802_368,
        bytes_codes=246_912,
        evaluation={
            "distortion": 4242.42,
            "relative_distortion": 0.1625,
            "distortion_rows": "heldout",
            "in_sample": False,
            "perplexity": [12.3, 14.6],
            "dead": [1, 2],
            "starved": [3, 4],
            "imbalance": [1.71, 1.92],
            "recall": {"1": 0.456, "10": 0.912, "100": 0.998},
            "database_rows": 99_000,
            "queries": 1_000,
        },
        code_counts=counts,
        history=[
            {
                "round": i,
                "rows_seen": 4096 * (i + 1),
                "training": 5000 - 10 * i,
                "heldout": 5100 - 10 * i if i % 2 else None,
                "dead": 0,
                "moved": 40 - i,
            }
            for i in range(40)
        ],
        config_text="name: sift-pq2\nseed: 3\n",
        versions={"python": "3.11.7", "faiss-cpu": "1.15.1"},
        files=[("v7/codes.zarr", 300_000, "codes"), ("v7/index.faiss", 260_000, "FAISS index")],
        seconds={"sample": 1.25, "train": 75.0},
        masked_rows=13,
        warnings=["column 1 has dead codewords"],
    )
    return dataclasses.replace(facts, **changes)


def point_counts(plot: Any) -> list[int]:
    """Return how many points each data source of a plot holds."""
    if isinstance(plot, list):
        return [count for child in plot for count in point_counts(child)]
    if not isinstance(plot, dict):
        return []
    if plot.get("name") == "ColumnDataSource" and "attributes" in plot:
        columns = dict(plot["attributes"]["data"]["entries"])
        return [max(len(values) for values in columns.values())]
    return [count for child in plot.values() for count in point_counts(child)]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_report(make_facts()))


def test_page_asks_for_nothing_outside_itself(page: Page) -> None:
    assert page.asked == []
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert page.policy.startswith("default-src 'none';")
    assert "http" not in page.policy


def test_page_is_small() -> None:
    html = render_report(make_facts())
    assert html.startswith("<!DOCTYPE html>")
    assert len(html.encode()) <= MAX_PAGE_BYTES


def test_same_facts_give_the_same_page() -> None:
    assert render_report(make_facts()) == render_report(make_facts())


@pytest.mark.parametrize(
    "figure",
    [
        "sift-pq2",
        "v7",
        "123,456",
        "128",
        "file:///data/sift.bvecs",
        "uint8",
        "PQ2x4",
        "ab" * 32,
        "l2",
        "blocks-of-4096",
        "64.0×",
        "15,802,368",
        "246,912",
        "4242.42",
        "83.8%",
        "0.1625",
        "held-out rows",
        "12.3",
        "14.6",
        "1.71",
        "1.92",
        "45.6% · 91.2% · 99.8%",
        "1,000 queries among 99,000 rows",
        "84.1%",
        "the worst has 76.9%",
        "of 32 never used; 7 starved",
        "name: sift-pq2\nseed: 3\n",
        "3.11.7",
        "1.15.1",
        "v7/codes.zarr",
        "293.0 KiB",
        "546.9 KiB",
        "1.25 s",
        "1 min 15 s",
        "1 min 16 s",
        "13",
        "column 1 has dead codewords",
        'vqpipe.open_codes(OUTPUT)["codes"]',
        'vqpipe.load_codebook(OUTPUT + "/v7/codebook.zarr")',
        "faiss.read_index(OUTPUT + '/v7/index.faiss')",
    ],
)
def test_every_figure_appears(page: Page, figure: str) -> None:
    assert figure in page.text


def test_each_plot_has_its_place(page: Page) -> None:
    targets = [plot["target_id"] for plot in page.plots]
    assert targets == ["plot-training", "plot-code-use", "plot-recall"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": HOSTILE},
        {"source": HOSTILE},
        {"config_text": f"name: {HOSTILE}"},
        {"warnings": [HOSTILE]},
        {"output": HOSTILE},
        {"generation": HOSTILE},
        {"route": HOSTILE},
        {"versions": {HOSTILE: HOSTILE}},
        {"seconds": {HOSTILE: 1.0}},
        {"files": [(f"{HOSTILE}.faiss", 1, HOSTILE)]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_text_of_others_is_escaped(page: Page, changes: dict[str, Any]) -> None:
    hostile = Page(render_report(make_facts(**changes)))
    assert len(hostile.scripts) == len(page.scripts)
    assert "<script>alert(1)</script>" in hostile.text
    assert not any("alert(1)" in script for script in hostile.scripts)


@pytest.mark.parametrize(
    ("missing", "codebook", "why"),
    [
        ("recall", "KM1024", "Recall is left out: one codeword per row"),
        ("recall", "PQ2x4", "Recall is left out: no queries"),
        ("relative_distortion", "PQ2x4", "Relative distortion is left out: the rows measured"),
    ],
)
def test_what_is_missing_is_left_out_with_a_reason(missing: str, codebook: str, why: str) -> None:
    evaluation = {**make_facts().evaluation, missing: None}
    page = Page(render_report(make_facts(evaluation=evaluation, codebook=codebook)))
    assert why in page.text
    assert "None" not in page.text


def test_a_run_without_any_measure_has_a_page() -> None:
    page = Page(
        render_report(
            make_facts(evaluation={}, code_counts=[], history=[], bytes_codes=0, warnings=[])
        )
    )
    assert page.plots == []
    assert "Nothing was measured." in page.text
    assert "No warnings." in page.text
    assert "None" not in page.text


def test_surplus_codewords_are_told_from_the_dead() -> None:
    page = Page(render_report(make_facts()))
    assert "surplus" not in page.text
    evaluation = {**make_facts().evaluation, "surplus": [1, 0]}
    page = Page(render_report(make_facts(evaluation=evaluation)))
    assert "1 of them surplus" in page.text


def test_in_sample_figures_say_so() -> None:
    evaluation = {**make_facts().evaluation, "distortion_rows": "train", "in_sample": True}
    page = Page(render_report(make_facts(evaluation=evaluation)))
    assert "on training rows; in sample" in page.text


@pytest.mark.parametrize("columns", [1, 3, MAX_COLUMNS + 5])
def test_points_are_bounded(columns: int) -> None:
    used = list(range(100_000, 1_000, -1))
    counts = [used + [0] * (100_000 - len(used))] * columns
    history = [
        {"round": i, "rows_seen": i, "training": 1 / (i + 1), "heldout": 1.0, "dead": 0, "moved": 0}
        for i in range(30_000)
    ]
    html = render_report(make_facts(code_counts=counts, history=history))
    page = Page(html)
    for plot in page.plots:
        assert 0 < sum(point_counts(plot)) <= MAX_POINTS
    assert len(html.encode()) <= MAX_PAGE_BYTES
    left_out = "16 columns are drawn, 5 are left out" in page.text
    assert left_out == (columns > MAX_COLUMNS)


def test_dead_codewords_are_marked() -> None:
    counts = [[9, 0, 4, 0], [1, 1, 1, 1]]
    drawn = json.dumps(Page(render_report(make_facts(code_counts=counts))).plots[1])
    assert "column 0: dead" in drawn
    assert "column 1: dead" not in drawn


@pytest.mark.parametrize("counts", [[[7]], [[0, 0]], [[]], [[1] * 3, [0] * 3]])
def test_odd_columns_do_not_break_the_page(counts: list[list[int]]) -> None:
    assert len(Page(render_report(make_facts(code_counts=counts))).plots) == 3


def test_a_distortion_that_is_not_finite_does_not_break_the_page() -> None:
    history = [{**make_facts().history[0], "training": value} for value in (math.nan, math.inf)]
    assert len(Page(render_report(make_facts(history=history))).plots) == 3


def test_picks_are_distinct_and_keep_both_ends() -> None:
    for length in (1, 2, 99, 100, 101, 12_345):
        picks = spread_picks(length, 100)
        assert picks == sorted(set(picks))
        assert (picks[0], picks[-1]) == (0, length - 1)
        assert len(picks) <= 100
