"""What a person sees while a run works: in a real terminal, and as lines where there is none."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from terminal import CTRL_C, terminal
from typer.testing import CliRunner

import vqpipe.progress
from vqpipe.cli import app
from vqpipe.cli import display as display_module
from vqpipe.cli.display import Display, fold_facts
from vqpipe.cli.run import go_on
from vqpipe.progress import Headway

CONFIG = """\
source: {uri: rows.npy}
output: out
codebook: PQ4x4
train: {rounds: 2}
encode: {shard_rows: 40}
evaluate: {queries: 10}
cluster: serial
"""

# The fourth shard takes as long as it is let; memory is told at every outcome.
HOLD = """
import time
import vqpipe.engines.serial as serial, vqpipe.pipeline.survey as survey
run = serial.run_single_threaded
survey.MEMORY_SECONDS = 0

def hold(task, item, job):
    if task.__name__ == "encode_shard" and item.index == 3:
        time.sleep(100)
    return run(task, item, job)

serial.run_single_threaded = hold
"""
ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(rb"\x1b\[(?:[0-9]+;)*(?:3[0-79]|9[0-7]|38;[0-9;]+)m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((400, 16), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "my config.yaml").write_text(CONFIG)
    return tmp_path


def test_ctrl_c_in_encode_says_what_is_kept_and_the_command_that_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", "my config.yaml", "--direct", "--set", "train.rounds=3")
    with terminal(*arguments, patch=HOLD, cwd=folder) as shown:
        seen = shown.until(lambda text: "3 of 10 shards" in text and "memory" in text)
        assert re.search(r"^✓ ingest    done before: npy is read in place$", seen, re.MULTILINE)
        assert re.search(r"^✓ train     done in \d+\.\d s: codebook PQ4x4", seen, re.MULTILINE)
        *_, bar, facts = shown.lines()
        assert re.fullmatch(r"  encode    ━+[╸╺]?━* +30% [\d,]+ rows/s  0:\d\d left", bar)
        assert re.fullmatch(r" {12}3 of 10 shards; memory \d+ MiB", facts)
        shown.press(CTRL_C)
        assert shown.wait() == 130
        *_, said, command = shown.lines()
        assert said == "interrupted in encode: 3 of 10 shards are encoded and stay so; go on with:"
        assert command == "  vqpipe run 'my config.yaml' --direct --set train.rounds=3"
        assert "encode    ━" not in shown.text
        assert b"Traceback" not in shown.written
    assert json.loads((folder / "out/run.json").read_text())["status"] == "stopped"
    monkeypatch.chdir(folder)
    again = CliRunner().invoke(app, [*shlex.split(command)[1:], "--json"])
    stages = {stage["name"]: stage for stage in json.loads(again.stdout)["stages"]}
    assert [stages[name]["status"] for name in ("sample", "train")] == ["skipped"] * 2
    assert "in 7 shards; 3 shards were there" in stages["encode"]["reason"]


def test_ctrl_c_reaches_workers_as_well_and_none_of_them_says_a_word(tmp_path: Path) -> None:
    config = tmp_path / "many.yaml"
    config.write_text(
        "source: {uri: 'synthetic:mixture?rows=4e4&dim=8&seed=0'}\noutput: out\ncodebook: PQ2x4\n"
        "train: {rounds: 2, rows: 1000, heldout_rows: 100}\nencode: {shard_rows: 20}\nevaluate: {queries: 0}\n"
        "cluster: {scale: 1}\n"
    )
    patch = "import vqpipe.pipeline.survey as survey; survey.MEMORY_SECONDS = 0.1"
    with terminal("run", str(config), "--direct", patch=patch) as shown:
        # An encode that has begun on a worker, whose memory is known by then.
        shown.until(lambda text: re.search(r"[1-9]\d* of 2,000 shards; .*, the worker \d", text))
        shown.press(CTRL_C)
        assert shown.wait() == 130
        assert b"Traceback" not in shown.written
        said = shown.text
    assert re.search(r"^interrupted in encode: [\d,]+ of 2,000 shards are", said, re.MULTILINE)
    assert said.count("\n") < 10


@pytest.mark.long
@pytest.mark.prefect
def test_ctrl_c_leaves_the_temporary_server_until_the_flow_has_ended(
    folder: Path, tmp_path: Path
) -> None:
    settings = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": ""}
    with terminal("run", "my config.yaml", patch=HOLD, cwd=folder, env=settings) as shown:
        shown.until(lambda text: "3 of 10 shards" in text)
        shown.press(CTRL_C)
        assert shown.wait() == 130
        assert b"Traceback" not in shown.written
        *_, said, command = shown.lines()
    assert said.startswith("interrupted in encode: 3 of 10 shards are encoded")
    assert command == "  vqpipe run 'my config.yaml'"


# A run of three stages as the display is told of it, slow enough to be drawn.
SHOWN = """
import time
from vqpipe.cli.display import Display
with Display() as display:
    display.finish("ingest", "skipped", "npy is read in place", 0.0)
    display.say("dashboard: http://127.0.0.1:8787/status")
    display.begin("train", 1000, "rows", done=300)
    display.use_memory(210 << 20, 980 << 20, 2)
    display.advance(100, "round 4 of at most 40, held-out distortion 0.140766")
    time.sleep(0.6)
    display.finish("train", "done", "codebook PQ20x8 in 20 rounds, digest 9080254e1408 (the output is new)", 1.9)
    display.begin("encode", 20000, "rows", shards=120)
    time.sleep(0.6)
"""


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_picture_fits_and_leaves_the_outcome_of_each_stage(columns: int) -> None:
    with terminal(code=SHOWN, columns=columns) as shown:
        shown.until(lambda text: "round 4" in text)
        assert re.search(r"\n  train     ━+[╸╺]?━* +40% [\d,]+ rows/s  \d+:\d\d left\n", shown.text)
        shown.until(lambda text: "0 of 120 shards" in text)
        assert shown.wait() == 0
        lines, written = shown.lines(), ESCAPE.sub(b"", shown.written).decode()
    # Nothing is cut: what does not fit is folded below the stage's words, and no line is left to the terminal.
    assert max(map(len, re.split(r"[\r\n]+", written))) <= columns
    assert lines[:2] == [
        "✓ ingest    done before: npy is read in place",
        "dashboard: http://127.0.0.1:8787/status",
    ]
    told = "✓ train     done in 1.9 s: codebook PQ20x8 in 20 rounds, digest 9080254e1408 (the output is new)"
    assert " ".join(" ".join(lines[2:]).split()) == " ".join(told.split())
    assert all(line.startswith(" " * 12) for line in lines[3:])


@pytest.mark.parametrize(
    ("variables", "is_coloured", "is_live"),
    [({}, True, True), ({"NO_COLOR": "1"}, False, True), ({"TERM": "dumb"}, False, False)],
    ids=["plain", "no colour", "dumb"],
)
def test_a_terminal_gets_what_it_can_show(
    variables: dict[str, str], is_coloured: bool, is_live: bool
) -> None:
    with terminal(code=SHOWN, env=variables) as shown:
        assert shown.wait() == 0
        assert bool(COLOUR.search(shown.written)) is is_coloured
        # A live picture hides the cursor.
        assert (b"\x1b[?25l" in shown.written) is is_live
        assert (b"\x1b" in shown.written) is is_live
        assert ("✓ train" in shown.text) is is_live
        assert "codebook PQ20x8 in 20 rounds" in shown.text


HEADWAYS = st.builds(
    Headway,
    stage=st.sampled_from(["sample", "train", "encode", "evaluate", "report"]),
    total=st.integers(0, 10**11),
    unit=st.just("rows"),
    done=st.integers(0, 10**10),
    shards=st.integers(0, 10**5),
    note=st.sampled_from(["", "round 40 of at most 161, held-out distortion 0.140766"]),
)


@given(HEADWAYS, st.integers(60, 200), st.integers(0, 10**10))
def test_no_line_of_the_picture_is_wider_than_the_terminal(
    headway: Headway, columns: int, done: int
) -> None:
    headway.advance(done, "", 1)
    headway.use_memory(300 << 20, 2 << 30, 64)
    display = Display()
    file = io.StringIO()
    display._console = Console(file=file, width=columns, force_terminal=True, color_system=None)
    display._headway = headway
    display._console.print(display._draw())
    lines = file.getvalue().rstrip("\n").split("\n")
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith(f"  {headway.stage}")
    if headway.total:
        # Of a rate that no machine has, the end may be cut; never the facts below.
        assert f"{headway.share:.0%}" in lines[0]
        assert "64 workers up to 2,048 MiB" in " ".join(lines)


def test_a_picture_without_unicode_is_drawn_with_letters() -> None:
    display = Display()
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    display._console = Console(file=file, width=80, force_terminal=True, color_system=None)
    display._is_live = True
    display._headway = Headway("encode", 10, "rows", 5)
    display._console.print(display._draw())
    display.finish("encode", "done", "so", 1.0)
    file.flush()
    assert file.buffer.getvalue().decode("ascii").endswith("* encode    done in 1.0 s: so\n")


def test_what_was_done_before_has_no_part_in_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(vqpipe.progress.time, "monotonic", lambda: now)
    headway = Headway("train", 1000, "rows", done=500)
    assert (headway.share, headway.rate, headway.pace) == (0.5, 0.0, "")
    now += 10
    headway.advance(100, "round 3", 0)
    assert headway.rate == 10
    assert headway.pace == "10 rows/s, 0:40 left"
    assert str(headway) == "train: 600 of 1,000 rows, 10 rows/s, 0:40 left, round 3"


def test_of_a_few_large_things_the_time_left_is_told_and_no_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(vqpipe.progress.time, "monotonic", lambda: now)
    headway = Headway("faiss", 4, "codebooks")
    now += 50
    headway.advance(2, "RQ8x8", 0)
    assert str(headway) == "faiss: 2 of 4 codebooks, 0:50 left, RQ8x8"


def test_the_rate_is_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(vqpipe.progress.time, "monotonic", lambda: now)
    headway = Headway("encode", 10**6, "rows")
    for amount, seconds in ((1, 100), (10, 200)):
        for _ in range(seconds):
            now += 1
            headway.advance(amount, "", 0)
    assert headway.rate == pytest.approx(10)
    assert len(headway._marks) < vqpipe.progress.RATE_SECONDS + 3


def test_a_log_gets_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(vqpipe.progress.time, "monotonic", lambda: now)
    with Display() as display:
        display.begin("encode", 1000, "rows", shards=120, shards_done=20)
        for _ in range(100):
            now += 0.5
            display.use_memory(210 << 20, 980 << 20, 2)
            display.advance(10, shards=1)
        display.finish("encode", "done", "1,000 rows in 100 shards", 50.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == (
        "encode: 210 of 1,000 rows, 20 rows/s, 0:40 left, 41 of 120 shards, memory 210 MiB, "
        "2 workers up to 980 MiB"
    )
    assert lines[-1] == "encode    done in 50.0 s: 1,000 rows in 100 shards"
    assert display_module.LINE_SECONDS == 10


@pytest.mark.parametrize(
    ("given_command", "wanted"),
    [
        ("run c.yaml --force encode --json", "run c.yaml --json"),
        ("run --force=ingest c.yaml", "run c.yaml"),
        # What is redone in place is redone in the run that goes on as well.
        ("run c.yaml --force evaluate", "run c.yaml --force evaluate"),
        ("run c.yaml --set name=train --until train", "run c.yaml --set name=train --until train"),
    ],
)
def test_the_command_that_goes_on_begins_no_other_generation(
    given_command: str, wanted: str
) -> None:
    assert go_on(["/bin/vqpipe", *shlex.split(given_command)]) == f"vqpipe {wanted}"


@given(st.lists(st.text("abc ", min_size=1, max_size=50), max_size=6), st.integers(60, 200))
def test_facts_are_folded_and_never_lost(facts: list[str], columns: int) -> None:
    lines = fold_facts(facts, columns)
    assert "; ".join(line[12:] for line in lines) == "; ".join(facts)
    assert all(len(line) < max(columns, 12 + 51) for line in lines)
