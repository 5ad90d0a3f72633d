"""The Prefect flow: the same output, a task per stage with a name a person knows, errors as sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import WORDS, config_of, run_here
from test_pipeline import lasting_files

pytestmark = pytest.mark.prefect

ROOT = Path(__file__).parent.parent

# Runs the flow twice, once with a mistake in it, and asks the server what it saw.
SCRIPT = """
import json, sys, time
from flows.run import vqpipe
from prefect.client.orchestration import get_client

config = sys.argv[1]
good = vqpipe(config, return_state=True)
bad = vqpipe(config, {"source.uri": "nowhere.npy"}, return_state=True)
late = vqpipe(config, {"codebook": "KM2000", "train.rows": 1000}, return_state=True)
with get_client(sync_client=True) as client:
    for _ in range(60):  # task runs reach the server as events, a little later
        tasks = {task.name.split(":")[0]: task.state_name for task in client.read_task_runs()
                 if task.flow_run_id == good.state_details.flow_run_id}
        if list(tasks.values()).count("Completed") == 7:
            break
        time.sleep(0.5)
print(json.dumps({
    "good": [good.name, good.result(raise_on_failure=False)["rows"]],
    "bad": [bad.name, bad.message],
    "late": [late.name, late.message],
    "tasks": tasks,
}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give an environment with a Prefect home of its own."""
    home = tmp_path_factory.mktemp("prefect")
    inherited = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    return {**inherited, "PREFECT_HOME": str(home)}


def test_what_a_page_says_is_as_its_docstrings_say() -> None:
    """Here and not by pytest's own search: Prefect takes a second to import."""
    ended = subprocess.run(
        [sys.executable, "-m", "doctest", str(ROOT / "flows/page.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


def write_config(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(
        f"name: test\nsource: {{uri: {WORDS}}}\noutput: out\ncodebook: PQ10x4\n"
        "train: {rounds: 5}\ncluster: {options: {n_workers: 2}}\n"
    )
    return path


def test_the_flow_makes_what_a_direct_run_makes_and_its_page_shows_the_stages(
    tmp_path: Path, home: dict[str, str]
) -> None:
    (tmp_path / "flow").mkdir()
    path = write_config(tmp_path / "flow")
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=home, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert seen["good"] == ["Completed", 20_000]
    stages = ("ingest", "sample", "train", "encode", "evaluate", "export", "report")
    assert seen["tasks"] == dict.fromkeys(stages, "Completed")
    assert seen["bad"][0] == "Failed"
    assert "nowhere.npy" in seen["bad"][1]
    assert seen["late"][0] == "Failed"
    assert "distinct" in seen["late"][1]
    run_here(config_of(tmp_path / "direct", WORDS, "PQ10x4", train__rounds=5))
    # The run that failed late had drawn a sample of its own.
    assert (
        lasting_files(tmp_path / "flow/out").items()
        >= lasting_files(tmp_path / "direct/out").items()
    )


@pytest.mark.long
def test_the_command_runs_the_flow_and_keeps_its_exit_statuses(
    tmp_path: Path, home: dict[str, str]
) -> None:
    path = write_config(tmp_path)
    vqpipe = str(Path(sys.executable).with_name("vqpipe"))
    ended = subprocess.run(
        [vqpipe, "run", str(path), "--json"],
        env=home, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["rows"] == 20_000
    ended = subprocess.run(
        [vqpipe, "run", str(path), "--set", "codebook=KM2000", "--set", "train.rows=1000"],
        env=home, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "distinct" in ended.stderr
    assert "Traceback" not in ended.stderr
