"""What deploy/ ships is well-formed by the tools of those who read it, and says what the rest of the project says."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from vqpipe.config import ClusterConfig, Config
from vqpipe.config_file import load_config
from vqpipe.engines.cluster import cluster_class

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DEPLOYMENTS = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())["deployments"]

CONFIGS = [DEPLOY / name for name in ("config.yaml", "slurm/config.yaml", "kubernetes/config.yaml")]

VARIABLES = {"VQPIPE_VECTORS": "/data/a.npy", "VQPIPE_OUTPUT": "/data/out", "VQPIPE_BUCKET": "data"}

# Each tool, and what it is asked of what file.
LINTERS = {
    "hadolint": ["deploy/Dockerfile"],
    "check-jsonschema": ["--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml"],
    "kubernetes-validate": ["--strict", "deploy/kubernetes/prefect.yaml"],
}


def program(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.mark.parametrize("tool", LINTERS)
def test_a_linter_finds_nothing(tool: str) -> None:
    path = program(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed: pip install '.[dev]'")
    ended = subprocess.run(
        [path, *LINTERS[tool]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def strict(schema: Any) -> Any:
    """Return a schema that refuses what it does not name, as Kubernetes would silently drop it."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    open_ended = found.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in found and not open_ended and isinstance(found.get("type"), str):
        found.setdefault("additionalProperties", False)
    return found


def operator_schema() -> dict[str, Any]:
    """Return the operator's own schema of a DaskCluster, from the package that KubeCluster is in."""
    package = importlib.util.find_spec("dask_kubernetes")
    if package is None or package.origin is None:
        pytest.skip("dask-kubernetes is not installed: pip install '.[dev]'")
    folder = Path(package.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    definition = yaml.safe_load((folder / "daskcluster.yaml").read_text())
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    # The envelope is Kubernetes' own.
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    made: dict[str, Any] = strict(schema)
    return made


def test_the_cluster_manifest_fits_the_operators_schema() -> None:
    schema = operator_schema()
    manifest = yaml.safe_load((DEPLOY / "kubernetes/daskcluster.yaml").read_text())
    jsonschema.validate(manifest, schema)
    manifest["spec"]["worker"]["spec"]["containers"][0]["imagepullpolicy"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagepullpolicy"):
        jsonschema.validate(manifest, schema)


def test_what_kubecluster_makes_of_our_config_fits_the_operators_schema(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schema = operator_schema()
    make = pytest.importorskip("dask_kubernetes.operator.kubecluster.kubecluster").make_cluster_spec
    config = loaded(DEPLOY / "kubernetes/config.yaml", monkeypatch)
    assert isinstance(config.cluster, ClusterConfig)
    options = {key: value for key, value in config.cluster.options.items() if key != "quiet"}
    jsonschema.validate(make(**options), schema)


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return load_config(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_config_that_is_shipped_loads_and_its_cluster_takes_its_options(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = loaded(path, monkeypatch)
    assert isinstance(config.cluster, ClusterConfig)
    if config.cluster.address is not None:
        return
    pytest.importorskip(config.cluster.class_.partition(".")[0])
    assert cluster_class(config.cluster.class_)


def test_slurm_workers_get_a_job_as_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that a worker's limit is no less than what a run holds it to."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    config = loaded(DEPLOY / "slurm/config.yaml", monkeypatch)
    assert isinstance(config.cluster, ClusterConfig)
    options = {**config.cluster.options, "interface": "lo"}
    with jobqueue.SLURMCluster(**options, scheduler_options={"dashboard_address": ":0"}) as made:
        script = made.job_script()
    assert "#SBATCH --mem=5G" in script
    assert "--nthreads 1" in script
    limit = re.search(r"--memory-limit (\d+\.\d+)GiB", script)
    assert limit is not None
    assert float(limit[1]) * 2**30 >= config.memory_per_worker


def test_the_deployments_are_of_the_flow_and_give_it_what_it_takes() -> None:
    """Read as text: Prefect takes a second to import."""
    flow = next(
        node
        for node in ast.parse((ROOT / "flows/run.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "vqpipe"
    )
    takes = {argument.arg for argument in flow.args.args}
    assert takes == {"config", "overrides", "until", "force"}
    assert {deployment["name"] for deployment in DEPLOYMENTS} == {
        "nightly-increment",
        "weekly-retrain",
    }
    for deployment in DEPLOYMENTS:
        assert deployment["entrypoint"] == "flows.run.vqpipe"
        assert set(deployment["parameters"]) <= takes
        assert deployment["concurrency_limit"]["limit"] == 1
        assert deployment["schedules"][0]["cron"].count(" ") == 4


def test_every_process_of_ours_runs_from_the_one_image() -> None:
    """Scheduler, workers and driver must hold the same versions."""
    ours = {name for name in COMPOSE["services"] if name not in ("store", "bucket")}
    assert {COMPOSE["services"][name]["image"] for name in ours} == {"vqpipe"}
    assert {"prefect-server", "prefect-worker", "scheduler", "worker"} <= ours
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER [1-9]", dockerfile, re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert f"!{source}" in let_in


def test_the_batch_script_is_a_script() -> None:
    path = DEPLOY / "slurm/vqpipe.sbatch"
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    ended = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_readme_has_the_commands_of_the_deployments() -> None:
    """What `pytest -m hosts` and people repeat is written once, and shown twice."""
    readme, long = ((ROOT / path).read_text() for path in ("README.md", "deploy/README.md"))
    blocks = re.findall(r"```console\n(.*?)```", readme, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 11
    assert [command for command in commands if command not in long] == []
