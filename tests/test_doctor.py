"""`vqpipe doctor`: what a report of a fault needs, and whether what a config names can be reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import WORDS, config_of, files_of
from typer.testing import CliRunner

import vqpipe.pipeline.doctor as doctor
import vqpipe.pipeline.machine as machine
from vqpipe.cli import app
from vqpipe.config import ClusterConfig
from vqpipe.engines.choose import make_runner
from vqpipe.engines.dask import DaskRunner
from vqpipe.engines.libraries import thread_libraries
from vqpipe.pipeline.doctor import diagnose_config, diagnose_machine


def ask(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


def write_config(folder: Path, **keys: Any) -> str:
    plain = {
        "source": {"uri": str(WORDS)},
        "output": "out",
        "codebook": "PQ10",
        "cluster": "serial",
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({**plain, **keys}))
    return str(path)


def test_a_report_names_what_decides_speed_and_bytes() -> None:
    found = json.loads(ask("--json").stdout)
    assert {"vqpipe", "numpy", "faiss-cpu", "zarr", "dask", "prefect", "python"} <= set(
        found["versions"]
    )
    assert found["faiss"]["simd"]
    assert any(library["kind"] == "blas" and library["core_type"] for library in found["libraries"])
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > found["machine"]["memory_free_bytes"] > 0
    assert found["well"]
    assert found["checks"] == {}


def test_in_words_it_says_the_same(tmp_path: Path) -> None:
    said = ask(write_config(tmp_path))
    assert said.exit_code == 0, said.output
    for start in (
        "versions",
        "cpu",
        "cores",
        "memory",
        "faiss",
        "blas",
        "source",
        "output",
        "cluster",
    ):
        assert any(line.startswith(start) for line in said.stdout.splitlines()), start
    assert "20,000 rows of float16, dim 100" in said.stdout
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_reached_is_named_and_is_status_1(tmp_path: Path) -> None:
    said = ask(write_config(tmp_path, source={"uri": "nowhere.npy"}))
    assert said.exit_code == 1
    assert "NOT REACHED" in said.stdout
    assert "nowhere.npy" in said.stdout
    address = {"address": "tcp://127.0.0.1:1"}
    config = config_of(tmp_path, WORDS, cluster=address)
    assert isinstance(config.cluster, ClusterConfig)
    with DaskRunner(config.cluster, 1 << 30, patience_seconds=0.5) as runner:
        found = diagnose_config(config, runner)["checks"]
    assert found["source"]["well"]
    assert not found["cluster"]["well"]
    assert "tcp://127.0.0.1:1" in found["cluster"]["found"]


def test_workers_are_asked_and_nothing_is_written(tmp_path: Path) -> None:
    """Also that a thread that shares a worker's memory is named with both numbers."""
    (tmp_path / "out").mkdir()
    options = {"n_workers": 1, "processes": False, "threads_per_worker": 2}
    config = config_of(tmp_path, WORDS, cluster={"options": options}, memory_per_worker="256MiB")
    with make_runner(config) as runner:
        found = diagnose_config(config, runner)
    assert found["checks"]["cluster"]["well"], found
    assert "1 workers, 2 tasks at once" in found["checks"]["cluster"]["found"]
    assert any("several tasks at once" in warning for warning in found["warnings"])
    assert files_of(tmp_path / "out") == {}
    less = {"options": {**options, "memory_limit": "300MiB"}}
    small = config_of(tmp_path, WORDS, cluster=less, memory_per_worker="256MiB")
    with make_runner(small) as runner:
        found = diagnose_config(small, runner)
    assert not found["checks"]["cluster"]["well"]
    assert "150 MiB of memory for each of its 2 threads" in found["checks"]["cluster"]["found"]


def test_a_wrong_config_is_status_2(tmp_path: Path) -> None:
    path = write_config(tmp_path, codebook="PQ0")
    assert ask(path).exit_code == 2


SLOW = {
    "a CPU without fused multiply-adds": (doctor, "can_compile", lambda: False, "fused multiply-add"),
    "a busy machine": (machine.os, "getloadavg", lambda: (1e6, 0.0, 0.0), "busy already"),
    "a container with fewer cores": (machine, "_core_limit", lambda: 0.5, r"start 1 workers"),
    "a large chunk": (doctor, "LARGE_CHUNK_BYTES", 100, "about 4 MiB are best"),
}  # fmt: skip


@pytest.mark.parametrize("case", SLOW)
def test_what_will_be_slow_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    place, name, value, said = SLOW[case]
    monkeypatch.setattr(place, name, value)
    config = config_of(tmp_path, WORDS)
    with make_runner(config) as runner:
        reached = diagnose_config(config, runner)
    warnings = diagnose_machine(thread_libraries())["warnings"] + reached["warnings"]
    assert any(said in warning for warning in warnings), warnings


def test_a_blas_that_leaves_wide_registers_unused_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "describe_cpu", lambda: "znver4, 512-bit vectors")
    zen = {"file": "libopenblas.so", "kind": "blas", "core_type": "Zen", "threads": 1}
    assert any("OPENBLAS_CORETYPE" in text for text in diagnose_machine([zen])["warnings"])
    wide = {**zen, "core_type": "SkylakeX"}
    assert not any("OPENBLAS_CORETYPE" in text for text in diagnose_machine([wide])["warnings"])


def test_an_address_is_shown_without_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://me:secret@host:4200/api")
    shown = machine.describe_machine()["settings"]["PREFECT_API_URL"]
    assert shown == "https://host:4200/api"
