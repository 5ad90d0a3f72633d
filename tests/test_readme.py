"""The README is true: its config has the defaults, its code runs on what the quickstart makes."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from runs import WORDS, run_here

from vqpipe.config import Config
from vqpipe.config_file import load_config, make_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def defaults_of(config: Config) -> dict[str, Any]:
    return {
        key: value
        for key, value in config.model_dump(by_alias=True).items()
        if key not in ("name", "source", "output", "codebook")
    }


def test_the_config_in_full_states_the_defaults(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    written = yaml.safe_load(block)
    stated = make_config(written, tmp_path)
    least = {key: written[key] for key in ("output", "codebook")}
    plain = make_config({**least, "source": {"uri": "a.npy"}}, tmp_path)
    assert defaults_of(stated) == defaults_of(plain)
    unsaid = {"uri", "metric"}
    assert stated.source.model_dump(exclude=unsaid) == plain.source.model_dump(exclude=unsaid)
    for key, value in Config.model_fields.items():
        assert (value.alias or key) in written


def test_the_python_blocks_run_on_the_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for output, codebook in (("runs/quickstart", "PQ20"), ("runs/clusters", "KM500")):
        overrides = {"output": output, "cluster": "serial", "codebook": codebook}
        run_here(load_config("configs/quickstart.yaml", overrides))
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["rows"].shape == (2, 5)
    assert names["rows"][:, 0].tolist() == [0, 1]
    assert names["restored"].shape == (3, 100)
    assert 0 < len(names["doubles"]) < 2000
    assert 1 <= len(names["units"]) <= 60
    assert names["tokens"].max() < 20 * 256
    np.testing.assert_array_equal(names["again"], names["codes"][:3])
    np.testing.assert_array_equal(names["restored"], names["quantizer"].decode(names["codes"][:3]))
    assert names["found"].rows[:, 0].tolist() == [0, 1]
    assert names["found"].distances.shape == (2, 3)
    script = runpy.run_path(str(ROOT / "configs/nearest_words.py"))
    script["main"].__globals__["OUTPUT"] = tmp_path / "runs/quickstart"
    monkeypatch.setattr("sys.argv", ["nearest_words.py", "monday"])
    script["main"]()
    assert "tuesday" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.prefect
def test_every_shell_command_runs(tmp_path: Path) -> None:
    """In the order in which they stand, in one folder; what installs is left to who runs the tests."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    np.save(tmp_path / "vectors.npy", np.load(WORDS))
    # The README's other output.
    (tmp_path / "other").symlink_to("runs/vectors")
    found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment = os.environ | found | {"PREFECT_HOME": str(tmp_path / "prefect")}
    ran = 0
    for block in blocks("sh"):
        parts = [part for part in block.split(" && ") if not part.startswith("pip install")]
        command = " && ".join(part for part in parts if part.strip() != "pytest")
        if command:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran >= 7
    assert (tmp_path / "restored.npy").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_that_is_shipped_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_DATA", "/data")
    monkeypatch.setenv("VQPIPE_BUCKET", "bucket")
    assert load_config(path).name == path.stem
