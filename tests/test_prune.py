"""Prune: what goes, what stays, and that nothing is touched while a run works in the output."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from runs import WORDS, config_of, files_of, run_here, statuses
from typer.testing import CliRunner

from vqpipe.cli import app
from vqpipe.config import Config

KEYS: dict[str, Any] = {"train__rounds": 2, "evaluate__queries": 0, "export": []}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def vectors() -> np.ndarray:
    return np.load(WORDS)[:1000]


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, Config]:
    """An output of four generations and of what killed runs leave."""
    np.save(tmp_path / "rows.npy", vectors())
    for codebook in ("KM2", "KM3", "KM4", "KM5"):
        more = {} if codebook != "KM2" else {"train__rows": 500}
        config = config_of(tmp_path, tmp_path / "rows.npy", codebook, **{**KEYS, **more})
        run_here(config)
    output = tmp_path / "out"
    (output / "v4/codes.zarr/codes/c/0").mkdir(parents=True, exist_ok=True)
    for name in ("v4/codes.zarr/codes/c/0/0.abc.partial", "run.json.77.partial", "v4/x.5.partial"):
        (output / name).write_bytes(b"half")
    (output / "v9").mkdir()
    (output / "samples/0123456789ab.zarr").mkdir()
    (output / "samples/0123456789ab.zarr/zarr.json").write_bytes(b"{}")
    needed = json.loads((output / "v4/stages.json").read_text())["fingerprints"]["sample"][:12]
    (output / f"samples/{needed}.zarr.scratch").mkdir()
    (output / "mine").mkdir()
    (output / "mine/notes.partial").write_text("the user's own")
    return output, config


def test_prune_removes_what_is_not_needed_and_only_with_yes(grown: tuple[Path, Config]) -> None:
    output, config = grown
    before = files_of(output)
    result = command("prune", str(output), "--json")
    assert result.exit_code == 0
    planned = json.loads(result.stdout)
    assert files_of(output) == before
    assert (planned["removed"], planned["kept"]) == (False, ["v4", "v3"])
    first = json.loads((output / "v1/stages.json").read_text())["fingerprints"]["sample"][:12]
    last = json.loads((output / "v4/stages.json").read_text())["fingerprints"]["sample"][:12]
    assert {one["path"] for one in planned["removals"]} == {
        "v1", "v2", "v9", f"samples/{first}.zarr", "samples/0123456789ab.zarr",
        f"samples/{last}.zarr.scratch", "run.json.77.partial", "v4/x.5.partial",
        "v4/codes.zarr/codes/c/0/0.abc.partial",
    }  # fmt: skip
    gone = {
        name for name in before
        if any(name == one["path"] or name.startswith(one["path"] + "/") for one in planned["removals"])
    }  # fmt: skip
    assert planned["bytes"] == sum(len(before[name]) for name in gone) > 0
    result = command("prune", str(output), "--yes")
    assert f"{planned['bytes']:,} bytes removed; kept: v4, v3" in result.stdout
    assert files_of(output) == {name: data for name, data in before.items() if name not in gone}
    assert not (output / "v9").exists()
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    assert "nothing to remove" in command("prune", str(output), "--yes").stdout


def test_prune_keeps_the_current_generation_and_the_one_in_work(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", vectors())
    configs = [
        config_of(tmp_path, tmp_path / "rows.npy", codebook, **KEYS, keep_generations=1)
        for codebook in ("KM2", "KM3", "KM4", "KM5")
    ]
    for config in configs:
        run_here(config)
    run_here(configs[0])
    assert (tmp_path / "out/current").read_text() == "v1\n"
    run_here(configs[1], until="train")
    planned = json.loads(command("prune", str(tmp_path / "out"), "--json").stdout)
    assert planned["kept"] == ["v4", "v2", "v1"]
    assert [one["path"] for one in planned["removals"]] == ["v3"]


def test_prune_keeps_the_scratch_of_a_draw_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", vectors())
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM2", **KEYS)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("vqpipe.pipeline.sample.gather_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        run_here(config)
    before = files_of(tmp_path / "out")
    assert any(".scratch/" in name for name in before)
    assert command("prune", str(tmp_path / "out"), "--yes").exit_code == 0
    assert files_of(tmp_path / "out") == before
