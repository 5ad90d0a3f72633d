"""Whatever file or server rows come from, a run makes the same codebook and codes of them, by both runners."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from runs import DATA, config_of, run_command, run_here, statuses
from test_sources_hdf5 import benchmark_file
from typer.testing import CliRunner
from web_server import WebServer

import vqpipe
from vqpipe.cli import app
from vqpipe.config import Config, FileConfig
from vqpipe.config_file import load_config
from vqpipe.engines.dask import DaskRunner
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import OutputError, SourceError
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.progress import Silent
from vqpipe.runner import Runner

ROWS = np.random.default_rng(5).standard_normal((3000, 8)).astype("f4")
KEYS: dict[str, Any] = {"encode__shard_rows": 500, "train__rounds": 8, "export": []}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same rows in files of each kind, and on a server that is busy now and then."""
    folder = tmp_path_factory.mktemp("sources")
    np.save(folder / "a.npy", ROWS)
    np.savez(folder / "a.npz", names=np.arange(3000), rows=ROWS)
    np.savez_compressed(folder / "packed.npz", names=np.arange(3000), rows=ROWS)
    with h5py.File(folder / "plain.h5", "w") as file:
        file["rows"] = ROWS
    with h5py.File(folder / "packed.h5", "w") as file:
        file.create_dataset(
            "g/rows", data=ROWS, chunks=(130, 3), compression="gzip", shuffle=True, fletcher32=True
        )
    zarr.create_array(folder / "a.zarr", data=ROWS, chunks=(100, 8), shards=(500, 8))
    with WebServer(folder, share=0.05).running() as server:
        names = ("a.npy", "a.npz", "packed.npz", "plain.h5", "packed.h5")
        found = {name: str(folder / name) for name in names}
        yield {**found, "web": f"{server.url}/a.zarr"}


@pytest.fixture(scope="module", params=["serial", "dask"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if request.param == "serial":
        yield SerialRunner()
        return
    with DaskRunner(
        config_of(Path("/"), "a", cluster={"options": {"n_workers": 2}}).cluster, 2 << 30
    ) as dask:
        yield dask


def result_of(config: Config) -> tuple[str, bytes]:
    """Return the codebook's digest and the codes."""
    digest = vqpipe.load_codebook(f"{config.output}/v1/codebook.zarr").codebook.digest
    return digest, vqpipe.open_codes(config.output)["codes"][...].tobytes()


def test_the_codes_are_those_of_the_same_rows_in_npy(
    tmp_path: Path, sources: dict[str, str], runner: Runner
) -> None:
    found = {}
    for name, uri in sources.items():
        config = config_of(tmp_path / name, uri, "PQ4x4", **KEYS)
        run_pipeline(config, runner, Silent())
        found[name] = result_of(config)
        again = run_pipeline(config, runner, Silent())
        assert set(statuses(again).values()) == {"skipped"}
    assert {name for name in found if found[name] != found["a.npy"]} == set()


# Ends the process, as nothing else but a power cut does, before the n-th shard's codes are written.
KILL = """
import os, signal
from vqpipe.storage.codes import CodeArray
left, write = [{after}], CodeArray.write
def counted(*arguments, **keys):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments, **keys)
CodeArray.write = counted
"""


@pytest.mark.parametrize("name", ["a.npz", "packed.npz", "packed.h5"])
def test_a_run_that_was_killed_goes_on_and_ends_alike(
    tmp_path: Path, sources: dict[str, str], name: str
) -> None:
    config = config_of(tmp_path, sources[name], "PQ4x4", **KEYS)
    whole = config_of(tmp_path / "whole", sources[name], "PQ4x4", **KEYS)
    run_here(whole)
    text = config.model_dump_json(by_alias=True, exclude_none=True)
    (tmp_path / "config.yaml").write_text(text)
    killed = run_command(
        "run", "--direct", str(tmp_path / "config.yaml"), patch=KILL.format(after=3)
    )
    killed.communicate()
    assert killed.returncode == -9
    summary = run_here(config)
    assert statuses(summary)["train"] == "skipped"
    assert result_of(config) == result_of(whole)


def test_of_a_data_set_that_grew_only_new_shards_are_encoded(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "rows", data=ROWS[:2000], chunks=(100, 8), maxshape=(None, 8), compression="gzip"
        )
    config = config_of(tmp_path, path, "PQ4x4", **KEYS)
    run_here(config)
    _, before = result_of(config)
    with h5py.File(path, "a") as file:
        file["rows"].resize(3000, axis=0)
        file["rows"][2000:] = ROWS[2000:]
    summary = run_here(config)
    assert (statuses(summary)["train"], statuses(summary)["encode"]) == ("skipped", "done")
    _, after = result_of(config)
    assert after.startswith(before)
    learnt = vqpipe.load_codebook(f"{config.output}/v1/codebook.zarr")
    assert learnt.encode(ROWS).tobytes() == after
    with h5py.File(path, "w") as file:
        file["rows"] = ROWS[:1000]
    with pytest.raises(OutputError, match="3,000 rows"):
        run_here(config)


def test_a_file_of_ann_benchmarks_is_source_queries_and_truth(tmp_path: Path) -> None:
    path = benchmark_file(tmp_path / "a.hdf5", "cosine")
    copies = {}
    with h5py.File(path) as file:
        for name in ("train", "test", "neighbors"):
            np.save(tmp_path / f"{name}.npy", file[name][:])
            copies[name] = {"uri": str(tmp_path / f"{name}.npy")}
    keys = {**KEYS, "source__metric": "cosine", "evaluate__recall_at": [1, 5]}
    short = config_of(tmp_path / "short", path, "PQ4x4", **keys, evaluate__queries={"uri": path})
    spelt = config_of(
        tmp_path / "spelt", path, "PQ4x4", **keys,
        evaluate={"queries": {"uri": path, "key": "test"}, "truth": {"uri": path, "key": "neighbors"}},
    )  # fmt: skip
    apart = config_of(
        tmp_path / "apart", copies["train"]["uri"], "PQ4x4", **keys,
        evaluate={"queries": copies["test"], "truth": copies["neighbors"]},
    )  # fmt: skip
    recalls = []
    for config in (short, spelt, apart):
        summary = run_here(config)
        assert summary["warnings"] == []
        recalls.append(summary["recall"])
        assert result_of(config) == result_of(short)
    assert recalls[0] == recalls[1] == recalls[2]
    assert 0 < recalls[0]["1"] <= recalls[0]["5"] <= 1


def test_inspect_and_init_see_what_a_file_of_ann_benchmarks_holds(tmp_path: Path) -> None:
    path = benchmark_file(tmp_path / "glove-8-angular.hdf5", "cosine")
    seen = json.loads(CliRunner().invoke(app, ["inspect", path, "--json"]).output)
    assert (seen["key"], seen["metric"], seen["rows"]) == ("train", "cosine", 300)
    assert (seen["queries"], seen["truth"]) == (
        "test, 20 rows",
        "neighbors, the 10 nearest rows of each",
    )
    begun = CliRunner().invoke(app, ["init", path])
    (tmp_path / "config.yaml").write_text(begun.output)
    config = load_config(tmp_path / "config.yaml")
    assert (config.source.metric, config.source.key) == ("cosine", None)
    assert config.evaluate.queries == FileConfig(uri=path)


def test_another_metric_than_the_files_is_warned_of_and_its_truth_left_alone(
    tmp_path: Path,
) -> None:
    path = benchmark_file(tmp_path / "a.hdf5", "cosine")
    config = config_of(tmp_path, path, "PQ4x4", **KEYS, evaluate__queries={"uri": path})
    summary = run_here(config)
    assert [one for one in summary["warnings"] if "nearest by cosine" in one]
    # Queries of the file, and their nearest among the rows that were drawn, by the run's own metric.
    evaluation = Path(config.output, "v1/evaluation.json").read_text()
    assert '"queries": 20' in evaluation


def test_part_of_a_benchmarks_rows_is_not_searched_by_its_truth(tmp_path: Path) -> None:
    path = benchmark_file(tmp_path / "a.hdf5", "l2")
    config = config_of(
        tmp_path, path, "PQ4x4", **KEYS, source__rows=200, evaluate__queries={"uri": path}
    )
    assert run_here(config)["recall"] is not None
    named = config_of(
        tmp_path / "named", path, "PQ4x4", **KEYS, source__rows=200,
        evaluate={"queries": {"uri": path}, "truth": {"uri": path}},
    )  # fmt: skip
    with pytest.raises(SourceError, match="belongs to another source"):
        run_here(named)


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data that VQPIPE_DATA names")
def test_sift_as_ann_benchmarks_has_it_is_searched_as_its_own_files_are(tmp_path: Path) -> None:
    """Recall by `neighbors`, over all rows, is that of the texmex files that they were made from."""

    def vecs(name: str, dtype: str) -> np.ndarray:
        raw = np.fromfile(DATA / name, "u1")
        dim = int(raw[:4].view("<i4")[0])
        return raw.reshape(-1, 4 + dim * np.dtype(dtype).itemsize)[:, 4:].copy().view(dtype)

    rows, queries = vecs("sift128-base-200k.bvecs", "u1"), vecs("sift128-query-1k.bvecs", "u1")
    nearest = vecs("sift128-groundtruth-1k.ivecs", "<i4")
    path = tmp_path / "sift-128-euclidean.hdf5"
    with h5py.File(path, "w") as file:
        file["train"], file["test"], file["neighbors"] = rows, queries, nearest
        differences = rows[nearest].astype("f8") - queries[:, None].astype("f8")
        file["distances"] = np.sqrt((differences**2).sum(axis=2)).astype("f4")
    keys = {"train__rounds": 10, "export": [], "encode__shard_rows": 50_000}
    short = config_of(tmp_path / "a", path, "PQ16", **keys, evaluate__queries={"uri": str(path)})
    files = {
        "queries": {"uri": str(DATA / "sift128-query-1k.bvecs")},
        "truth": {"uri": str(DATA / "sift128-groundtruth-1k.ivecs")},
    }
    flat = config_of(
        tmp_path / "b", DATA / "sift128-base-200k.bvecs", "PQ16", **keys, evaluate=files
    )
    assert run_here(short)["recall"] == run_here(flat)["recall"]
    assert result_of(short) == result_of(flat)
    shutil.rmtree(tmp_path / "a")
