"""Clusters that a config names, tried for real: TLS, hosts whose cables are cut, jobs of SLURM that are cancelled."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, Security
from networks import Host, hosts
from runs import WORDS, config_of, run_here, statuses
from test_pipeline import lasting_files

from vqpipe.config import ClusterConfig, Config
from vqpipe.config_file import make_config
from vqpipe.engines.choose import make_runner
from vqpipe.engines.dask import IN_FLIGHT_PER_WORKER, DaskRunner
from vqpipe.errors import ConfigError
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.progress import Silent

TLS_FILES = ("tls_ca_file", "tls_client_cert", "tls_client_key")

# Long enough that something can happen in the middle of it, on rows that are made where they are read.
REHEARSAL = "synthetic:mixture?rows=4e5&dim=64&seed=1"


def write_tls(security: Security, folder: Path) -> dict[str, str]:
    """Write what a temporary Security holds into files, as a person would have them."""
    for name in TLS_FILES:
        (folder / name).write_text(getattr(security, name))
    return {name: str(folder / name) for name in TLS_FILES}


def test_a_scheduler_is_reached_by_tls_and_only_by_its_own_files(tmp_path: Path) -> None:
    security = Security.temporary()
    files = write_tls(security, tmp_path)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0",
        security=security, protocol="tls",
    ) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with_files = {"address": address, "options": {"security": files}}
        config = config_of(
            tmp_path, WORDS, cluster=with_files, train__rounds=2, memory_per_worker="1GiB"
        )
        assert run_here(config)["rows"] == 20_000
        bare = ClusterConfig.model_validate({"address": address})
        with (
            DaskRunner(bare, 1 << 28) as runner,
            pytest.raises(ConfigError, match=r"cluster\.options\.security"),
        ):
            list(runner.map(print, [0], None))


@pytest.mark.parametrize("name", TLS_FILES)
@pytest.mark.parametrize("what", ["none", "nowhere", "nonsense"])
def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path, name: str, what: str) -> None:
    files: dict[str, Any] = write_tls(Security.temporary(), tmp_path)
    if what == "none":
        del files[name]
    elif what == "nowhere":
        files[name] = str(tmp_path / "nowhere.pem")
    else:
        Path(files[name]).write_text("nonsense")
    config = ClusterConfig.model_validate(
        {"address": "tls://127.0.0.1:1", "options": {"security": files}}
    )
    with DaskRunner(config, 1 << 28) as runner, pytest.raises(ConfigError, match="security"):
        list(runner.map(print, [0], None))


def test_tls_files_are_taken_from_the_configs_folder(tmp_path: Path) -> None:
    given = {"address": "tls://h:1", "options": {"security": {"tls_ca_file": "ca.pem"}}}
    plain = {"source": {"uri": "a.npy"}, "output": "out", "codebook": "KM4", "cluster": given}
    config = make_config(plain, tmp_path)
    assert isinstance(config.cluster, ClusterConfig)
    assert config.cluster.options["security"]["tls_ca_file"] == str(tmp_path / "ca.pem")


def double(item: int, job: None) -> int:
    return 2 * item


def test_workers_that_join_in_the_middle_get_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tasks are on their way as there are workers now: else a cluster would not grow with its work."""
    monkeypatch.setattr("vqpipe.engines.dask.COUNT_SECONDS", 0.0)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(200):
            taken.append(item)
            yield item

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        config = ClusterConfig.model_validate({"address": cluster.scheduler_address})
        with DaskRunner(config, 1 << 28) as runner:
            most = 0
            for ended, outcome in enumerate(runner.map(double, items(), None), 1):
                assert outcome.value() == 2 * outcome.item
                if ended == 10:
                    assert most <= IN_FLIGHT_PER_WORKER
                    cluster.scale(3)
                    with Client(cluster, set_as_default=False) as client:
                        client.wait_for_workers(3, timeout=60)
                most = max(most, len(taken) - ended)
    assert len(taken) == 200
    assert 2 * IN_FLIGHT_PER_WORKER < most <= 3 * IN_FLIGHT_PER_WORKER


# What follows takes minutes, root, or other people's servers.


def wait_until(is_so: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = is_so()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:.0f} s for: {what}")


def rehearsal(folder: Path, cluster: Any, **keys: Any) -> Config:
    plain = {
        "encode__shard_rows": 4096,
        "train__rounds": 10,
        "evaluate__queries": 100,
        "export": [],
    }
    return config_of(
        folder, REHEARSAL, "PQ8", cluster=cluster, memory_per_worker="1GiB", **{**plain, **keys}
    )


class AtShard(Silent):
    """Does something in the middle of encoding, once."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act
        self._stage = ""
        self._left = 10

    def begin(self, stage: str, *told: Any, **named: Any) -> None:
        self._stage = stage

    def advance(self, *told: Any, **named: Any) -> None:
        if self._stage == "encode" and self._act is not None:
            self._left -= 1
            if self._left == 0:
                act, self._act = self._act, None
                act()


def run_meddled(config: Config, act: Callable[[], None]) -> dict[str, Any]:
    """Run a config, do something in the middle of encoding, and see that it was done."""
    progress = AtShard(act)
    with make_runner(config) as runner:
        found = run_pipeline(config, runner, progress)
    assert progress._act is None
    return found


@contextmanager
def started(
    commands: list[list[str]], log: Path, environment: dict[str, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start processes, and end them."""
    with log.open("wb") as said:
        processes = [
            subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            for command in commands
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def dask(host: Host, *arguments: str) -> list[str]:
    return host.command(sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:])


@pytest.mark.hosts
def test_a_worker_whose_cable_is_cut_costs_time_and_no_bytes(tmp_path: Path) -> None:
    """A scheduler and three workers by hand, each in a host of its own; one is cut off in mid-run."""
    with hosts(4) as (first, *others):
        # What is not heard of for so long is given up; Dask waits five minutes and TCP fifteen.
        environment = {
            **os.environ,
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
        }
        address = f"tcp://{first.address}:8786"
        scheduler = dask(
            first, "dask_scheduler", "--host", first.address, "--port", "8786", "--no-dashboard"
        )
        workers = [
            dask(host, "dask_worker", address, "--host", host.address, "--nthreads", "1", "--no-dashboard",
                 "--memory-limit", "1GiB", "--nanny", "--name", host.name)
            for host in others
        ]  # fmt: skip
        with started([scheduler, *workers], tmp_path / "log", environment):
            with Client(address, set_as_default=False, timeout=60) as client:
                client.wait_for_workers(3, timeout=120)
            config = rehearsal(tmp_path / "cut", {"address": address})
            found = run_meddled(config, others[0].cut)
            with Client(address, set_as_default=False, timeout=60) as client:
                assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2
    assert set(statuses(found).values()) <= {"done", "skipped"}
    run_here(rehearsal(tmp_path / "whole", "serial"))
    assert lasting_files(tmp_path / "cut/out") == lasting_files(tmp_path / "whole/out")


SLURM_PROGRAMS = ("slurmctld", "slurmd", "munged", "sinfo", "sbatch", "scancel", "squeue")


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start SLURM with two nodes on this machine, and give the environment by which it is reached."""
    missing = [name for name in SLURM_PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"takes root and SLURM (apt-get install slurm-wlm munge); missing: {missing}")
    (folder / "state").mkdir()
    key, wire = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        f"""
ClusterName=vq
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={wire}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=vq[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[16821-16822] CPUs=2 RealMemory=8000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["munged", "--foreground", "--force", f"--socket={wire}", f"--key-file={key}",
             f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
             f"--seed-file={folder}/munged.seed"]  # fmt: skip
    conf = ["-D", "-f", str(folder / "slurm.conf")]
    daemons = [
        munge,
        ["slurmctld", *conf],
        ["slurmd", "-N", "vq1", *conf],
        ["slurmd", "-N", "vq2", *conf],
    ]
    with started(daemons, folder / "log", environment):

        def idle() -> bool:
            ended = subprocess.run(
                ["sinfo", "-h", "-o", "%T %D"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            return ended.stdout.split() == ["idle", "2"]

        wait_until(idle, f"two idle nodes; see {folder}/log")
        yield environment


@pytest.mark.hosts
def test_a_slurm_job_that_is_cancelled_is_replaced_and_costs_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm") as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        options = {
            "cores": 1, "processes": 1, "memory": "1GiB", "interface": "lo", "walltime": "00:20:00",
            "python": sys.executable, "log_directory": str(tmp_path / "logs"), "local_directory": str(tmp_path),
            "job_script_prologue": [f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}"],
            "scheduler_options": {"dashboard_address": ":0"},
        }  # fmt: skip
        cluster = {
            "class": "dask_jobqueue.SLURMCluster",
            "options": options,
            "scale": {"minimum": 2, "maximum": 3},
        }

        def jobs() -> list[str]:
            ended = subprocess.run(
                ["squeue", "-h", "-t", "running", "-o", "%i"],
                capture_output=True,
                text=True,
                check=True,
            )
            return sorted(ended.stdout.split())

        before: list[str] = []

        def cancel() -> None:
            before.extend(
                wait_until(lambda: found if len(found := jobs()) >= 2 else None, "two jobs")
            )
            subprocess.run(["scancel", before[0]], check=True)

        found = run_meddled(rehearsal(tmp_path / "cut", cluster), cancel)
        assert before
    assert set(statuses(found).values()) <= {"done", "skipped"}
    run_here(rehearsal(tmp_path / "whole", "serial"))
    assert lasting_files(tmp_path / "cut/out") == lasting_files(tmp_path / "whole/out")
