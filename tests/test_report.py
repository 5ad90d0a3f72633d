"""The report: one page that opens offline, says what it is given and escapes what it is given."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.pipeline.pace import Finish, measure_pace
from vqpipe.report import ReportFacts, render_report
from vqpipe.report.drawing import (
    COLOURS,
    MAX_POINTS,
    dense_ended_picks,
    log_ticks,
    spread_picks,
)
from vqpipe.report.headlines import verdict
from vqpipe.report.measure_plots import MAX_COLUMNS
from vqpipe.report.measured import read_histogram, read_increments, read_pace

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


HISTOGRAM = {"edges": [2e3, 3e3, 4e3, 5e3, 6e3], "counts": [10, 40, 30, 15], "zero": 5}

PACE = {
    "shards": 3,
    "rows": 123_456,
    "seconds": 40.0,
    "rows_per_second": [3000.0, 3172.8, 3086.4, 3086.4],
    "shards_ended": [0, 1, 1, 1],
    "shard_seconds": {"least": 11.0, "median": 12.5, "most": 15.0},
    "slowest": 2,
}


def increments(count: int) -> list[dict[str, Any]]:
    return [
        {
            "increment": number,
            "rows": 1000 + number,
            "rows_after": 10_000 + 1000 * number,
            "distortion": 4300.0 + number,
            "compared_distortion": 4242.42,
            "ratio": 1 + number / 100,
            "divergence": {"mean": 0.01, "largest": 0.02},
        }
        for number in range(1, count + 1)
    ]


DRIFT = {
    "rows": 1002,
    "distortion": 4302.0,
    "compared_with": "heldout",
    "compared_distortion": 4242.42,
    "ratio": 1.02,
    "divergence": [0.0125, 0.25],
}


def make_facts(**changes: Any) -> ReportFacts:
    """Return the facts of a small PQ run, changed as asked."""
    counts = np.array([[(5 * word + column) % 17 for word in range(16)] for column in range(2)])
    facts = ReportFacts(
        name="sift-pq2",
        generation="v7",
        rows=123_456,
        dim=128,
        source="file:///data/sift.bvecs",
        source_dtype="uint8",
        codebook="PQ2x4",
        metric="l2",
        route="blocks-of-4096",
        code_dtype="uint8",
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
            "error_histogram": HISTOGRAM,
            "drift": DRIFT,
            "increments": increments(2),
        },
        code_counts=1000 * counts,
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
        pace=PACE,
        config_text="name: sift-pq2\nseed: 3\n",
        versions={"python": "3.11.7", "faiss-cpu": "1.15.1"},
        digests={"codebook": "ab" * 32},
        files=[
            ("run.json", None, "the last run"),
            ("v7/codes.zarr", 300_000, "codes"),
            ("v7/index.faiss", 260_000, "FAISS index"),
        ],
        seconds={"sample": 1.25, "train": 75.0},
        stage_rows={"train": 375_000},
        masked_rows=13,
        warnings=["column 1 has dead codewords"],
        output="/data/out",
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


ALL_PLOTS = [
    "plot-training",
    "plot-recall",
    "plot-errors",
    "plot-code-use",
    "plot-pace",
    "plot-ratios",
    "plot-divergence",
]


def data_of(plot: Any) -> list[dict[str, Any]]:
    """Return the columns of a plot's data sources."""
    if isinstance(plot, list):
        return [data for child in plot for data in data_of(child)]
    if not isinstance(plot, dict):
        return []
    if plot.get("name") == "ColumnDataSource" and "attributes" in plot:
        return [dict(plot["attributes"]["data"]["entries"])]
    return [data for child in plot.values() for data in data_of(child)]


def column_fields(plot: Any) -> list[Any]:
    return [column for data in data_of(plot) for column in data.get("column", ())]


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
        "91.2%",
        "@1 45.6%, @100 99.8%",
        "1,000 queries among 99,000 rows",
        "84.1%",
        "mean of 2 columns, the worst 76.9%; 3 of 32 dead, 7 starved",
        "29 of 32 codewords are in use",
        "is among the 10 nearest by code for 91.2% of queries",
        "Of 100 held-out rows. Half are at or below 3,",
        "5 are restored exactly",
        "123,456 rows in 40.00 s",
        "3 shards took 11.00 s to 15.00 s each, half of them up to 12.50 s; shard 2 took longest",
        "0.2500 bits",
        "5,000",
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
        "zarr.open_array('/data/out/v7/codes.zarr/codes', mode=\"r\")",
        "vqpipe.load_codebook('/data/out/v7/codebook.zarr')",
        "faiss.read_index('/data/out/v7/index.faiss')",
    ],
)
def test_every_figure_appears(page: Page, figure: str) -> None:
    assert figure in page.text


def test_each_plot_has_its_place(page: Page) -> None:
    targets = [plot["target_id"] for plot in page.plots]
    assert targets == ALL_PLOTS


def test_the_judgement_stands_before_everything_else(page: Page) -> None:
    order = [
        "Good.",
        "The codes are 64.0 times smaller",
        *("Compression", "Relative distortion", "Recall@10", "Code use"),
        *("1 warning", "Plots", "Figures", "How to load it", "Where every byte lies"),
        *("Config", "Versions", "Digests"),
    ]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)


COUNTS = np.full((2, 16), 5000)
EVEN = {"code_counts": COUNTS, "drift_allowed": None}


@pytest.mark.parametrize(
    ("recall", "changes", "grade", "why"),
    [
        ({"1": 0.5, "10": 0.95}, {}, "good", "recall@10 of 90% or more"),
        ({"1": 0.5, "10": 0.8, "100": 0.99}, {}, "fair", "ranking the first 100 again"),
        ({"10": 0.3}, {}, "poor", "a codebook of more bytes a row finds more"),
        ({"1": 0.95, "100": 0.99}, {}, "good", "recall@1 of 90%"),
        ({"10": 0.95}, {"drift_allowed": 1.01}, "fair", "1.02 times the distortion, and 1.01"),
        ({"10": 0.95}, {"code_counts": COUNTS * (np.arange(16) == 3)}, "fair", "used poorly"),
        (None, {}, "good", "there is no recall"),
        (None, {"code_counts": COUNTS * (np.arange(16) == 3)}, "fair", "used poorly"),
        (None, {"code_counts": 0 * COUNTS}, "open", ""),
    ],
)
def test_the_grade_follows_what_is_said_to_matter(
    recall: Any, changes: dict[str, Any], grade: str, why: str
) -> None:
    evaluation = {**make_facts().evaluation, "recall": recall}
    found = verdict(make_facts(evaluation=evaluation, **{**EVEN, **changes}))
    assert found.grade == grade
    assert why in found.why


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
        {"digests": {HOSTILE: HOSTILE}},
        {"code_dtype": HOSTILE},
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
        ("recall", "KM1024", "Recall: one codeword per row"),
        ("recall", "PQ2x4", "Recall: no queries"),
        ("relative_distortion", "PQ2x4", "Relative distortion: the rows measured"),
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
            make_facts(
                evaluation={},
                code_counts=np.zeros((1, 0), np.int64),
                history=[],
                pace=None,
                bytes_codes=0,
                warnings=[],
            )
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
    assert "of training rows; in sample" in page.text


@pytest.mark.parametrize("columns", [1, 3, MAX_COLUMNS + 5])
def test_points_are_bounded(columns: int) -> None:
    counts = np.tile(np.maximum(np.arange(30_000) - 1_000, 0), (columns, 1))
    history = [
        {"round": i, "rows_seen": i, "training": 1 / (i + 1), "heldout": 1.0, "dead": 0, "moved": 0}
        for i in range(30_000)
    ]
    recall = {str(k): 0.5 for k in range(1, 5000)}
    evaluation = {**make_facts().evaluation, "recall": recall, "increments": increments(1000)}
    html = render_report(make_facts(code_counts=counts, history=history, evaluation=evaluation))
    page = Page(html)
    assert len(page.plots) == len(ALL_PLOTS)
    for plot in page.plots:
        assert 0 < sum(point_counts(plot)) <= MAX_POINTS
    assert len(html.encode()) <= MAX_PAGE_BYTES
    said = re.search("([0-9]+) columns are drawn, ([0-9]+) are left out", page.text)
    drawn = {column for column in column_fields(page.plots[3]) if isinstance(column, int)}
    left_out = columns - len(drawn)
    assert (left_out > 0) == (columns > MAX_COLUMNS) == (said is not None)
    assert said is None or list(map(int, said.groups())) == [len(drawn), left_out]


def test_the_largest_codebooks_and_runs_have_a_page_of_that_size() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1000, (96, 65_536)) * (rng.random((96, 65_536)) > 0.01)
    evaluation = {
        **make_facts().evaluation,
        **{key: [1.0] * 96 for key in ("perplexity", "imbalance")},
        **{key: [1] * 96 for key in ("dead", "starved")},
    }
    finishes = [Finish(shard, 1 << 20, 2.0, 2.0 + shard / 4) for shard in range(10_000)]
    facts = make_facts(
        code_counts=counts,
        evaluation=evaluation,
        pace=measure_pace(finishes),
        source=", ".join(f"s3://bucket/part-{part}.npy" for part in range(5)),
        config_text="uri: s3://bucket/part.npy\n" * 100_000,
    )
    html = render_report(facts)
    page = Page(html)
    for plot in page.plots:
        assert 0 < sum(point_counts(plot)) <= MAX_POINTS
    assert len(html.encode()) <= MAX_PAGE_BYTES
    columns = {column for column in column_fields(page.plots[3]) if isinstance(column, int)}
    assert columns == set(range(96))
    assert "The config is longer" in page.text


def test_dead_codewords_are_marked() -> None:
    drawn = Page(render_report(make_facts(code_counts=np.array([[9, 0, 4, 0], [1, 1, 1, 1]]))))
    (dead,) = [data for data in data_of(drawn.plots[3]) if "dead" in data]
    assert dead == {"rank": [3, 4], "dead": [2, 2], "column": [0, 0]}
    assert "Dead codewords stand for no row" in drawn.text
    whole = Page(render_report(make_facts(code_counts=np.array([[9, 3, 4, 1], [1, 1, 1, 1]]))))
    assert not [data for data in data_of(whole.plots[3]) if "dead" in data]
    assert "Dead codewords stand" not in whole.text


@pytest.mark.parametrize("counts", [[[7]], [[0, 0]], [[]], [[1] * 3, [0] * 3]])
def test_odd_columns_do_not_break_the_page(counts: list[list[int]]) -> None:
    page = Page(render_report(make_facts(code_counts=np.array(counts, np.int64))))
    assert len(page.plots) == len(ALL_PLOTS) - (counts == [[]])


def test_a_distortion_that_is_not_finite_does_not_break_the_page() -> None:
    history = [{**make_facts().history[0], "training": value} for value in (math.nan, math.inf)]
    assert len(Page(render_report(make_facts(history=history))).plots) == len(ALL_PLOTS)


def test_figures_of_earlier_versions_still_make_a_page() -> None:
    old = dict(make_facts().evaluation)
    for name in ("error_histogram", "increments"):
        del old[name]
    page = Page(render_report(make_facts(evaluation=old, pace=None)))
    targets = [plot["target_id"] for plot in page.plots]
    assert targets == [name for name in ALL_PLOTS if name not in ("plot-errors", "plot-pace")]
    assert "taken by a version that did not count them" in page.text
    assert "Pace of encoding: it was not recorded" in page.text
    # The last increment was known.
    assert data_of(page.plots[-2])[0]["ratio"] == [1.02]


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
JSON = st.one_of(
    VALUES, st.lists(VALUES, max_size=3), st.dictionaries(st.text(max_size=3), VALUES, max_size=3)
)


@settings(deadline=None)
@given(st.data())
def test_what_somebody_broke_is_left_out_and_breaks_nothing(data: st.DataObject) -> None:
    def broken(whole: dict[str, Any]) -> Any:
        name = data.draw(st.sampled_from(sorted(whole)))
        return data.draw(st.one_of(JSON, st.just({**whole, name: data.draw(JSON)})))

    histogram = read_histogram(broken(HISTOGRAM))
    assert histogram is None or 0.0 <= histogram.quantile(0.5) <= histogram.edges[-1]
    pace = read_pace(broken(PACE))
    assert pace is None or pace.seconds > 0
    evaluation = {"drift": broken(DRIFT), "increments": broken({"": increments(2)})}
    assert len(read_increments(evaluation)) <= 2
    for one in read_increments({"increments": [broken(increments(1)[0])]}):
        assert abs(one.mean) + abs(one.ratio or 0.0) < math.inf


def test_half_the_rows_are_at_or_below_the_median() -> None:
    histogram = read_histogram(HISTOGRAM)
    assert histogram is not None
    assert histogram.quantile(0.0) == histogram.quantile(0.05) == 0.0
    assert histogram.quantile(0.15) == pytest.approx(3e3)
    assert histogram.quantile(0.55) == pytest.approx(4e3)
    assert histogram.quantile(1.0) == pytest.approx(6e3)
    assert 3e3 < histogram.quantile(0.5) < 4e3


def test_ticks_of_logarithmic_axes_are_few_and_round() -> None:
    for low, high in itertools.product((1e-30, 1e-3, 0.7, 1.0, 950.0, 1e9), (1.0001, 1.3, 5, 1e4, 1e40)):  # fmt: skip
        ticks = log_ticks(low, low * high)
        assert len(ticks) <= 7
        assert all(0.999 * low <= tick <= 1.001 * low * high for tick in ticks)
        assert len(ticks) >= (2 if high >= 1.3 else 1)


def test_each_colour_has_its_fellow_in_the_dark() -> None:
    """The page's script finds colours by their text, so no two may be the same."""
    shades = [shade for colour in COLOURS for shade in (colour.light, colour.dark)]
    assert len(set(shades)) == 2 * len(COLOURS)
    html = render_report(make_facts())
    for colour in COLOURS:
        assert colour.light in html
    drawn = set(re.findall(r'"(#[0-9a-f]{6})"', "".join(map(json.dumps, Page(html).plots))))
    assert drawn <= {colour.light for colour in COLOURS}


def test_bokeh_has_nothing_to_complain_of(caplog: pytest.LogCaptureFixture) -> None:
    render_report(make_facts(drift_allowed=1.5))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_page_of_an_output_in_a_store_reads_it_by_vqpipe_alone() -> None:
    page = Page(render_report(make_facts(output="s3://bucket/out")))
    assert "vqpipe.open_codes('s3://bucket/out')" in page.text
    assert "vqpipe.load_codebook('s3://bucket/out/v7/codebook.zarr')" in page.text
    assert "faiss.read_index" not in page.text


@pytest.mark.parametrize("pick", [spread_picks, dense_ended_picks])
def test_picks_are_distinct_and_keep_both_ends(pick: Any) -> None:
    for length in (1, 2, 99, 100, 101, 12_345):
        picks = pick(length, 100)
        assert picks == sorted(set(picks))
        assert (picks[0], picks[-1]) == (0, length - 1)
        assert len(picks) <= 100
