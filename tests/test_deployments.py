"""Deployments on a real Prefect server with a worker: scheduled, re-run, retried, cancelled, left by their server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import WORDS

from vqpipe.pipeline.train import CHECKPOINT_FILE

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.hosts, pytest.mark.prefect]

STAGES = ("ingest", "sample", "train", "encode", "evaluate", "export", "report")

# How long anything may take here, on a machine that does other things as well.
PATIENCE_SECONDS = 300.0


def wait_until(is_so: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        found = is_so()
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"waited {PATIENCE_SECONDS:.0f} s for: {what}")


@dataclass
class Installation:
    """A server, a work pool, both deployments and a worker, in a folder of their own."""

    folder: Path
    environment: dict[str, str]
    server: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return Path(self.environment["VQPIPE_CONFIG"])

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def prefect(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=self.folder, env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> Any:
        """Ask the server's API."""
        request = urllib.request.Request(
            f"{self.environment['PREFECT_API_URL']}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method or ("GET" if body is None else "POST"),
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def run(self, overrides: dict[str, Any], deployment: str = "nightly-increment") -> str:
        """Start a run from the command line, as a person would, and return its id."""
        name = f"by-hand-{time.monotonic_ns()}"
        self.pause()
        given = f"overrides={json.dumps(overrides)}"
        self.prefect(
            "deployment", "run", f"vqpipe/{deployment}", "-p", given, "--flow-run-name", name
        )
        (found,) = self.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return str(found["id"])

    def pause(self) -> None:
        """Schedule no more runs: of two at once, the later is cancelled."""
        deployment = self.ask("deployments/name/vqpipe/nightly-increment")
        self.ask(f"deployments/{deployment['id']}", {"paused": True}, "PATCH")

    def state(self, run: str) -> str:
        return str(self.ask(f"flow_runs/{run}")["state_name"])

    def ended(self, run: str) -> str:
        """Wait for a run's end and return its state."""
        states = ("Completed", "Failed", "Crashed", "Cancelled")
        wait_until(lambda: self.state(run) in states, f"the end of run {run}")
        return self.state(run)

    def tasks(self, run: str) -> dict[str, str]:
        """Return the stages' tasks and their states."""
        found = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state_name"] for task in found}

    def page(self, run: str) -> dict[str, Any]:
        """Return the artifacts on a run's page by their keys; those of its last attempt, if it was retried."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        found = self.ask("artifacts/filter", wanted)
        return {
            one["key"]: json.loads(one["data"]) if one["type"] == "table" else one["data"]
            for one in sorted(found, key=lambda one: str(one["created"]))
        }

    def stages(self, run: str) -> dict[str, tuple[str, str]]:
        """Return each stage's status and reason from the run's page."""
        return {
            row["stage"]: (row["status"], row["why"]) for row in self.page(run)["vqpipe-stages"]
        }

    def await_logs(self, run: str, *wanted: tuple[str, ...]) -> None:
        """Wait for a line with one of each of the words: logs reach the server in batches, some after the run's end."""
        for words in wanted:
            wait_until(
                lambda words=words: any(word in self.logs(run) for word in words), f"{words}"
            )

    def logs(self, run: str) -> str:
        found = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(line["message"] for line in found)

    def close(self) -> None:
        for process in (self.worker, self.server):
            if process is not None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Start all as deploy/README.md says, but for a schedule of every minute."""
    folder = tmp_path_factory.mktemp("deployments")
    config = folder / "config.yaml"
    config.write_text(
        f"source: {{uri: {WORDS}}}\noutput: out\ncodebook: PQ10x4\ntrain: {{rounds: 5}}\n"
        "encode: {shard_rows: 4096}\ncluster: {scale: 1}\nmemory_per_worker: 1GiB\n"
    )
    port = free_port()
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment = {
        **plain,
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "VQPIPE_CONFIG": str(config),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found = Installation(folder, environment, server)
    try:
        wait_until(lambda: answers(found), "the server's health")
        every_minute = (ROOT / "deploy/prefect.yaml").read_text().replace("15 2 * * *", "* * * * *")
        (folder / "prefect.yaml").write_text(every_minute)
        found.prefect("work-pool", "create", "vqpipe", "--type", "process")
        found.prefect("work-pool", "set-concurrency-limit", "vqpipe", "1")
        found.prefect("deploy", "--all", "--prefect-file", "prefect.yaml")
        found.worker = found.start("worker", "start", "--pool", "vqpipe", "--type", "process")
        yield found
    finally:
        found.close()


def answers(place: Installation) -> bool:
    try:
        return bool(place.ask("health"))
    except OSError:
        return False


def children_of(process: int) -> list[int]:
    """Return the processes below one: its Dask workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == process:
                found += [int(entry.name), *children_of(int(entry.name))]
    return found


def is_running(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_scheduled_run_completes_by_itself_and_its_page_shows_what_happened(
    place: Installation,
) -> None:
    deployment = place.ask("deployments/name/vqpipe/nightly-increment")
    scheduled = {
        "flow_runs": {
            "deployment_id": {"any_": [deployment["id"]]},
            "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}},
        }
    }
    runs = wait_until(lambda: place.ask("flow_runs/filter", scheduled), "a scheduled run's end")
    place.pause()
    run = runs[0]
    assert run["auto_scheduled"]
    assert run["state_name"] == "Completed", run
    assert run["parameters"]["overrides"] == {"drift.distortion": 1.2}
    assert (place.output / "current").read_text() == "v1\n"
    tasks = wait_until(
        lambda: all_done if len(all_done := place.tasks(run["id"])) == len(STAGES) else None,
        "all tasks",
    )
    assert set(tasks.values()) == {"Completed"}
    assert {name.split(":")[0] for name in tasks} == set(STAGES)
    assert all(len(name) > len(name.split(":")[0]) + 10 for name in tasks)
    page = place.page(run["id"])
    assert page["vqpipe-progress"] == 100
    assert [row["stage"] for row in page["vqpipe-stages"]] == list(STAGES)
    figures = {row["figure"]: row["value"] for row in page["vqpipe-figures"]}
    assert figures["rows"] == 20_000
    assert "recall@10" in figures
    assert f"{place.output}/v1/report.html" in page["vqpipe-report"]
    place.await_logs(run["id"], *((f"{stage} done: ", f"{stage} skipped: ") for stage in STAGES))


def test_another_setting_does_the_least_work_and_the_page_says_so(place: Installation) -> None:
    run = place.run({"evaluate.queries": 100})
    assert place.ended(run) == "Completed"
    stages = place.stages(run)
    assert {name: status for name, (status, _) in stages.items()} == {
        **dict.fromkeys(STAGES, "skipped"),
        "evaluate": "done",
        "report": "done",
    }
    assert stages["train"][1]
    assert "evaluate" in stages["evaluate"][1] or "settings" in stages["evaluate"][1]


def test_a_run_that_failed_late_is_retried_and_goes_on(place: Installation, tmp_path: Path) -> None:
    """One shard cannot be encoded; the others are, and are not encoded again."""
    rows = np.load(WORDS).astype(np.float32)
    rows[9000, 3] = np.nan
    source = tmp_path / "vectors.npy"
    np.save(source, rows)
    output = tmp_path / "out"
    run = place.run({"source.uri": str(source), "output": str(output), "train.rows": 5000})
    assert place.ended(run) == "Failed"
    assert "row 9,000" in place.ask(f"flow_runs/{run}")["state"]["message"].replace("9000", "9,000")
    place.await_logs(run, ("encode: shard 2 ",))
    stages = place.stages(run)
    assert stages["encode"][0] == "failed"
    assert "4 of 5 shards" in stages["encode"][1]
    before = written(output / "v1/codes.zarr/codes/c")
    rows[9000, 3] = 0
    np.save(source, rows)
    place.prefect("flow-run", "retry", run)
    wait_until(lambda: place.state(run) in ("Completed", "Crashed"), "the retried run's end")
    assert place.state(run) == "Completed"
    stages = place.stages(run)
    assert stages["train"][0] == "skipped"
    assert stages["encode"][0] == "done"
    after = written(output / "v1/codes.zarr/codes/c")
    assert (len(before), len(after)) == (4, 5)
    assert before.items() <= after.items()


def written(folder: Path) -> dict[Path, int]:
    """Return when each file below a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# A training that would take minutes, with checkpoints after each round or so.
LONG = {"codebook": "KM1024", "train.rounds": 100_000, "train.stop": 0, "train.batch_rows": 18_000}


def test_a_cancelled_run_stops_its_workers_and_leaves_an_output_to_go_on_from(
    place: Installation, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run = place.run({**LONG, "output": str(output)})
    lease = output / "lease.json"
    wait_until(lambda: lease.exists() and "train" in running(place, run), "its training")
    process = json.loads(lease.read_text())["pid"]
    workers = children_of(process)
    assert workers
    wait_until((output / "v1" / CHECKPOINT_FILE).exists, "a checkpoint")
    place.prefect("flow-run", "cancel", run)
    assert place.ended(run) == "Cancelled"
    wait_until(lambda: not any(map(is_running, [process, *workers])), "the end of its workers")
    assert not lease.exists()
    assert json.loads((output / "run.json").read_text())["status"] == "stopped"
    settings = [f"--set={key}={value}" for key, value in {**LONG, "output": output}.items()]
    plan = subprocess.run(
        [sys.executable, "-c", "from vqpipe.cli import main; main()", "plan", str(place.config), "--json", *settings],
        env=place.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    states = {stage["name"]: stage["state"] for stage in json.loads(plan.stdout)["stages"]}
    assert (states["sample"], states["train"]) == ("done", "partial"), plan.stderr


def running(place: Installation, run: str) -> str:
    return " ".join(name for name, state in place.tasks(run).items() if state == "Running")


def test_runs_whose_server_dies_finish_and_publish(place: Installation, tmp_path: Path) -> None:
    """One that a worker of Prefect's started, and one of the command line, which also ends well."""
    slow = {"train.rounds": 300, "train.stop": 0, "codebook": "KM256"}
    scheduled, direct = tmp_path / "scheduled", tmp_path / "direct"
    run = place.run({**slow, "output": str(scheduled)})
    settings = [f"--set={key}={value}" for key, value in {**slow, "output": direct}.items()]
    command = [
        sys.executable,
        "-c",
        "from vqpipe.cli import main; main()",
        "run",
        str(place.config),
        *settings,
    ]
    by_hand = subprocess.Popen(
        [*command, "--json"], env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        for output in (scheduled, direct):
            wait_until((output / "lease.json").exists, f"a run in {output}")
        process = json.loads((scheduled / "lease.json").read_text())["pid"]
        wait_until(lambda: "train" in running(place, run), "its training")
        place.server.kill()
        place.server.wait()
        stdout, stderr = by_hand.communicate(timeout=PATIENCE_SECONDS)
        assert by_hand.returncode == 0, stderr
        assert json.loads(stdout)["rows"] == 20_000
        assert (direct / "current").read_text() == "v1\n"
        wait_until((scheduled / "current").exists, "the output of the scheduled run")
        wait_until(lambda: not is_running(process), "the end of its process")
        assert json.loads((scheduled / "run.json").read_text())["status"] == "done"
    finally:
        by_hand.kill()
        by_hand.communicate()
