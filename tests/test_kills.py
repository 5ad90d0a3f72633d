"""Processes that are killed and stopped: a run that goes on ends with the same bytes, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import WORDS, config_of, run_command, run_here, statuses
from test_pipeline import lasting_files

from vqpipe.config import Config
from vqpipe.engines.dask import DaskRunner
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import StageError
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.progress import Silent
from vqpipe.storage.lease import LEASE_FILE, Patience

# The same run for `config_of` and as a file.
KEYS: dict[str, Any] = {"encode__shard_rows": 300, "train__rounds": 3, "evaluate__queries": 20}
TEXT = (
    "name: test\nsource: {{uri: {source}}}\noutput: out\ncodebook: PQ10x4\nencode: {{shard_rows: 300}}\n"
    "train: {{rounds: 3}}\nevaluate: {{queries: 20}}\ncluster: {cluster}\n"
)
QUICK = Patience(beat_seconds=0.05, watch_seconds=0.6, poll_seconds=0.01)
MEMORY = 1 << 30


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "rows.npy"
    np.save(path, np.load(WORDS)[:6000])
    return path


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, bytes]:
    """The bytes of a run that nothing disturbs: twenty shards."""
    folder = tmp_path_factory.mktemp("calm")
    run_here(config_in(folder, source))
    return lasting_files(folder / "out")


def config_in(folder: Path, source: Path, **keys: Any) -> Config:
    return config_of(folder, source, "PQ10x4", **{**KEYS, **keys})


def file_in(folder: Path, source: Path, cluster: str = "serial") -> str:
    path = folder / "config.yaml"
    path.write_text(TEXT.format(source=source, cluster=cluster))
    return str(path)


# --- Killed ----------------------------------------------------------------------------------------------------------


def kill_at(output: Path, files: int, victim: Callable[[], int | None]) -> threading.Thread:
    """Kill a process as soon as there are so many files in the output."""

    def wait_and_kill() -> None:
        until = time.monotonic() + 240
        while time.monotonic() < until:
            there = sum(len(names) for _, _, names in os.walk(output))
            if there >= files and (process := victim()) is not None:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return
            time.sleep(0.002)

    killed: list[int] = []
    thread = threading.Thread(target=wait_and_kill)
    thread.killed = killed  # type: ignore[attr-defined]
    thread.start()
    return thread


def a_worker(seed: int) -> int | None:
    """Return the process of one of the workers that this process started, if they are there."""
    mine = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"spawn_main" in (entry / "cmdline").read_bytes():
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                mine += [int(entry.name)] if int(parent) == os.getpid() else []
        except OSError:
            continue
    return sorted(mine)[seed % len(mine)] if mine else None


def run_and_kill_driver(folder: Path, source: Path, files: int, seed: int) -> None:
    config = file_in(folder, source, "{options: {n_workers: 2}}")
    process = run_command("run", config, "--direct")
    killer = kill_at(folder / "out", files, lambda: process.pid)
    process.communicate(timeout=240)
    killer.join()
    assert process.returncode == -signal.SIGKILL


def run_and_kill_worker(folder: Path, source: Path, files: int, seed: int) -> None:
    config = config_in(folder, source, cluster={"options": {"n_workers": 2}})
    killer = kill_at(folder / "out", files, lambda: a_worker(seed))
    summary = run_here(config)
    killer.join()
    assert killer.killed  # type: ignore[attr-defined]
    assert statuses(summary)["encode"] == "done"


def run_and_kill_scheduler(folder: Path, source: Path, files: int, seed: int) -> None:
    with scheduler_and_worker(folder) as (scheduler, address):
        config = config_in(folder, source, cluster={"address": address})
        killer = kill_at(folder / "out", files, lambda: scheduler.pid)
        with (
            DaskRunner(config.cluster, MEMORY, patience_seconds=1.0) as runner,
            pytest.raises(StageError, match=rf"scheduler.*{address}.*run again") as caught,
        ):
            run_pipeline(config, runner, Silent())
        killer.join()
    assert caught.value.exit_status == 1


class scheduler_and_worker:
    """A cluster of processes that are not this one's Dask's: as a site would run it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"

    def __enter__(self) -> tuple[subprocess.Popen[bytes], str]:
        name = ["--scheduler-file", str(self._file), "--no-dashboard"]
        self._processes = [self._start("scheduler", *name, "--port", "0", "--host", "127.0.0.1")]
        while not self._file.exists():
            assert self._processes[0].poll() is None
            time.sleep(0.02)
        self._processes.append(self._start("worker", *name, "--nthreads", "1", "--no-nanny"))
        return self._processes[0], json.loads(self._file.read_text())["address"]

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


VICTIMS = {
    "driver": run_and_kill_driver,
    "worker": run_and_kill_worker,
    "scheduler": run_and_kill_scheduler,
}
LONG = [
    pytest.param(victim, seed, marks=pytest.mark.long)
    for seed in range(1, 11)
    for victim in VICTIMS
]


@pytest.mark.parametrize(("victim", "seed"), [*((victim, 0) for victim in VICTIMS), *LONG])
def test_a_killed_process_costs_nothing_but_time(
    tmp_path: Path, source: Path, calm: dict[str, bytes], victim: str, seed: int
) -> None:
    """Killed when a seeded number of files is there: in the draw, in training, among the shards, in what follows."""
    rng = np.random.default_rng([seed, *victim.encode()])
    # Two in three of all files: what comes after is too quick to be met.
    VICTIMS[victim](tmp_path, source, int(rng.integers(3, 2 * len(calm) // 3)), seed)
    run_here(config_in(tmp_path, source))
    assert lasting_files(tmp_path / "out") == calm
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    left = {name for name in names if name.endswith((".partial", ".scratch", ".lock"))}
    assert not left | (names & {LEASE_FILE})


def test_leftovers_are_swept_and_nothing_else(tmp_path: Path, source: Path) -> None:
    config = config_in(tmp_path, source)
    run_here(config)
    output = tmp_path / "out"
    (sample,) = (output / "samples").iterdir()
    (output / f"samples/{sample.name}.scratch").mkdir()
    places = ["run.json.7.partial", "v1/codes.zarr/codes/c/0/0.ab.partial", f"samples/{sample.name}/x.partial",
              f"samples/{sample.name}.scratch/3.json"]  # fmt: skip
    (output / "mine").mkdir()
    for place in [*places, "mine/notes.partial"]:
        (output / place).write_bytes(b"half")
    # A run that came to its end leaves none, so one with nothing to do does not look for any.
    run_here(config)
    assert all((output / place).exists() for place in places)
    record = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**record, "status": "running"}))
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    assert not any((output / place).exists() for place in places)
    assert not (output / f"samples/{sample.name}.scratch").exists()
    assert (output / "mine/notes.partial").exists()


# --- Stopped ---------------------------------------------------------------------------------------------------------

# The stage in which the signal arrives, and the last one that was done before.
STAGES = {
    "sample": "ingest",
    "train": "sample",
    "encode": "train",
    "evaluate": "encode",
    "export": "evaluate",
    "report": "export",
}
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
# What a stage works with says that it was begun, and then takes as long as it is let.
HOLD = """
import sys, time
import vqpipe.engines.serial as serial, vqpipe.pipeline.report as report

def hold(*_):
    print("begun", file=sys.stderr, flush=True)
    time.sleep(100)

serial.run_single_threaded = report.render_report = hold
"""
# On workers, the work itself: it says that it was begun, and the signal meets the driver as it waits for them.
BEGUN = """
import sys
import vqpipe.pipeline.pipeline as pipeline
run = pipeline._run_if_needed

def begin(r, stage, began):
    if stage.name == {stage!r}:
        print("begun", file=sys.stderr, flush=True)
    return run(r, stage, began)

pipeline._run_if_needed = begin
"""


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal as soon as the stage has begun; return what was said."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line == "begun\n":
            break
    else:
        raise AssertionError(f"ended before it began: {said}")
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    return said + error


def alternating() -> list[Any]:
    """Each stage with one of the signals, and with the other one where there is time."""
    found = []
    for place, stage in enumerate(STAGES):
        first, second = list(SIGNALS)[:: 1 if place % 2 else -1]
        found += [pytest.param(stage, first), pytest.param(stage, second, marks=pytest.mark.long)]
    return found


@pytest.mark.parametrize(("stage", "number"), alternating())
def test_a_signal_ends_each_stage_with_its_status_and_the_run_goes_on(
    tmp_path: Path, source: Path, calm: dict[str, bytes], stage: str, number: signal.Signals
) -> None:
    run_here(config_in(tmp_path, source), until=STAGES[stage])
    process = run_command("run", file_in(tmp_path, source), "--direct", patch=HOLD)
    said = stop(process, number)
    assert process.returncode == SIGNALS[number], said
    assert "Traceback" not in said
    assert f"interrupted in {stage}: " in said
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["status"] == "stopped"
    assert not (tmp_path / "out" / LEASE_FILE).exists()
    run_here(config_in(tmp_path, source))
    assert lasting_files(tmp_path / "out") == calm


@pytest.mark.long
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report"])
def test_a_signal_ends_a_run_that_waits_for_its_workers(
    tmp_path: Path, source: Path, calm: dict[str, bytes], stage: str, number: signal.Signals
) -> None:
    run_here(config_in(tmp_path, source), until=STAGES[stage])
    config = file_in(tmp_path, source, "{options: {n_workers: 1}}")
    process = run_command("run", config, "--direct", patch=BEGUN.format(stage=stage))
    said = stop(process, number)
    assert process.returncode == SIGNALS[number], said
    assert "Traceback" not in said
    run_here(config_in(tmp_path, source))
    assert lasting_files(tmp_path / "out") == calm


@pytest.mark.long
@pytest.mark.prefect
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_flow_with_its_status(
    tmp_path: Path, source: Path, calm: dict[str, bytes], number: signal.Signals
) -> None:
    run_here(config_in(tmp_path, source), until="train")
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    process = run_command(
        "run", file_in(tmp_path, source), patch=HOLD,
        env={**environment, "PREFECT_HOME": str(tmp_path / "prefect")},
    )  # fmt: skip
    said = stop(process, number)
    assert process.returncode == SIGNALS[number], said
    assert "interrupted in encode: " in said
    assert not (tmp_path / "out" / LEASE_FILE).exists()
    run_here(config_in(tmp_path, source))
    assert lasting_files(tmp_path / "out") == calm


# --- Full and write-protected disks ----------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 96 MiB: chunks are some megabytes, however few rows there are."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "vqpipe-test", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("to mount a disk of its own, the test must be root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file:
        for block in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


# What happens to the disk, what mends it, and what is said.
DISKS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "full": (fill, lambda disk: (disk / "ballast").unlink(), "No space left on device"),
    "write-protected": (
        lambda disk: remount(disk, "ro"), lambda disk: remount(disk, "rw"), "Read-only file system",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", DISKS)
@pytest.mark.parametrize("stage", ["sample", "train", "encode", "evaluate"])
def test_a_disk_that_refuses_is_named_with_the_stage_and_the_run_goes_on(
    tmp_path: Path, source: Path, calm: dict[str, bytes], disk: Path, stage: str, fault: str
) -> None:
    harm, mend, words = DISKS[fault]

    class Harming(Silent):
        def begin(self, name: str, total: int, unit: str, *_: int, **__: int) -> None:
            # A stage is begun before it knows what there is to do, and once more when it does.
            if name == stage and total:
                harm(disk)

    config = config_in(disk, source)
    with pytest.raises(StageError, match=f"^{stage}: .*{words}") as caught:
        run_pipeline(config, SerialRunner(), Harming(), patience=QUICK)
    assert caught.value.exit_status == 1
    if stage == "encode":
        assert "shard 0 (rows 0 to 300)" in str(caught.value)
    mend(disk)
    run_pipeline(config, SerialRunner(), Silent(), patience=QUICK)
    assert lasting_files(disk / "out") == calm
    assert LEASE_FILE not in os.listdir(disk / "out")
