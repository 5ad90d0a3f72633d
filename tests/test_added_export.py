"""Exports: Parquet holds the codes, and a file that is added later is kept, checked and outlived like the stage's."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from runs import WORDS, config_of, files_of, run_here, statuses
from typer.testing import CliRunner

import vqpipe
from vqpipe.cli import app
from vqpipe.config import Config
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import LeaseError, OutputError
from vqpipe.pipeline.added_export import export_inside
from vqpipe.progress import Silent
from vqpipe.storage import parquet_file
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import Patience, take_lease

ROWS = 1000
MASKED = [5, 600]
FILES = {"faiss": "index.faiss", "npy": "codes.npy", "parquet": "codes.parquet"}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def vectors() -> np.ndarray:
    rows = np.load(WORDS)[:ROWS].astype(np.float32)
    rows[MASKED] = np.nan
    return rows


def make(folder: Path, codebook: str, export: list[str], **more: Any) -> Config:
    """Return a config and the finished output of it, in three shards."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "rows.npy", vectors())
    keys = {
        "source__invalid_rows": "mask", "encode__shard_rows": 400, "train__rounds": 2,
        "evaluate__queries": 0, "export": export, **more,
    }  # fmt: skip
    config = config_of(folder, folder / "rows.npy", codebook, **keys)
    run_here(config)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """An output with all exports, as the stage writes them."""
    folder = tmp_path_factory.mktemp("whole")
    config = make(folder, "PQ10x5", ["faiss", "npy", "parquet"])
    return folder / "out", config


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """An output of the same codes without any export."""
    folder = tmp_path_factory.mktemp("bare")
    config = make(folder, "PQ10x5", [])
    return folder / "out", config


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def said(*arguments: object) -> dict[str, Any]:
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def copy(made: tuple[Path, Config], folder: Path) -> tuple[Path, Config]:
    """Return a copy of an output, and a config that runs in it on the same rows."""
    output = Path(shutil.copytree(made[0], folder / "out"))
    return output, made[1].model_copy(update={"output": str(output)})


def test_parquet_holds_the_codes_of_valid_rows(whole: tuple[Path, Config]) -> None:
    output, _ = whole
    codes = np.asarray(vqpipe.open_codes(output)["codes"][...])
    table = pq.read_table(output / "v1/codes.parquet")
    valid = np.setdiff1d(np.arange(ROWS), MASKED)
    assert table.column_names == ["row", "codes"]
    assert table["row"].to_pylist() == valid.tolist()
    assert table["codes"].to_pylist() == codes[valid].tolist()
    assert str(table.schema.field("codes").type) == "fixed_size_list<element: uint8>[10]"
    facts = table.schema.metadata
    quantizer = vqpipe.load_codebook(output / "v1/codebook.zarr")
    assert facts[b"vqpipe.codebook_digest"].decode() == quantizer.codebook.digest
    assert facts[b"vqpipe.codebook"] == b"PQ10x5"


def test_clusters_are_labels_in_parquet_with_their_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In row groups that do not depend on how shards are cut."""
    monkeypatch.setattr(parquet_file, "ROW_GROUP_ROWS", 300)
    make(tmp_path, "KM300", ["parquet"], encode__store_error=True)
    group = vqpipe.open_codes(tmp_path / "out")
    table = pq.read_table(tmp_path / "out/v1/codes.parquet")
    valid = np.setdiff1d(np.arange(ROWS), MASKED)
    assert table.column_names == ["row", "label", "sq_error"]
    assert str(table.schema.field("label").type) == "uint16"
    for name, stored in (("label", group["codes"][:, 0]), ("sq_error", group["sq_error"][:])):
        np.testing.assert_array_equal(table[name].to_numpy(), np.asarray(stored)[valid])
    file = pq.ParquetFile(tmp_path / "out/v1/codes.parquet")
    sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert sizes == [300, 300, 300, 98]


@pytest.mark.parametrize("format", FILES)
def test_a_file_that_is_added_is_the_stages_own(
    whole: tuple[Path, Config], bare: tuple[Path, Config], tmp_path: Path, format: str
) -> None:
    """Byte for byte; verify checks it, prune leaves it, and a run has nothing to do."""
    output, config = copy(bare, tmp_path)
    name = FILES[format]
    added = said("export", output, "--to", format)
    assert list(added["files"]) == [str(output / "v1" / name)]
    assert (output / "v1" / name).read_bytes() == (whole[0] / "v1" / name).read_bytes()
    assert said("verify", output)["well"]
    assert said("prune", output, "--yes")["removals"] == []
    before = files_of(output / "v1")
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    assert files_of(output / "v1") == before
    assert command("export", output, "--to", format).exit_code == 2
    assert "--overwrite" in command("export", output, "--to", format).stderr
    assert said("export", output, "--to", format, "--overwrite") == added
    # And to a place of one's own.
    said("export", output, "--to", format, "--out", tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == before[name]
    assert files_of(output / "v1") == before


def test_an_added_file_that_is_damaged_is_found_and_forgotten(
    bare: tuple[Path, Config], tmp_path: Path
) -> None:
    output, config = copy(bare, tmp_path)
    said("export", output, "--to", "parquet")
    path = output / "v1/codes.parquet"
    path.write_bytes(path.read_bytes()[:-7])
    result = command("verify", output, "--repair", "--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["what"], finding["path"]) == ("export", "v1/codes.parquet")
    assert not path.exists()
    assert said("verify", output)["well"]
    assert set(statuses(run_here(config)).values()) == {"skipped"}


def test_a_stages_file_that_is_damaged_is_made_again(
    whole: tuple[Path, Config], tmp_path: Path
) -> None:
    output, config = copy(whole, tmp_path)
    before = (output / "v1/codes.parquet").read_bytes()
    (output / "v1/codes.parquet").write_bytes(before[:-7])
    assert command("verify", output, "--repair").exit_code == 1
    assert statuses(run_here(config))["export"] == "done"
    assert (output / "v1/codes.parquet").read_bytes() == before
    assert said("verify", output)["well"]


def test_codes_that_change_take_added_files_with_them(tmp_path: Path) -> None:
    """They would be taken for files of the new codes; what the config asks for is written anew."""
    config = make(tmp_path, "PQ10x5", ["npy"])
    said("export", tmp_path / "out", "--to", "parquet")
    said("export", tmp_path / "out", "--to", "faiss")
    kept = config.model_copy(update={"export": ["npy", "faiss"]})
    run_here(kept)
    # The codes were the same: what was added stays.
    assert (tmp_path / "out/v1/codes.parquet").exists()
    assert said("verify", tmp_path / "out")["well"]
    np.save(tmp_path / "rows.npy", np.concatenate([vectors(), np.load(WORDS)[5000:5100]]))
    run_here(kept)
    assert not (tmp_path / "out/v1/codes.parquet").exists()
    assert np.load(tmp_path / "out/v1/codes.npy").shape == (1100, 10)
    assert faiss.read_index(str(tmp_path / "out/v1/index.faiss")).ntotal == 1098
    assert said("verify", tmp_path / "out")["well"]
    assert said("export", tmp_path / "out", "--to", "parquet")["rows"] == 1100


def test_added_files_go_where_the_config_asks_for_none(
    bare: tuple[Path, Config], tmp_path: Path
) -> None:
    output, config = copy(bare, tmp_path)
    source = Path(str(config.source.uri))
    before = source.read_bytes()
    said("export", output, "--to", "parquet")
    assert statuses(run_here(config))["export"] == "skipped"
    np.save(source, np.concatenate([vectors(), np.load(WORDS)[5000:5100]]))
    try:
        assert statuses(run_here(config))["export"] == "done"
        assert not (output / "v1/codes.parquet").exists()
        assert statuses(run_here(config))["export"] == "skipped"
        assert said("verify", output)["well"]
    finally:
        source.write_bytes(before)


def test_nothing_beside_the_users_own_file_is_touched(
    bare: tuple[Path, Config], tmp_path: Path
) -> None:
    """An index of one file takes the place of parts in the output alone."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index/notes.txt").write_text("the user's own")
    said("export", bare[0], "--to", "faiss", "--out", tmp_path / "a.index")
    assert (tmp_path / "index/notes.txt").read_text() == "the user's own"
    result = command("export", bare[0], "--to", "npy", "--out", bare[0] / "v1/mine.npy")
    assert result.exit_code == 2
    assert "leave out --out" in result.stderr


def test_nothing_is_added_while_a_run_works_in_the_output(
    bare: tuple[Path, Config], tmp_path: Path
) -> None:
    folder = Folder(str(copy(bare, tmp_path)[0]))
    before = sorted(files_of(Path(folder.path)))
    lively = Patience(0.05, 30, 0.01)
    with take_lease(folder, lambda _: None, lively), pytest.raises(LeaseError, match="works in it"):
        export_inside(folder, "npy", SerialRunner(), Silent(), overwrite=False, patience=lively)
    assert sorted(files_of(Path(folder.path))) == before


def test_without_pyarrow_parquet_is_refused_before_anything_runs(
    bare: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = command("export", bare[0], "--to", "parquet")
    assert result.exit_code == 2
    assert "pip install 'vqpipe[parquet]'" in result.stderr
    np.save(tmp_path / "rows.npy", vectors()[10:200])
    line = ("search", bare[0], "--queries", tmp_path / "rows.npy", "--to", tmp_path / "a.parquet")
    assert command(*line).exit_code == 2
    with pytest.raises(OutputError, match="vqpipe\\[parquet\\]"):
        make(tmp_path / "new", "KM4", ["parquet"])
    assert not (tmp_path / "new/out").exists()
    assert not (tmp_path / "a.parquet").exists()
