"""The report of a real run: its lines run, its files are all there are, and a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import WORDS, config_of, run_here, statuses

import vqpipe
from vqpipe.config import Config
from vqpipe.pipeline.generation import current_name
from vqpipe.report.drawing import COLOURS
from vqpipe.storage.folder import Folder

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# As root Chromium starts without its sandbox only; /dev/shm is small in containers.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]

# No measure of anything: a machine that does much else takes long to start a browser.
PATIENCE_MS = 300_000

PLOTS = 7
PHONE_WIDTH = 360


@dataclass(frozen=True)
class Finished:
    config: Config
    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / "v1/report.html"

    @property
    def text(self) -> str:
        return self.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run in three increments, so that there is something to draw in every plot."""
    folder = tmp_path_factory.mktemp("report")
    vectors = np.load(WORDS)[:3500].astype(np.float32)
    vectors[2500:] *= 1.2
    config = config_of(
        folder, folder / "rows.npy", "PQ4x5",
        encode__shard_rows=500, train__rounds=4, drift={"distortion": 1.3}, export=["faiss", "npy"]
    )  # fmt: skip
    for rows in (2000, 2500, 3500):
        np.save(folder / "rows.npy", vectors[:rows])
        run_here(config)
    return Finished(config, folder / "out")


def test_the_lines_on_the_page_run(finished: Finished) -> None:
    blocks = re.findall(r'<pre class="python">(.*?)</pre>', finished.text, re.DOTALL)
    codes_lines, faiss_lines = map(html.unescape, blocks)
    assert len(codes_lines.splitlines()) == 5
    assert len(faiss_lines.splitlines()) == 2
    names: dict[str, Any] = {}
    exec(codes_lines, names)
    exec(faiss_lines, names)
    assert names["codes"].shape == (3500, 4)
    assert names["vectors"].shape == (1000, 100)
    assert names["vectors"].dtype == np.float32
    assert (names["again"] == names["codes"][:1000]).all()
    assert names["index"].ntotal == 3500


def test_every_byte_of_the_output_is_listed(finished: Finished) -> None:
    rows = re.findall(
        r'<div class="entry"><code>(.*?)</code>.*?(?:title="([0-9,]+) bytes"|small)', finished.text
    )
    listed = {path: int(size.replace(",", "")) if size else None for path, size in rows}
    assert next(iter(listed)) == "run.json"
    sizes: dict[str, int] = {}
    for file in finished.folder.rglob("*"):
        if not file.is_file():
            continue
        path = str(file.relative_to(finished.folder))
        names = [name for name in listed if path == name or path.startswith(f"{name}/")]
        if path not in ("current", "lease.json"):
            # The longest name is the one that says most of what it is.
            name = max(names, key=len)
            sizes[name] = sizes.get(name, 0) + file.stat().st_size
    written_again = {"run.json", "v1/stages.json", "v1/report.html"}
    assert {name for name, size in listed.items() if size is None} == written_again
    assert sizes.keys() == listed.keys()
    assert {name: size for name, size in sizes.items() if name not in written_again} == {
        name: size for name, size in listed.items() if size is not None
    }


def test_the_histogram_is_that_of_the_held_out_rows(finished: Finished) -> None:
    figures = json.loads((finished.folder / "v1/evaluation.json").read_text())
    (sample,) = (finished.folder / "samples").iterdir()
    import zarr

    heldout = np.asarray(zarr.open_array(str(sample / "heldout"), mode="r")[:], np.float64)
    quantizer = vqpipe.load_codebook(finished.folder / "v1/codebook.zarr")
    codes = quantizer.encode(heldout.astype(np.float32))
    errors = ((heldout - quantizer.decode(codes).astype(np.float64)) ** 2).sum(axis=1)
    found = figures["error_histogram"]
    assert sum(found["counts"]) + found["zero"] == len(heldout)
    counts, _ = np.histogram(errors, found["edges"])
    # An error at the edge of a bin may be rounded to its other side.
    assert np.abs(counts - found["counts"]).sum() <= 2


def test_outputs_of_earlier_versions_get_a_page(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished.folder, folder)
    figures = json.loads((folder / "v1/evaluation.json").read_text())
    for name in ("error_histogram", "increments"):
        del figures[name]
    (folder / "v1/evaluation.json").write_text(json.dumps(figures))
    stages = json.loads((folder / "v1/stages.json").read_text())
    del stages["stages"]["encode"]["pace"]
    # Its page was another.
    stages["stages"]["report"]["fingerprint"] = "0" * 64
    (folder / "v1/stages.json").write_text(json.dumps(stages))
    config = finished.config.model_copy(update={"output": str(folder)})
    assert current_name(Folder(str(folder))) == "v1"
    done = statuses(run_here(config))
    assert {name for name, status in done.items() if status == "done"} == {"report"}
    page = (folder / "v1/report.html").read_text()
    assert "Pace of encoding: it was not recorded" in page
    assert 'id="plot-ratios"' in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install '.[dev]'"
    )
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}): apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS, timeout=PATIENCE_MS)
        yield started
        started.close()


@dataclass
class Visit:
    """A page in a browser, and what it said and asked for meanwhile."""

    page: Any
    said: list[str]
    asked: list[str]

    def plots(self, script: str) -> list[Any]:
        """Return what a function of a plot's element gives, for every plot."""
        found: list[Any] = self.page.evaluate(
            f"[...document.querySelectorAll('.plot')].map({script})"
        )
        return found


@pytest.fixture
def visit(browser: Any, finished: Finished, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page, drawn; the test's parameter is what the screen is like."""
    context = browser.new_context(**request.param)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    seen = Visit(page, [], [])
    page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.said.append(f"error: {error}"))
    page.on("request", lambda asked: seen.asked.append(asked.url))
    page.goto(finished.page.as_uri())
    page.wait_for_selector("html[data-drawn]")
    yield seen
    # Whatever was done with it meanwhile.
    assert seen.asked == [finished.page.as_uri()]
    assert [line for line in seen.said if not line.startswith(("log:", "info:"))] == []
    context.close()


# How many pixels of a plot are of a colour, and how many are of any.
PIXELS = """(element) => {
  const view = drawn.flatMap((manager) => [...manager]).find((one) => one.model.tags[0] === element.id);
  const layer = view.export("png");
  const {width, height} = layer.canvas;
  const bytes = layer.canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const found = {};
  for (let at = 0; at < bytes.length; at += 4) {
    if (bytes[at + 3] < 255) continue;
    const colour = "#" + [0, 1, 2].map((i) => bytes[at + i].toString(16).padStart(2, "0")).join("");
    found[colour] = (found[colour] || 0) + 1;
  }
  return found;
}"""


def rgb(colour: str) -> str:
    return f"rgb({','.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


DESKTOP = {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light"}
PHONE = {"viewport": {"width": PHONE_WIDTH, "height": 740}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize("visit", [DESKTOP], indirect=True, ids=["desktop"])
def test_plots_are_drawn_tell_their_figures_and_follow_the_colour_scheme(visit: Visit) -> None:
    page = visit.page
    lights, darks = {colour.light for colour in COLOURS}, {colour.dark for colour in COLOURS}
    light = visit.plots(PIXELS)
    assert len(light) == PLOTS
    for pixels in light:
        assert sum(pixels.get(colour, 0) for colour in lights) > 300
        assert not darks & pixels.keys()

    for place in range(PLOTS):
        box = page.locator(".plot").nth(place)
        box.scroll_into_view_if_needed()
        area = box.bounding_box()
        # Down through the middle, in steps that no line slips through.
        for down in range(20, 80, 2):
            page.mouse.move(
                area["x"] + area["width"] * 0.5, area["y"] + area["height"] * down / 100
            )
            page.wait_for_timeout(40)
            if page.locator(".bk-Tooltip:visible").count():
                break
        else:
            pytest.fail(f"plot {place} tells nothing where the pointer is")
        page.mouse.move(0, 0)

    white = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-drawn=dark]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != white
    dark = visit.plots(PIXELS)
    assert len(dark) == PLOTS
    for pixels in dark:
        assert sum(pixels.get(colour, 0) for colour in darks) > 300
        assert not lights & pixels.keys()

    # Paper is light, whatever the screen is like, and plots are as wide as it lets them.
    page.evaluate("drawForPaper()")
    page.emulate_media(media="print")
    drawings = page.evaluate(
        "[...document.querySelectorAll('.paper svg')].map((one) => [one.outerHTML, one.getBoundingClientRect().right])"
    )
    assert len(drawings) == PLOTS
    for drawing, right in drawings:
        assert 0 < right <= 1200
        # Only what is written as text can be given other colours.
        assert "<image" not in drawing
        assert not any(shade in drawing for dark in darks for shade in (dark, rgb(dark)))
        assert any(shade in drawing for light in lights for shade in (light, rgb(light)))
    page.emulate_media(media="screen")
    paper = page.pdf(format="A4")
    assert page.locator(".paper").count() == 0
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 12


@pytest.mark.parametrize("visit", [PHONE], indirect=True, ids=["phone"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit: Visit) -> None:
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE_WIDTH
    for pixels, (left, right) in zip(
        visit.plots(PIXELS),
        visit.plots("(e) => [e.getBoundingClientRect().left, e.getBoundingClientRect().right]"),
        strict=True,
    ):
        assert sum(pixels.values()) > 300
        assert 0 <= left < right <= PHONE_WIDTH
    # What is wider than the screen lies in something of its own that scrolls.
    outside = page.evaluate(
        f"""[...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll, pre, script, .plot"))
            .filter((one) => one.getBoundingClientRect().right > {PHONE_WIDTH} + 0.5).map((one) => one.outerHTML)"""
    )
    assert outside == []
    plot = page.locator("#plot-errors")
    plot.scroll_into_view_if_needed()
    plot.tap()
    page.wait_for_selector(".bk-Tooltip")
    # A plot must not keep a finger from moving the page.
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE_WIDTH
