"""Verify and repair: each fault in its place is found and named, and the next run mends it alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import Result
from runs import WORDS, config_of, excess_distance, files_of, run_here, statuses
from typer.testing import CliRunner

import vqpipe
from vqpipe.cli import app
from vqpipe.config import Config
from vqpipe.engines.choose import make_runner
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import VqpipeError
from vqpipe.pipeline.train import CHECKPOINT_FILE
from vqpipe.pipeline.verify import verify_output
from vqpipe.progress import Silent
from vqpipe.storage import samples
from vqpipe.storage.folder import Folder

KEYS: dict[str, Any] = {
    "encode__shard_rows": 1000, "encode__store_error": True, "train__rounds": 3,
    "evaluate__queries": 20, "source__invalid_rows": "mask", "export": ["faiss", "npy"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def vectors() -> np.ndarray:
    rows = np.load(WORDS)[:3500].astype(np.float32)
    rows[[5, 1500]] = np.nan
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A finished output of four shards with two masked rows."""
    folder = tmp_path_factory.mktemp("verify")
    np.save(folder / "rows.npy", vectors())
    config = config_of(folder, folder / "rows.npy", "PQ10x4", **KEYS)
    run_here(config)
    return folder / "out", config


def verify(output: Path, config: Config | None, **keys: Any) -> dict[str, Any]:
    return verify_output(Folder(str(output)), config, SerialRunner(), Silent(), **keys)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def damage(path: Path, fault: str) -> None:
    """Flip a bit in the middle of a file, cut it by half, or delete it."""
    if fault == "delete":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data if fault == "flip" else data[: len(data) // 2])


def sample_of(output: Path) -> Path:
    (path,) = (output / "samples").iterdir()
    return path


# Where the fault is, what finds it, which shard is named, and the stages that the next run does.
Fault = tuple[str, str, str, int | None, set[str]]
FIGURES = {"evaluate"}
CODES = {"encode", "evaluate"}
FAULTS: dict[str, Fault] = {
    "a byte of a code shard": ("v1/codes.zarr/codes/c/2/0", "flip", "shard", 2, {"encode"}),
    "a code shard cut": ("v1/codes.zarr/codes/c/1/0", "cut", "shard", 1, {"encode"}),
    "a code shard deleted": ("v1/codes.zarr/codes/c/3/0", "delete", "shard", 3, {"encode"}),
    "a byte of a mask": ("v1/codes.zarr/valid/c/1", "flip", "shard", 1, {"encode"}),
    "a mask deleted": ("v1/codes.zarr/valid/c/1", "delete", "shard", 1, {"encode"}),
    "a byte of the errors": ("v1/codes.zarr/sq_error/c/0", "flip", "shard", 0, {"encode"}),
    "the errors deleted": ("v1/codes.zarr/sq_error/c/0", "delete", "shard", 0, {"encode"}),
    "a byte of a signature": (
        "v1/codes.zarr/shards/source_signature/c/2/0", "flip", "shard", 2, {"encode"},
    ),
    "a record deleted": ("v1/codes.zarr/shards/squared_error/c/0", "delete", "shard", 0, {"encode"}),
    "the metadata of codes": ("v1/codes.zarr/zarr.json", "flip", "codes", None, CODES),
    "the metadata of an array": ("v1/codes.zarr/codes/zarr.json", "cut", "codes", None, CODES),
    "the metadata of records": (
        "v1/codes.zarr/shards/stored_bytes/zarr.json", "cut", "codes", None, CODES,
    ),
    "all codes deleted": ("v1/codes.zarr", "delete", "codes", None, CODES),
    "the counts of codes": ("v1/codes.zarr/code_counts/c/0/0", "flip", "evaluation", None, FIGURES),
    "a byte of the codebook": ("v1/codebook.zarr/centroids/c/0/0/0/0", "flip", "codebook", None, {"train"}),
    "the codebook's metadata": ("v1/codebook.zarr/zarr.json", "cut", "codebook", None, {"train"}),
    "the codebook deleted": ("v1/codebook.zarr", "delete", "codebook", None, {"train"}),
    "a byte of a training chunk": ("SAMPLE/train/c/0/0", "flip", "sample", None, {"sample"}),
    "a held-out chunk cut": ("SAMPLE/heldout/c/0/0", "cut", "sample", None, {"sample"}),
    "a byte of row numbers": ("SAMPLE/database_rows/c/0", "flip", "sample", None, {"sample"}),
    "the sample's metadata": ("SAMPLE/zarr.json", "cut", "sample", None, {"sample"}),
    "the figures cut": ("v1/evaluation.json", "cut", "evaluation", None, FIGURES),
    "the figures deleted": ("v1/evaluation.json", "delete", "evaluation", None, FIGURES),
    "what drift is measured from": ("v1/drift.npz", "flip", "baseline", None, set()),
    "a byte of the index": ("v1/index.faiss", "flip", "export", None, {"export"}),
    "plain codes cut": ("v1/codes.npy", "cut", "export", None, {"export"}),
    "current": ("current", "flip", "current", None, set()),
}  # fmt: skip


def test_a_finished_output_is_well_for_every_runner(world: tuple[Path, Config]) -> None:
    output, config = world
    before = files_of(output)
    found = verify(output, config, rows=50)
    assert found["well"]
    assert (found["shards"], found["rows_compared"]) == (4, 200)
    assert found["findings"] == found["notes"] == []
    dask = config.model_copy(
        update={"cluster": config_of(output, "x", cluster={"options": {"n_workers": 2}}).cluster}
    )
    with make_runner(dask) as runner:
        assert verify_output(Folder(str(output)), config, runner, Silent(), rows=50) == found
    assert files_of(output) == before


def test_each_fault_is_found_named_and_mended_by_the_next_run_alone(
    world: tuple[Path, Config],
) -> None:
    output, config = world
    lasting = ("codebook.zarr", "codes.zarr", "evaluation.json", "index.faiss", "codes.npy")

    def stored() -> dict[str, bytes]:
        found = files_of(output)
        parts = ("samples/", *lasting)
        return {name: found[name] for name in found if any(part in name for part in parts)}

    before = stored()
    for name, (place, fault, what, shard, stages) in FAULTS.items():
        damage(output / place.replace("SAMPLE", f"samples/{sample_of(output).name}"), fault)
        found = verify(output, config, rows=20, repair=True)
        assert found["repaired"]
        assert {(one["what"], one["shard"]) for one in found["findings"]} == {(what, shard)}, name
        summary = run_here(config)
        done = {stage for stage, status in statuses(summary).items() if status == "done"}
        assert done == stages, name
        (reason,) = (one["reason"] for one in summary["stages"] if one["name"] == "encode")
        if shard is not None:
            assert "in 1 shards" in reason
            assert "3 shards were there" in reason
        assert stored() == before, name


def test_a_stages_file_that_is_damaged_is_found_and_the_next_run_starts_a_generation(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "rows.npy", vectors())
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM8", **KEYS)
    run_here(config)
    for name in ("run.json", "v1/stages.json"):
        damage(tmp_path / "out" / name, "cut")
    with pytest.raises(VqpipeError, match=r"stages\.json: is not JSON.*vqpipe verify"):
        run_here(config)
    result = command("verify", str(tmp_path / "out"), "--json", "--repair")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [one["path"] for one in found["findings"]] == ["v1/stages.json", "current"]
    assert run_here(config)["generation"] == "v2"
    assert command("verify", str(tmp_path / "out")).exit_code == 0


def test_a_checkpoint_that_is_damaged_is_found_and_training_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", vectors())
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM8", **{**KEYS, "train__rounds": 6})
    calm = config_of(
        tmp_path / "calm", tmp_path / "rows.npy", "KM8", **{**KEYS, "train__rounds": 6}
    )
    run_here(calm, until="train")
    monkeypatch.setattr("vqpipe.pipeline.train.CHECKPOINT_SECONDS", 0.0)
    step = vqpipe.pipeline.train.take_step

    def stop(state: Any, *arguments: Any, **keys: Any) -> Any:
        if state.round == 4:
            raise KeyboardInterrupt
        return step(state, *arguments, **keys)

    for repair in (False, True):
        monkeypatch.setattr("vqpipe.pipeline.train.take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_here(config)
        monkeypatch.setattr("vqpipe.pipeline.train.take_step", step)
        assert verify(tmp_path / "out", config)["well"]
        damage(tmp_path / "out/v1" / CHECKPOINT_FILE, "flip")
        found = verify(tmp_path / "out", config, repair=repair)
        assert [one["what"] for one in found["findings"]] == ["checkpoint"]
        summary = run_here(config, until="train")
        assert any(CHECKPOINT_FILE in said for said in summary["warnings"]) != repair
        books = [
            files_of(folder / "out/v1/codebook.zarr") for folder in (tmp_path, tmp_path / "calm")
        ]
        assert books[0] == books[1]
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("place", "force", "named"),
    [
        ("v1/codes.zarr/codes/c/2/0", "evaluate", "shard 2"),
        ("v1/codes.zarr/codes/c/2/0", "export", "shard 2"),
        ("SAMPLE/heldout/c/0/0", "evaluate", "heldout"),
        ("SAMPLE/train/c/0/0", "train", "train: rows 0"),
        ("v1/codebook.zarr/centroids/c/0/0/0/0", "evaluate", "codebook.zarr"),
    ],
)
def test_damaged_bytes_are_never_used_silently(
    world: tuple[Path, Config], place: str, force: str, named: str
) -> None:
    output, config = world
    path = output / place.replace("SAMPLE", f"samples/{sample_of(output).name}")
    whole = path.read_bytes()
    damage(path, "flip")
    # What this process has read before is whole.
    samples._chunk.cache_clear()
    try:
        with pytest.raises(VqpipeError) as caught:
            run_here(config, force=force)
    finally:
        path.write_bytes(whole)
        shutil.rmtree(output / "v2", ignore_errors=True)
        run_here(config)
    assert named in str(caught.value)
    assert str(output) in str(caught.value)


def test_a_row_differs_only_if_its_codeword_is_farther_than_the_tolerance(
    world: tuple[Path, Config],
) -> None:
    output, config = world
    rows = vectors()
    rows[[5, 1500]] = 0
    quantizer = vqpipe.load_codebook(output / "v1/codebook.zarr")
    centroids = quantizer.codebook.centroids
    array = zarr.open_array(output / "v1/codes.zarr/codes", mode="r+")
    stored = array[...]
    rng = np.random.default_rng(0)
    changed = stored.copy()
    picked = rng.choice(np.setdiff1d(np.arange(1000, 2000), [1500]), 40, replace=False)
    changed[picked, 4] = (changed[picked, 4] + 1) % 16
    excess = excess_distance(rows, centroids, changed).sum(axis=1)
    excess[1500] = 0
    nearest = ((rows.astype(np.float64) - quantizer.decode(stored)) ** 2).sum(axis=1)
    norms = (rows.astype(np.float64) ** 2).sum(axis=1)
    wrong = int((excess[1000:2000] > (1e-5 * nearest + 1e-6 * norms)[1000:2000]).sum())
    assert 0 < wrong <= 40
    path = output / "v1/codes.zarr/codes/c/1/0"
    whole = path.read_bytes()
    array[1000:2000] = changed[1000:2000]
    record = zarr.open_array(output / "v1/codes.zarr/shards/stored_bytes", mode="r+")
    size = record[1]
    # As large as recorded, so that the rows alone tell.
    record[1] = path.stat().st_size
    try:
        (finding,) = verify(output, config, rows=1000)["findings"]
    finally:
        path.write_bytes(whole)
        record[1] = size
    assert finding["shard"] == 1
    assert finding["why"].startswith(f"{wrong} of 1,000 rows get another code from the source")
    assert verify(output, config)["well"]


def test_a_source_that_changed_since_is_noted_and_no_fault(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", vectors())
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM8", **KEYS)
    run_here(config)
    os.utime(tmp_path / "rows.npy", ns=(1, 1))
    found = verify(tmp_path / "out", config)
    assert (found["well"], found["notes"], found["rows_compared"]) == (True, [], 400)
    other = vectors()
    other[1000:2000] = other[2000:3000]
    np.save(tmp_path / "rows.npy", other)
    found = verify(tmp_path / "out", config)
    assert (found["well"], found["rows_compared"]) == (True, 300)
    assert "the rows of 1 of 4 shards have changed in the source" in found["notes"][0]
    (tmp_path / "rows.npy").unlink()
    found = verify(tmp_path / "out", config)
    assert (found["well"], found["rows_compared"]) == (True, 0)
    assert "rows were not compared" in found["notes"][0]


def test_verify_has_its_exit_statuses_and_says_what_it_did(world: tuple[Path, Config]) -> None:
    output, _ = world
    result = command("verify", str(output))
    assert result.exit_code == 0
    assert "all is well (4 shards, 400 rows encoded again)" in result.stdout
    path = output / "v1/codes.zarr/codes/c/2/0"
    whole = path.read_bytes()
    damage(path, "flip")
    for options in ([], ["--json"]):
        result = command("verify", str(output), "--rows", "0", *options)
        assert result.exit_code == 1
        assert "Traceback" not in result.output
    assert not json.loads(result.stdout)["well"]
    path.write_bytes(whole)
    assert command("verify", str(output), "--rows", "-1").exit_code == 2
    nothing = command("verify", str(output.parent / "none"))
    assert nothing.exit_code == 2
    assert "no generation" in nothing.stderr
