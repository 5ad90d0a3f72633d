"""What a run logs for machines: one JSON object a line, with the run, the stage and the shard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from runs import WORDS, run_command

from vqpipe.config import STAGES


def logged(*arguments: str) -> tuple[int, str, list[dict[str, object]]]:
    """Run the command line and return its status, standard output and log."""
    process = run_command("run", *arguments, "--direct", "--log-json")
    stdout, stderr = process.communicate(timeout=300)
    lines = [line for line in stderr.splitlines() if line.startswith("{")]
    return process.returncode, stdout, [json.loads(line) for line in lines]


def write_config(folder: Path, source: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(
        f"source: {{uri: {source}}}\noutput: out\ncodebook: KM8\ncluster: serial\n"
        "train: {rows: 2000, rounds: 2}\nencode: {shard_rows: 4096}\nexport: []\n"
    )
    return str(path)


def test_every_line_of_a_stage_names_its_run_and_stage(tmp_path: Path) -> None:
    status, stdout, lines = logged(write_config(tmp_path, WORDS), "--json")
    assert status == 0
    assert json.loads(stdout)["rows"] == 20_000
    ended = [
        line
        for line in lines
        if " in " in str(line["message"]) and line["logger"] == "vqpipe.progress"
    ]
    assert [line["stage"] for line in ended] == list(STAGES)
    assert len({line["run"] for line in ended}) == 1
    assert all(line["time"] and line["level"] for line in lines)


def test_a_failed_shard_has_a_line_of_its_own(tmp_path: Path) -> None:
    rows = np.load(WORDS).astype(np.float32)
    rows[[5000, 13_000]] = np.nan
    np.save(tmp_path / "a.npy", rows)
    status, _, lines = logged(write_config(tmp_path, tmp_path / "a.npy"))
    assert status == 2
    failed = [line for line in lines if "shard" in line]
    assert [(line["shard"], line["stage"], line["level"]) for line in failed] == [
        (1, "encode", "error"),
        (3, "encode", "error"),
    ]
    assert "row 5,000" in str(failed[0]["message"]).replace("5000", "5,000")


def test_the_record_has_memory_and_rates_of_every_stage_that_worked(tmp_path: Path) -> None:
    config = write_config(tmp_path, WORDS)
    Path(config).write_text(
        Path(config).read_text().replace("cluster: serial", "cluster: {scale: 1}")
    )
    status, _, lines = logged(config, "--until", "encode")
    assert status == 0
    assert any(str(line["message"]).startswith("dashboard: http") for line in lines)
    work = json.loads((tmp_path / "out/run.json").read_text())["work"]
    assert work["encode"]["rows_per_second"] == pytest.approx(20_000 / work["encode"]["seconds"])
    for stage in ("sample", "train", "encode"):
        assert work[stage]["worker_peak_bytes"] > 20 << 20
        assert work[stage]["driver_peak_bytes"] > 20 << 20
