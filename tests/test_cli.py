"""The command line: exit statuses, what goes to which stream, and what a plan leaves alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import Result
from typer.testing import CliRunner

from vqpipe.cli import app

COMMAND = str(Path(sys.executable).with_name("vqpipe"))

STAGES = ["ingest", "sample", "train", "encode", "evaluate", "export", "report"]

OPTIONS = {
    "run": ["CONFIG", "--set", "--until", "--force", "--direct", "--log-json", "--json"],
    "plan": ["CONFIG", "--set", "--json"],
    "sweep": ["CONFIG", "--codebook", "--set", "--to", "--no-faiss", "--json"],
    "inspect": ["PATH", "--json"],
    "verify": ["OUTPUT", "--repair", "--rows", "--json"],
    "prune": ["OUTPUT", "--yes", "--json"],
    "search": [
        "OUTPUT",
        "--queries",
        "--format",
        "--key",
        "--queries-rows",
        "-k",
        "--to",
        "--overwrite",
        "--json",
    ],
    "decode": ["OUTPUT", "--to", "--rows", "--overwrite", "--json"],
    "members": ["OUTPUT", "--codeword", "--limit", "--to", "--overwrite", "--json"],
    "export": ["OUTPUT", "--to", "--out", "--overwrite", "--json"],
    "schema": ["--to"],
    "init": ["SOURCE"],
    "doctor": ["CONFIG", "--set", "--json"],
}

# DESIGN.md, section 5: what `run --json` prints; codewords, surplus, dead, starved and imbalance are beside it.
SUMMARY_KEYS = [
    "output",
    "generation",
    "stages",
    "rows",
    "masked_rows",
    "bytes_in",
    "bytes_codes",
    "distortion",
    "relative_distortion",
    "codewords",
    "surplus",
    "perplexity",
    "dead",
    "starved",
    "imbalance",
    "recall",
    "drift",
    "warm_start",
    "warnings",
]

CONFIG = """\
name: tiny
source: {uri: rows.npy}
output: out
codebook: PQ4x4
train: {rounds: 2}
encode: {shard_rows: 100}
evaluate: {queries: 10}
cluster: serial
"""


def vqpipe(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def run(folder: Path, *options: str) -> Result:
    return vqpipe("run", "--direct", str(folder / "config.yaml"), *options)


def found(result: Result) -> dict[str, Any]:
    """Return the one JSON object on standard output."""
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\n")
    assert result.stdout.count("\n") == 1
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


def states(summary: dict[str, Any], key: str = "status") -> dict[str, str]:
    return {stage["name"]: stage[key] for stage in summary["stages"]}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return mtime and bytes of every file and folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted([folder, *folder.rglob("*")])
    }


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((400, 16), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a finished output, for tests that only look."""
    folder = tmp_path_factory.mktemp("finished")
    rows = np.random.default_rng(0).standard_normal((400, 16), dtype=np.float32)
    np.save(folder / "rows.npy", rows)
    (folder / "config.yaml").write_text(CONFIG)
    assert run(folder).exit_code == 0
    return folder


def plain(text: str) -> str:
    """Leave out a terminal's colours and the frames of the help."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("command", OPTIONS)
def test_help_lists_every_option(command: str) -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert max(map(len, plain(result.stdout).splitlines())) <= 80
    examples = re.findall(r"• (vqpipe .*)", plain(result.stdout))
    assert examples
    assert all(example.startswith(f"vqpipe {command}") for example in examples)
    said = plain(result.stdout)
    assert [option for option in [*OPTIONS[command], "--help"] if option not in said] == []
    listed = set(re.findall(r"--[a-z-]+", said.split("Options", 1)[1].split("Example")[0]))
    wanted = {option for option in OPTIONS[command] if option.startswith("--")}
    assert listed == {*wanted, "--help"}


def test_the_help_names_every_command() -> None:
    result = vqpipe("--help")
    assert result.exit_code == 0
    assert "--install-completion" in plain(result.stdout)
    assert vqpipe("--version").stdout == f"vqpipe {version('vqpipe')}\n"
    assert [command for command in OPTIONS if command not in plain(result.stdout)] == []
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == {
        *OPTIONS
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["run"],
        ["run", "a.yaml", "b.yaml"],
        ["run", "a.yaml", "--untill", "train"],
        ["run", "a.yaml", "--until"],
        ["plan", "a.yaml", "--direct"],
        ["inspect"],
        ["schema", "a"],
    ],
    ids=" ".join,
)
def test_a_command_line_that_is_wrong_is_status_2(arguments: list[str]) -> None:
    result = vqpipe(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error" in plain(result.stderr)
    assert "Traceback" not in result.stderr


def test_a_run_prints_one_json_object_and_the_next_run_skips_every_stage(folder: Path) -> None:
    first = found(run(folder, "--json"))
    assert list(first) == SUMMARY_KEYS
    assert [stage["name"] for stage in first["stages"]] == STAGES
    for stage in first["stages"]:
        assert list(stage) == ["name", "status", "reason", "seconds"]
        assert stage["status"] in ("done", "skipped")
        assert stage["reason"]
        assert stage["seconds"] >= 0
    assert states(first) == {**dict.fromkeys(STAGES, "done"), "ingest": "skipped"}
    assert first["output"] == str(folder / "out")
    assert (first["generation"], first["rows"], first["masked_rows"]) == ("v1", 400, 0)
    assert first["bytes_in"] == 400 * 16 * 4
    stored = folder / "out/v1/codes.zarr/codes/c"
    assert first["bytes_codes"] == sum(
        path.stat().st_size for path in stored.rglob("*") if path.is_file()
    )
    assert 0 < first["relative_distortion"] < 1
    assert first["codewords"] == 16
    for name in ("surplus", "perplexity", "dead", "starved", "imbalance"):
        assert len(first[name]) == 4
    assert list(first["recall"]) == ["1", "10", "100"]
    assert first["warnings"] == []
    evaluation = json.loads((folder / "out/v1/evaluation.json").read_text())
    for name in (
        "rows",
        "masked_rows",
        "distortion",
        "relative_distortion",
        "codewords",
        "surplus",
        "perplexity",
        "dead",
        "starved",
        "imbalance",
        "recall",
    ):
        assert evaluation[name] == first[name]
    assert (folder / "out/current").read_text() == "v1\n"

    before = snapshot(folder / "out/v1")
    second = found(run(folder, "--json"))
    assert states(second) == dict.fromkeys(STAGES, "skipped")
    for stage in second["stages"]:
        assert stage["seconds"] == 0.0
        assert stage["reason"]
    assert {**second, "stages": 0} == {**first, "stages": 0}
    assert snapshot(folder / "out/v1") == before


def test_a_run_tells_people_what_it_does(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0, result.output
    for stage in STAGES:
        assert re.search(rf"^{stage}\b", result.stderr, re.MULTILINE)
    assert "400 rows" in result.stdout
    assert str(folder / "out") in result.stdout
    for word in ("25,600 bytes", "distortion", "code use", "recall", "@1 "):
        assert word in result.stdout
    use = (
        r"perplexity 1[0-5]\.\d of 16 \(least\), 0 dead, \d+ starved, imbalance \d\.\d \(largest\)"
    )
    assert re.search(use, result.stdout)
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.stdout)
    again = run(folder)
    assert again.stdout == result.stdout
    assert again.stderr.count("skipped") == len(STAGES)


def test_labels_of_km_have_no_recall(folder: Path) -> None:
    summary = found(run(folder, "--json", "--set", "codebook=KM8"))
    assert summary["recall"] is None
    assert len(summary["perplexity"]) == 1
    said = run(folder, "--set", "codebook=KM8").stdout
    assert re.search(
        r"perplexity \d\.\d of 8, 0 dead, \d starved, imbalance \d\.\d$", said, re.MULTILINE
    )


def test_a_plan_says_what_is_to_do_and_changes_nothing(folder: Path) -> None:
    before = snapshot(folder)
    config = str(folder / "config.yaml")
    plan = found(vqpipe("plan", config, "--json"))
    assert snapshot(folder) == before
    assert states(plan, "state") == {**dict.fromkeys(STAGES, "to do"), "ingest": "done"}
    assert (plan["rows"], plan["generation"]) == (400, "v1")
    assert plan["output"] == str(folder / "out")
    encode = plan["stages"][3]
    assert (encode["rows"], encode["tasks"]) == (400, 4)
    assert encode["bytes_read"] == 400 * 16 * 4
    for stage in plan["stages"]:
        assert {"name", "state", "reason", "rows", "bytes_read", "tasks", "seconds"} <= set(stage)
        assert stage["reason"]
        assert 0 <= stage["worker_bytes"] <= plan["memory_per_worker"]

    assert found(run(folder, "--json", "--until", "encode"))
    before = snapshot(folder)
    plan = found(vqpipe("plan", config, "--json"))
    assert snapshot(folder) == before
    done = dict.fromkeys(STAGES[:4], "done")
    assert states(plan, "state") == {**done, **dict.fromkeys(STAGES[4:], "to do")}

    assert found(run(folder, "--json"))
    before = snapshot(folder)
    plan = found(vqpipe("plan", config, "--json"))
    assert states(plan, "state") == dict.fromkeys(STAGES, "done")
    assert {stage["rows"] for stage in plan["stages"]} == {0}
    changed = found(vqpipe("plan", config, "--json", "--set", "codebook=PQ2x4"))
    assert changed["generation"] == "v2"
    assert states(changed, "state")["sample"] == "done"
    assert states(changed, "state")["train"] == "to do"
    assert "PQ4x4 -> PQ2x4" in changed["stages"][2]["reason"]
    assert snapshot(folder) == before


def test_a_grown_source_is_planned_as_partial(folder: Path) -> None:
    assert run(folder).exit_code == 0
    rows = np.load(folder / "rows.npy")
    np.save(folder / "rows.npy", np.concatenate([rows, rows[:50]]))
    before = snapshot(folder)
    plan = found(vqpipe("plan", str(folder / "config.yaml"), "--json"))
    assert snapshot(folder) == before
    assert plan["generation"] == "v1"
    assert states(plan, "state")["train"] == "done"
    # The file was written anew, so its state says nothing of the old rows: all shards are to do.
    assert states(plan, "state")["encode"] in ("partial", "to do")
    assert states(plan, "state")["evaluate"] == "to do"


def test_a_plan_tells_people_the_same(finished: Path) -> None:
    before = snapshot(finished)
    result = vqpipe("plan", str(finished / "config.yaml"))
    assert result.exit_code == 0
    assert "(v1): 400 rows" in result.stdout
    for stage in STAGES:
        assert re.search(rf"^{stage} +done", result.stdout, re.MULTILINE)
    assert result.stderr == ""
    assert snapshot(finished) == before


def test_inspect_a_source(finished: Path) -> None:
    what = found(vqpipe("inspect", str(finished / "rows.npy"), "--json"))
    wanted = {"what": "source", "format": "npy", "rows": 400, "dim": 16, "dtype": "float32"}
    assert {key: what[key] for key in wanted} == wanted
    assert what["bytes"] == 400 * 16 * 4
    assert "rows: 400" in vqpipe("inspect", str(finished / "rows.npy")).stdout


def test_inspect_a_codebook(finished: Path) -> None:
    path = finished / "out/v1/codebook.zarr"
    what = found(vqpipe("inspect", str(path), "--json"))
    wanted = {"what": "codebook", "codebook": "PQ4x4", "metric": "l2", "dim": 16, "rounds": 2}
    assert {key: what[key] for key in wanted} == wanted
    assert what["digest"] == zarr.open_group(path, mode="r").attrs["digest"]
    assert "PQ4x4" in vqpipe("inspect", str(path)).stdout


def test_inspect_codes(finished: Path) -> None:
    path = str(finished / "out/v1/codes.zarr")
    what = found(vqpipe("inspect", path, "--json"))
    wanted = {"what": "codes", "rows": 400, "columns": 4, "dtype": "uint8"}
    assert {key: what[key] for key in wanted} == wanted
    assert (what["shards"], what["shards_done"]) == (4, 4)
    assert "shards_done: 4" in vqpipe("inspect", path).stdout


def test_inspect_an_output(finished: Path) -> None:
    before = snapshot(finished)
    what = found(vqpipe("inspect", str(finished / "out"), "--json"))
    assert (what["what"], what["current"], what["last_run"]["status"]) == ("output", "v1", "done")
    (generation,) = what["generations"]
    assert (generation["name"], generation["codebook"], generation["rows"]) == ("v1", "PQ4x4", 400)
    said = vqpipe("inspect", str(finished / "out")).stdout
    assert "current: v1" in said
    assert "codebook: PQ4x4" in said
    assert snapshot(finished) == before


def test_inspect_an_output_that_is_not_finished(folder: Path) -> None:
    assert run(folder, "--until", "train").exit_code == 0
    what = found(vqpipe("inspect", str(folder / "out"), "--json"))
    assert what["current"] is None
    assert what["generations"][0]["stages"]["train"] == "done"
    assert "encode" not in what["generations"][0]["stages"]


@pytest.mark.parametrize("name", ["", "none", "config.yaml", "rows.npy/x"])
def test_inspect_nothing_that_is_known(finished: Path, name: str) -> None:
    result = vqpipe("inspect", str(finished / name))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert str(finished / name) in result.stderr
    assert "Traceback" not in result.stderr


def test_until_train_moves_no_current(folder: Path) -> None:
    summary = found(run(folder, "--json", "--until", "train"))
    assert [stage["name"] for stage in summary["stages"]] == STAGES[:3]
    assert summary["distortion"] is None
    assert summary["recall"] is None
    assert summary["bytes_codes"] == 0
    assert not (folder / "out/current").exists()
    assert not (folder / "out/v1/codes.zarr").exists()
    assert found(run(folder, "--json", "--until", "report"))
    assert not (folder / "out/current").exists()
    assert found(run(folder, "--json"))
    assert (folder / "out/current").read_text() == "v1\n"


def test_until_leaves_current_with_the_generation_before(folder: Path) -> None:
    assert run(folder).exit_code == 0
    summary = found(run(folder, "--json", "--set", "codebook=PQ2x4", "--until", "export"))
    assert summary["generation"] == "v2"
    assert (folder / "out/current").read_text() == "v1\n"
    assert run(folder, "--set", "codebook=PQ2x4").exit_code == 0
    assert (folder / "out/current").read_text() == "v2\n"
    # Going back finds the old generation again.
    back = found(run(folder, "--json"))
    assert back["generation"] == "v1"
    assert set(states(back).values()) == {"skipped"}
    assert (folder / "out/current").read_text() == "v1\n"


@pytest.mark.parametrize(
    ("stage", "generation", "redone"),
    [
        ("ingest", "v2", STAGES[1:]),
        ("sample", "v2", STAGES[1:]),
        ("train", "v2", STAGES[2:]),
        ("encode", "v2", STAGES[3:]),
        ("evaluate", "v1", STAGES[4:]),
        ("export", "v1", STAGES[5:]),
        ("report", "v1", STAGES[6:]),
    ],
)
def test_force_redoes_a_stage_and_what_follows(
    folder: Path, stage: str, generation: str, redone: list[str]
) -> None:
    assert run(folder).exit_code == 0
    codes = snapshot(folder / "out/v1/codes.zarr/codes")
    summary = found(run(folder, "--json", "--force", stage))
    assert summary["generation"] == generation
    assert [name for name, state in states(summary).items() if state == "done"] == redone
    assert (folder / "out/current").read_text() == f"{generation}\n"
    assert snapshot(folder / "out/v1/codes.zarr/codes") == codes
    # The same rows and settings again: the same bytes again.
    written = {
        name: content
        for name, (_, content) in snapshot(folder / f"out/{generation}/codes.zarr/codes").items()
    }
    assert written == {name: content for name, (_, content) in codes.items()}
    assert set(states(found(run(folder, "--json"))).values()) == {"skipped"}


def test_what_is_wrong_goes_to_standard_error_alone(folder: Path) -> None:
    (folder / "rows.npy").unlink()
    for command in (["run", "--direct"], ["run", "--direct", "--json"], ["plan"]):
        result = vqpipe(*command, str(folder / "config.yaml"))
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"error: source {folder}/rows.npy: there is no such file")
        assert result.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_fault_of_our_own_is_told_from_a_wrong_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("vqpipe.cli.inspect.inspect_path", fail)
    result = vqpipe("inspect", str(folder))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ZeroDivisionError: by accident" in result.stderr
    assert "a fault of vqpipe itself" in result.stderr
    assert "vqpipe doctor" in result.stderr.splitlines()[-1]


def test_schema_takes_no_config_and_prints_json() -> None:
    result = vqpipe("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == "Config"
    assert result.stderr == ""


def test_the_installed_command_keeps_to_its_streams_and_statuses(folder: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False
        )

    done = call("run", "config.yaml", "--direct", "--json")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == SUMMARY_KEYS
    assert done.stdout.count("\n") == 1
    assert "\x1b" not in done.stderr
    refused = call("run", "config.yaml", "--direct", "--set", "source.uri=none.npy")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert f"{folder}/none.npy" in refused.stderr
    unknown = call("trian")
    assert unknown.returncode == 2
    assert unknown.stdout == ""


def test_sigterm_is_status_143_and_leaves_a_resumable_output(folder: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 32), dtype=np.float32)
    np.save(folder / "rows.npy", rows)
    # More rounds than any test waits for.
    options = ["--set", "train={rounds: 100000, stop: 0}", "--set", "codebook=KM256"]
    process = subprocess.Popen(
        [COMMAND, "run", "config.yaml", "--direct", "--json", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("sample"):
            break
    # Between two stages there is none to name.
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert out == ""
    assert "Traceback" not in error
    # It may come before the stage that follows has begun.
    assert re.search(
        r"^interrupted( in train: training goes on|: what is done stays)", error, re.MULTILINE
    )
    assert "go on with:\n  vqpipe run config.yaml --direct --json --set" in error
    assert not (folder / "out/current").exists()
    resumed = found(run(folder, "--json", *options[2:], "--set", "train.rounds=2"))
    assert states(resumed)["sample"] == "skipped"
