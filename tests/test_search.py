"""Search, decode and members: what they find is what the codes say, by longhand and by FAISS."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import longhand_decode
from runs import WORDS, config_of, run_here
from typer.testing import CliRunner

import vqpipe
from vqpipe.cli import app
from vqpipe.errors import DamagedError, InputError
from vqpipe.pipeline import search as searching
from vqpipe.pipeline.finished import Finished, find_finished
from vqpipe.sources import open_source
from vqpipe.sources.picked import read_picked
from vqpipe.storage.folder import Folder

ROWS, SHARD_ROWS = 2000, 700
MASKED = [3, 699, 700, 1999]
KINDS = ["KM30", "PQ10x4", "OPQ10x4", "RQ3x4"]


def vectors() -> np.ndarray:
    """Words, and some of them twice, so that there are equal codes."""
    words = np.load(WORDS)[: ROWS - 200].astype(np.float32)
    rows = np.concatenate([words, words[:200]])
    rows[MASKED] = np.nan
    return rows


def queries() -> np.ndarray:
    return np.load(WORDS)[5000:5040].astype(np.float32)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an output of each kind, rows masked; one under cosine; and queries."""
    folder = tmp_path_factory.mktemp("search")
    np.save(folder / "rows.npy", vectors())
    np.save(folder / "queries.npy", queries())
    for name, codebook, keys in [
        *[(kind, kind, {}) for kind in KINDS],
        ("cosine", "PQ10x4", {"source__metric": "cosine"}),
        ("unkept", "KM30", {"encode__store_error": False}),
    ]:
        defaults: dict[str, Any] = {
            "encode__shard_rows": SHARD_ROWS, "encode__store_error": True, "train__rounds": 2,
            "source__invalid_rows": "mask", "evaluate__queries": 0, "output": str(folder / name),
        }  # fmt: skip
        run_here(config_of(folder, folder / "rows.npy", codebook, **{**defaults, **keys}))
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def said(*arguments: object) -> dict[str, Any]:
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def decoded(output: Path) -> np.ndarray:
    """Return what the codes stand for, longhand, in float64; masked rows NaN."""
    codebook = vqpipe.load_codebook(output / "v1/codebook.zarr").codebook
    found = longhand_decode(codebook, np.asarray(vqpipe.open_codes(output)["codes"][...]))
    found[MASKED] = np.nan
    return found


def asked_of(output: Path) -> np.ndarray:
    wide = queries().astype(np.float64)
    if output.name == "cosine":
        wide /= np.sqrt((wide**2).sum(axis=1, keepdims=True))
    return wide


@pytest.mark.parametrize("kind", [*KINDS, "cosine"])
def test_search_finds_what_the_exported_index_finds_but_for_ties(world: Path, kind: str) -> None:
    """And distances are the longhand ones, nearest first, equal ones by smaller row number."""
    output = world / kind
    found = vqpipe.search(output, queries(), 25)
    assert found.rows.shape == found.distances.shape == (40, 25)
    assert found.distances.dtype == np.float32
    assert not np.isin(found.rows, MASKED).any()
    every = ((asked_of(output)[:, None] - decoded(output)) ** 2).sum(axis=2)
    np.testing.assert_allclose(found.distances, np.take_along_axis(every, found.rows, 1), rtol=1e-5)
    closer = np.diff(found.distances) < 0
    unordered = (np.diff(found.distances) == 0) & (np.diff(found.rows) <= 0)
    assert not closer.any()
    assert not unordered.any()
    index = faiss.read_index(str(output / "v1/index.faiss"))
    distances, rows = index.search(queries(), 25)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-4)
    # Where they name different rows, these are as far.
    for query, place in np.argwhere(rows != found.rows):
        other = every[query, rows[query, place]]
        assert abs(other - every[query, found.rows[query, place]]) <= 1e-4 * other


def test_equal_codes_are_found_by_smaller_row_number(world: Path) -> None:
    """All rows of the nearest cell are equally near: the first of them are found, of several shards."""
    labels = np.asarray(vqpipe.open_codes(world / "KM30")["codes"][:, 0]).astype(int)
    labels[MASKED] = -1
    found = vqpipe.search(world / "KM30", queries(), 5)
    centroids = vqpipe.load_codebook(world / "KM30/v1/codebook.zarr").codebook.centroids[0, 0]
    for query, rows in zip(queries().astype(np.float64), found.rows, strict=True):
        cell = int(((centroids - query) ** 2).sum(axis=1).argmin())
        members = np.flatnonzero(labels == cell)[:5]
        assert rows[: len(members)].tolist() == members.tolist()


def test_a_search_in_batches_and_by_path_is_the_same(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vqpipe.search(world / "PQ10x4", queries(), 7)
    monkeypatch.setattr(searching, "BATCH_BYTES", 3 * searching.search_bytes(1, 23, 100))
    monkeypatch.setattr(searching, "PAIRS_PER_TASK", 10)
    again = vqpipe.search(world / "PQ10x4", world / "queries.npy", 7)
    np.testing.assert_array_equal(again.rows, whole.rows)
    np.testing.assert_array_equal(again.distances, whole.distances)


def test_fewer_rows_than_asked_for_leave_places_empty(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(20, dtype=np.float32).reshape(10, 2))
    run_here(config_of(tmp_path, tmp_path / "rows.npy", "KM4", evaluate__queries=0))
    found = vqpipe.search(tmp_path / "out", np.zeros((1, 2)), 12)
    assert sorted(found.rows[0].tolist()) == [-1, -1, *range(10)]
    assert np.isinf(found.distances[0, 10:]).all()
    table = said("search", tmp_path / "out", "--queries", tmp_path / "rows.npy", "-k", 12)
    assert [len(answer["rows"]) for answer in table["answers"]] == [10] * 10


def test_answers_are_the_same_in_every_format(world: Path, tmp_path: Path) -> None:
    wanted = vqpipe.search(world / "RQ3x4", queries(), 6)
    line = ("search", world / "RQ3x4", "--queries", world / "queries.npy", "-k", 6)
    answers = said(*line)["answers"]
    assert [answer["rows"] for answer in answers] == wanted.rows.tolist()
    assert np.array_equal(np.float32([one["distances"] for one in answers]), wanted.distances)
    assert len(said(*line, "--to", tmp_path / "a.npy")["files"]) == 2
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), wanted.rows)
    np.testing.assert_array_equal(np.load(tmp_path / "a.distances.npy"), wanted.distances)
    said(*line, "--to", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    said(*line, "--to", tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for column, values in (("query", np.arange(40).repeat(6)), ("row", wanted.rows.ravel())):
        assert table[column] == values.tolist()
        assert [int(one[column]) for one in lines] == values.tolist()
    assert table["rank"] == list(range(1, 7)) * 40
    assert np.array_equal(np.float32(table["distance"]), wanted.distances.ravel())
    assert np.array_equal(np.float32([one["distance"] for one in lines]), wanted.distances.ravel())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.csv", "a.distances.npy", "a.npy", "a.parquet",
    ]  # fmt: skip


def with_ids(world: Path, folder: Path, kind: str, *, words: bool) -> tuple[Path, list[Any]]:
    """Return a copy of an output that knows ids, and these."""
    output = shutil.copytree(world / kind, folder / "out")
    ids: list[Any] = (
        [f"w{7 * row}" for row in range(ROWS)] if words else list(range(2**63, 2**63 + ROWS))
    )
    group = zarr.open_group(str(output / "v1/codes.zarr"), mode="r+")
    values = np.array(ids, dtype=np.dtypes.StringDType()) if words else np.array(ids, np.uint64)
    group.create_array("ids", data=values, chunks=(100,), dimension_names=("row",))
    return output, ids


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("words", [False, True])
def test_ids_go_along_with_row_numbers(world: Path, tmp_path: Path, words: bool) -> None:
    output, ids = with_ids(world, tmp_path, "KM30", words=words)
    line = ("search", output, "--queries", world / "queries.npy", "-k", 4)
    answers = said(*line)["answers"]
    for answer in answers:
        assert answer["ids"] == [ids[row] for row in answer["rows"]]
    assert str(answers[0]["ids"][0]) in command(*line).stdout
    said(*line, "--to", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert table["id"] == [ids[row] for row in table["row"]]
    said(*line, "--to", tmp_path / "a.npy")
    assert (tmp_path / "a.ids.npy").exists() != words
    if not words:
        rows = np.load(tmp_path / "a.npy")
        assert np.load(tmp_path / "a.ids.npy").tolist() == np.array(ids, np.uint64)[rows].tolist()
    members = said("members", output, "--codeword", 5)
    assert members["ids"] == [ids[row] for row in members["rows"]]
    said("export", output, "--to", "parquet")
    table = pq.read_table(output / "v1/codes.parquet").to_pydict()
    assert table["id"] == [ids[row] for row in table["row"]]


@pytest.mark.parametrize("kind", ["OPQ10x4", "cosine"])
def test_decode_writes_what_codes_stand_for_and_nan_for_masked_rows(
    world: Path, tmp_path: Path, kind: str
) -> None:
    wanted = decoded(world / kind)
    said("decode", world / kind, "--to", tmp_path / "a.npy")
    whole = np.load(tmp_path / "a.npy")
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, wanted, rtol=1e-4, atol=1e-5)
    assert np.isnan(whole[MASKED]).all()
    said("decode", world / kind, "--rows", "690:1500", "--to", tmp_path / "a.zarr")
    array = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")
    np.testing.assert_array_equal(np.asarray(array[...]), whole[690:1500])
    np.testing.assert_array_equal(vqpipe.decode(world / kind, 690, 1500), whole[690:1500])
    # A source as good as any.
    assert open_source(str(tmp_path / "a.zarr")).rows == 810
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.zarr"]


@pytest.mark.parametrize("output", ["KM30", "unkept"])
def test_members_are_the_rows_of_a_label_nearest_first(
    world: Path, tmp_path: Path, output: str
) -> None:
    """By distances that were kept, and by those taken from the source's rows."""
    labels = np.asarray(vqpipe.open_codes(world / output)["codes"][:, 0]).astype(int)
    labels[MASKED] = -1
    errors = ((vectors() - decoded(world / output)) ** 2).sum(axis=1)
    for codeword in (0, 17):
        members = np.flatnonzero(labels == codeword)
        found = said("members", world / output, "--codeword", codeword, "--limit", 10_000)
        assert found["count"] == len(members) > 20
        assert sorted(found["rows"]) == members.tolist()
        np.testing.assert_allclose(found["distances"], errors[found["rows"]], rtol=1e-4)
        assert found["distances"] == sorted(found["distances"])
        few = said("members", world / output, "--codeword", codeword, "--limit", 7)
        assert few["count"] == len(members)
        assert few["rows"] == found["rows"][:7]
    said("members", world / output, "--codeword", 17, "--limit", 7, "--to", tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet").to_pydict()
    assert (table["codeword"], table["row"]) == ([17] * 7, few["rows"])
    said("members", world / output, "--codeword", 17, "--limit", 7, "--to", tmp_path / "m.npy")
    assert np.load(tmp_path / "m.npy").tolist() == few["rows"]
    assert "the nearest 7 of them" in command(
        "members", world / output, "--codeword", 17, "--limit", 7
    ).stdout  # fmt: skip


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no output": (("search", "{0}/nowhere", "--queries", "{0}/queries.npy"), "no generation of a run"),
    "no queries": (("search", "{0}/KM30", "--queries", "{0}/none.npy"), "none.npy"),
    "another dim": (("search", "{0}/KM30", "--queries", "{0}/out.npy"), "of one space"),
    "a query of NaN": (("search", "{0}/KM30", "--queries", "{0}/rows.npy", "--json"), "query 3: holds NaN"),
    "an ending": (("search", "{0}/KM30", "--queries", "{0}/queries.npy", "--to", "a.txt"), ".npy or .parquet"),
    "no folder": (("decode", "{0}/KM30", "--to", "{0}/none/a.npy"), "no folder"),
    "there already": (("decode", "{0}/KM30", "--to", "{0}/out.npy"), "--overwrite"),
    "a folder": (("decode", "{0}/KM30", "--to", "{0}/b.npy", "--overwrite"), "is a folder"),
    "no slice": (("decode", "{0}/KM30", "--rows", "5", "--to", "{0}/a.npy"), "A:B"),
    "no such rows": (("decode", "{0}/KM30", "--rows", "5:2001", "--to", "{0}/a.npy"), "rows 0 to 1,999"),
    "no rows": (("decode", "{0}/KM30", "--rows", "5:5", "--to", "{0}/a.npy"), "rows 5:5"),
    "no cluster": (("members", "{0}/PQ10x4", "--codeword", "3"), "members are of KM codebooks"),
    "no codeword": (("members", "{0}/KM30", "--codeword", "30"), "codewords 0 to 29"),
    "no format": (("export", "{0}/KM30", "--to", "csv"), "faiss, npy, parquet"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_is_wrong_is_status_2_and_writes_nothing(world: Path, wrong: str) -> None:
    np.save(world / "out.npy", np.zeros((3, 7), np.float32))
    (world / "b.npy").mkdir(exist_ok=True)
    before = sorted(path.name for path in world.rglob("*"))
    arguments, why = REFUSED[wrong]
    result = command(*(argument.format(world) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert why in result.stderr
    assert result.stdout == ""
    assert sorted(path.name for path in world.rglob("*")) == before


def test_a_failure_half_way_leaves_what_was_there(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file and of a folder, though they may be replaced."""
    (tmp_path / "a.npy").write_bytes(b"mine")
    said("decode", world / "KM30", "--rows", "0:9", "--to", tmp_path / "a.zarr")

    def broken(*_: object) -> Iterator[np.ndarray]:
        yield np.zeros((4, 100), np.float32)
        raise DamagedError("here it ends")

    monkeypatch.setattr("vqpipe.pipeline.decode.decode_pieces", broken)
    for name in ("a.npy", "a.zarr"):
        result = command("decode", world / "KM30", "--to", tmp_path / name, "--overwrite")
        assert result.exit_code == 1
    assert (tmp_path / "a.npy").read_bytes() == b"mine"
    assert zarr.open_array(str(tmp_path / "a.zarr"), mode="r").shape == (9, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.zarr"]


def test_codes_that_are_lost_are_never_taken_for_code_0(world: Path, tmp_path: Path) -> None:
    output = shutil.copytree(world / "KM30", tmp_path / "out")
    (output / "v1/codes.zarr/codes/c/1/0").unlink()
    with pytest.raises(DamagedError, match=r"shard 1 \(rows 700 to 1,400\)"):
        vqpipe.search(output, queries())
    for line in (("members", output, "--codeword", 1), ("export", output, "--to", "npy")):
        assert command(*line).exit_code == 1


def test_members_need_the_source_where_no_distance_was_kept(world: Path, tmp_path: Path) -> None:
    output = shutil.copytree(world / "unkept", tmp_path / "out")
    run = json.loads((output / "run.json").read_text())
    run["config"]["source"]["uri"] = str(tmp_path / "gone.npy")
    (output / "run.json").write_text(json.dumps(run))
    result = command("members", output, "--codeword", 1)
    assert result.exit_code == 2
    assert "encode.store_error" in result.stderr
    # And say when it has been written since.
    rows = vectors()
    np.save(tmp_path / "gone.npy", rows)
    result = command("members", output, "--codeword", 1)
    assert result.exit_code == 2
    assert "another source" in result.stderr


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, ROWS - 1)), st.integers(1, 300), st.integers(0, 1 << 16))
def test_picked_rows_are_those_that_are_asked_for(
    picked: set[int], chunk_rows: int, gap: int
) -> None:
    class Array:
        dim, row_bytes = 1, 512
        reads = 0

        def __init__(self) -> None:
            self.chunk_rows = chunk_rows
            self.chunks: list[int] = []

        def read(self, start: int, stop: int) -> np.ndarray:
            self.chunks += range(start // chunk_rows, (stop - 1) // chunk_rows + 1)
            return np.arange(start, stop)[:, None]

    array, rows = Array(), np.array(sorted(picked), dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqpipe.sources.picked._GAP_BYTES", gap)
        patch.setattr("vqpipe.sources.picked._SPAN_BYTES", 4 * gap + 1)
        found = [(here, values) for here, values in read_picked(array, rows)]  # type: ignore[arg-type]
    assert [value for _, values in found for value in values[:, 0].tolist()] == rows.tolist()
    assert [place for here, _ in found for place in range(here.start, here.stop)] == list(range(len(rows)))  # fmt: skip
    assert len(array.chunks) == len(set(array.chunks))


def test_an_output_without_a_finished_generation_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", vectors()[:500])
    keys: dict[str, Any] = {"source__invalid_rows": "mask", "train__rounds": 1}
    run_here(config_of(tmp_path, tmp_path / "rows.npy", "KM4", **keys), "encode")
    with pytest.raises(InputError, match="no generation is complete"):
        find_finished(Folder(str(tmp_path / "out")))


def test_finished_names_what_is_current(world: Path) -> None:
    found: Finished = find_finished(Folder(str(world / "PQ10x4")))
    assert (found.generation.name, found.codes.rows) == ("v1", ROWS)
    assert found.codebook.spec.columns == 10
