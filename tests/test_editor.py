"""What an editor goes by: the JSON Schema that lies beside the configs, and the line in each of them that names it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from vqpipe.cli import app

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "configs" / "vqpipe.schema.json"
CONFIGS = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "deploy").rglob("config.yaml")])


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def validate(config: Any) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(config)


def test_the_schema_that_is_shipped_is_what_the_command_prints(tmp_path: Path) -> None:
    """Write it anew with `vqpipe schema --to configs/vqpipe.schema.json`."""
    assert SCHEMA.read_text(encoding="utf-8") == invoke("schema")
    said = invoke("schema", "--to", str(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_text() == invoke("schema")
    assert "# yaml-language-server: $schema=a.json\n" in said


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_fits_the_schema_that_its_first_line_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    # A language server takes a relative path from the config's folder.
    assert (path.parent / named[1]).resolve() == SCHEMA
    validate(yaml.safe_load(text))


def test_a_starter_names_the_schema_beside_it_and_fits_it(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((50, 24), np.float32))
    for starter in (invoke("init"), invoke("init", str(tmp_path / "rows.npy"))):
        assert starter.startswith(f"# yaml-language-server: $schema={SCHEMA.name}\n")
        validate(yaml.safe_load(starter))


@pytest.mark.parametrize(
    "change",
    [{"trian": {}}, {"codebook": "pq16"}, {"train": {"rows": "many"}}, {"source": {"url": "a"}}],
    ids=str,
)
def test_an_editor_underlines_what_a_run_refuses(change: dict[str, Any]) -> None:
    good = {"source": {"uri": "a.npy"}, "output": "out", "codebook": "PQ16"}
    validate(good)
    with pytest.raises(jsonschema.ValidationError):
        validate({**good, **change})


def test_refused_places_for_the_schema(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "a.json"):
        result = CliRunner().invoke(app, ["schema", "--to", str(path)])
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--to {path}: cannot be written" in result.stderr
