"""Every wrong input: status 2, one message with the facts, no traceback, nothing written or changed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
import zarr
from click.testing import Result
from typer.testing import CliRunner

from vqpipe.cli import app

ROWS, DIM = 400, 16

BASE = {
    "source": {"uri": "good.npy"},
    "output": "out",
    "codebook": "PQ4x4",
    "train": {"rounds": 2},
    "encode": {"shard_rows": 100},
    "evaluate": {"queries": 10},
    "cluster": "serial",
}


def vectors(rows: int = ROWS, dim: int = DIM, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)


def fvecs(rows: np.ndarray) -> bytes:
    return b"".join(struct.pack("<i", len(row)) + row.astype("<f4").tobytes() for row in rows)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_value(row: int, value: float) -> bytes:
    rows = vectors()
    rows[row, 3] = value
    return npy(rows)


def with_zero_row(row: int) -> bytes:
    rows = vectors()
    rows[row] = 0
    return npy(rows)


def with_dim_at(row: int, dim: int) -> bytes:
    content = bytearray(fvecs(vectors()))
    struct.pack_into("<i", content, row * (4 + 4 * DIM), dim)
    return bytes(content)


def write_config(path: Path, changes: dict[str, Any]) -> str:
    """Write the base config with values under dotted keys replaced."""
    config: dict[str, Any] = json.loads(json.dumps(BASE))
    for key, value in changes.items():
        section = config
        *folders, last = key.split(".")
        for name in folders:
            section = section.setdefault(name, {})
        section[last] = value
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def run(config: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["run", "--direct", config, *options])


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return every file's bytes, and None for every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def check_refused(result: Result, facts: tuple[str, ...]) -> None:
    """Check status 2 and one message that holds the facts, on standard error alone."""
    said = result.stderr
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert said.count("error: ") == 1
    assert [fact for fact in facts if fact not in said] == [], said


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of good and bad files, and an output from a good source."""
    folder = tmp_path_factory.mktemp("world")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    for name, chunks in (("chunk.zarr", (2000, 1000)), ("wide.zarr", (1, 1000))):
        # Metadata alone: what is refused is never read.
        zarr.create_array(folder / name, shape=(2000, 1000), chunks=chunks, dtype="float32")
    result = run(write_config(folder / "good.yaml", {}))
    assert result.exit_code == 0, result.output
    for name, member in (("flipped", "centroids/c/0/0/0/0"), ("offset", "offset/c/0")):
        copy = folder / f"{name}.zarr"
        shutil.copytree(folder / "out/v1/codebook.zarr", copy)
        content = bytearray((copy / member).read_bytes())
        content[5] ^= 1
        (copy / member).write_bytes(content)
    marked = folder / "marked.zarr"
    shutil.copytree(folder / "out/v1/codebook.zarr", marked)
    metadata = json.loads((marked / "zarr.json").read_text())
    metadata["attributes"]["digest"] = "0" * 64
    (marked / "zarr.json").write_text(json.dumps(metadata))
    return folder


FILES = {
    "good.npy": npy(vectors()),
    "other.npy": npy(vectors(seed=1)),
    "dim8.npy": npy(vectors(dim=8)),
    "half.npy": npy(vectors().astype(np.float16)),
    "empty.npy": npy(vectors(rows=0)),
    "empty.fvecs": b"",
    "cut.fvecs": fvecs(vectors())[:-7],
    "last.fvecs": with_dim_at(ROWS - 1, 15),
    "ragged.fvecs": fvecs(vectors(3)) + fvecs(vectors(2, 15)),
    "long.fbin": struct.pack("<II", ROWS + 1, DIM) + vectors().tobytes(),
    "long.npy": npy(vectors())[:-64],
    "line.npy": npy(vectors()[0]),
    "cube.npy": npy(vectors().reshape(20, 20, 16)),
    "double.npy": npy(vectors().astype(np.float64)),
    "long-int.npy": npy(vectors().astype(np.int64)),
    "objects.npy": npy(np.array([[{}] * 4] * 20, dtype=object)),
    "text.npy": b"these are no vectors\n" * 10,
    "words.txt": b"neither are these\n",
    "queries.npy": npy(vectors(20, seed=2)),
    "queries8.npy": npy(vectors(20, 8)),
    "truth.npy": npy(np.arange(20)[:, None]),
    "truth19.npy": npy(np.arange(19)[:, None]),
    "truth400.npy": npy(np.full((20, 1), ROWS)),
    "truth-1.npy": npy(np.full((20, 1), -1)),
}


@dataclass(frozen=True)
class Case:
    """A wrong input and what the message must hold.

    ``changes`` are to the base config; ``text`` is a whole config instead; ``{here}`` in facts is the
    folder. ``fresh``: the finished output would be refused for another reason, so only a new one is tried.
    """

    changes: dict[str, Any]
    facts: tuple[str, ...]
    options: tuple[str, ...] = ()
    text: str | None = None
    fresh: bool = False
    existing: bool = False


def source(name: str | list[str], *facts: str, **options: Any) -> Case:
    last = name if isinstance(name, str) else name[-1]
    return Case({"source.uri": name}, (f"{{here}}/{last}", *facts), **options)


REFUSED = {
    # The config file.
    "unknown-key": Case({"trian": {"rows": 10}}, ("trian", "no such key", "'train'")),
    "unknown-nested-key": Case({"train.row": 10}, ("train.row", "no such key", "'rows'")),
    "unknown-cluster-key": Case({"cluster": {"scal": 2}}, ("cluster.scal:", "'scale'")),
    "wrong-type": Case(
        {"train.rounds": "many"}, ("train.rounds", "'many'", "whole number", "'auto'")
    ),
    "wrong-word": Case({"source.metric": "dot"}, ("source.metric", "'dot'", "'l2'", "'cosine'")),
    "wrong-memory": Case({"memory_per_worker": "lots"}, ("memory_per_worker", "'lots'")),
    "cluster-word": Case({"cluster": "local"}, ("cluster", "'local'", "serial")),
    "source-is-a-number": Case({"source.uri": 3}, ("source.uri", "3", "text")),
    "unset-variable": Case({"source.uri": "${VQPIPE_UNSET}/a.npy"}, ("'VQPIPE_UNSET'", "not set")),
    "missing-keys": Case(
        {}, ("source: is missing", "output: is missing", "codebook: is missing"), text="name: a"
    ),
    "not-yaml": Case({}, ("config.yaml", "is not YAML", "line"), text="a: [1"),
    "a-tab": Case({}, ("line 2", "spaces, never with tabs"), text="source:\n\turi: a.npy\n"),
    "no-colon": Case(
        {}, ("line 2", "'output out'", "colon"), text="name: a\noutput out\nseed: 1\n"
    ),
    "no-space": Case(
        {}, ("line 2", "'output:out'", "space"), text="name: a\noutput:out\nseed: 1\n"
    ),
    "no-colon-above": Case({}, ("line 2", "colon"), text="source\n  uri: a.npy\n"),
    "open-quote": Case({}, ("line 1", "quote", "never closed"), text='name: "a\nseed: 1\n'),
    "bare-braces": Case({}, ("line 1", "quotes around"), text="source: {uri: ${A}/b.npy}\n"),
    "two-documents": Case({}, ("line 2", "one document"), text="name: a\n---\nname: b\n"),
    "empty-config": Case({}, ("is empty", "vqpipe init"), text="# to come\n"),
    "one-word": Case({}, ("a single value", "output: "), text="vectors.npy"),
    "empty-section": Case({}, ("train: is empty", "default"), text="source: {uri: a}\ntrain:\n"),
    "source-is-a-name": Case({"source": "good.npy"}, ("source: {uri: good.npy}",)),
    "queries-are-a-name": Case({"evaluate.queries": "q.npy"}, ("queries: {uri: q.npy}",)),
    "export-is-a-word": Case({"export": "faiss"}, ("export: 'faiss'", "a list")),
    "shell-variable": Case({"output": "$HOME/out"}, ("output: '$HOME/out'", "${NAME}")),
    "memory-without-a-unit": Case({"memory_per_worker": 2}, ("2 bytes", "2GiB")),
    "codebook-in-lower-case": Case({"codebook": "opq4X4"}, ("'opq4X4'", "did you mean OPQ4x4?")),
    "codebook-with-a-space": Case({"codebook": "PQ 4"}, ("'PQ 4'", "did you mean PQ4?")),
    "codebook-is-a-number": Case({"codebook": 16}, ("codebook: 16", "PQ16")),
    "set-without-equals": Case({}, ("--set 'seed:1'", "key.path=value"), ("--set", "seed:1")),
    "until-in-capitals": Case({}, ("'Training'", "did you mean train?"), ("--until", "Training")),
    "not-a-mapping": Case({}, ("config.yaml", "list"), text="[1, 2]"),
    "a-key-twice": Case({}, ("line 3", "'seed'"), text="name: a\nseed: 1\nseed: 2\n"),
    "no-codebook": Case({"codebook": "HNSW32"}, ("'HNSW32'", "KM1024", "PQ16")),
    "opq": Case({"codebook": "OPQ3x4"}, ("OPQ3x4", "m = 3", "does not divide", "dim = ")),
    "rq": Case({"codebook": "RQ4x13"}, ("codebook.bits", "13", "12")),
    "set-without-value": Case({}, ("--set", "'seed'", "key.path=value"), ("--set", "seed")),
    "set-unknown-key": Case({}, ("train.rowss", "'rows'"), ("--set", "train.rowss=3")),
    "unknown-until": Case({}, ("--until", "'trane'", "train", "report"), ("--until", "trane")),
    "unknown-force": Case({}, ("--force", "'all'", "ingest", "report"), ("--force", "all")),
    # The source.
    "missing-source": source("none.npy", "no such file"),
    "missing-folder": source("none/none.npy", "no such file"),
    "empty-glob": source("none-*.npy", "no file matches"),
    "unknown-ending": source("words.txt", "'.txt'", "format"),
    "no-npy": source("text.npy", "no npy file"),
    "no-rows-npy": source("empty.npy", "0"),
    "no-rows-fvecs": source("empty.fvecs", "0 bytes"),
    "truncated-fvecs": source("cut.fvecs", "27193 bytes", "68 bytes", "dim 16", "cut"),
    "ragged-fvecs": source("ragged.fvecs", "332 bytes", "68 bytes", "dim 16"),
    "last-row-of-another-dim": source("last.fvecs", "row 399", "dim 15", "dim 16"),
    "fbin-promises-more": source("long.fbin", "401 rows", "25672 bytes", "25608"),
    "npy-promises-more": source("long.npy", "(400, 16)", "25728 bytes", "25664"),
    "dims-differ": source(["good.npy", "dim8.npy"], "{here}/good.npy", "dim 8", "dim 16"),
    "dtypes-differ": source(["good.npy", "half.npy"], "float16", "float32"),
    "one-dimensional": source("line.npy", "(16,)"),
    "three-dimensional": source("cube.npy", "(20, 20, 16)"),
    "float64": source("double.npy", "float64", "float32"),
    "int64": source("long-int.npy", "int64", "float32"),
    "objects": source("objects.npy", "object"),
    "too-few-rows": Case({"source.rows": 401}, ("{here}/good.npy", "401", "400")),
    # The codebook.
    "m-does-not-divide": Case({"codebook": "PQ5x4"}, ("PQ5x4", "16", "5")),
    "more-codewords-than-rows": Case({"codebook": "KM401"}, ("KM401", "401", "400", "KM400")),
    "from-nothing": Case({"codebook": {"from": "no.zarr"}}, ("{here}/no.zarr", "no such file")),
    "from-garbage": Case({"codebook": {"from": "text.npy"}}, ("{here}/text.npy", "FAISS")),
    "from-a-folder": Case({"codebook": {"from": "."}}, ("{here}", "codebook.zarr")),
    "from-another-dim": Case(
        {"codebook": {"from": "out/v1/codebook.zarr"}, "source.uri": "dim8.npy"},
        ("{here}/out/v1/codebook.zarr", "dim = 16", "dim = 8"),
    ),
    "from-another-metric": Case(
        {"codebook": {"from": "out/v1/codebook.zarr"}, "source.metric": "cosine"},
        ("{here}/out/v1/codebook.zarr", "l2", "cosine"),
    ),
    "from-a-flipped-byte": Case({"codebook": {"from": "flipped.zarr"}}, ("{here}/flipped.zarr",)),
    "from-a-flipped-offset": Case({"codebook": {"from": "offset.zarr"}}, ("{here}/offset.zarr",)),
    "from-another-digest": Case(
        {"codebook": {"from": "marked.zarr"}}, ("{here}/marked.zarr", "000000000000", "digest")
    ),
    "init-from-nothing": Case({"train.init": "no.zarr"}, ("{here}/no.zarr", "no such file")),
    "more-training-rows-than-rows": Case(
        {"train.rows": 401, "train.heldout_rows": 0}, ("train.rows", "401", "400", "auto")
    ),
    "more-heldout-rows-than-rows": Case(
        {"train.heldout_rows": 500}, ("train.heldout_rows", "500", "400")
    ),
    # Queries and truth.
    "missing-queries": Case(
        {"evaluate.queries": {"uri": "no.npy"}}, ("{here}/no.npy", "no such file")
    ),
    "queries-of-another-dim": Case(
        {"evaluate.queries": {"uri": "queries8.npy"}},
        ("evaluate.queries", "queries8.npy", "dim = 8", "dim = 16"),
    ),
    "truth-of-other-queries": Case(
        {"evaluate.queries": {"uri": "queries.npy"}, "evaluate.truth": {"uri": "truth19.npy"}},
        ("evaluate.truth", "19 rows", "20"),
    ),
    "truth-of-rows-that-are-not": Case(
        {"evaluate.queries": {"uri": "queries.npy"}, "evaluate.truth": {"uri": "truth400.npy"}},
        ("evaluate.truth", "row 400", "0 to 399"),
    ),
    "truth-of-negative-rows": Case(
        {"evaluate.queries": {"uri": "queries.npy"}, "evaluate.truth": {"uri": "truth-1.npy"}},
        ("evaluate.truth", "-1", "0 to 399"),
    ),
    "truth-of-floats": Case(
        {"evaluate.queries": {"uri": "queries.npy"}, "evaluate.truth": {"uri": "good.npy"}},
        ("{here}/good.npy", "float32", "integers"),
    ),
    "truth-without-queries": Case(
        {"evaluate.truth": {"uri": "truth.npy"}}, ("evaluate", "truth", "queries")
    ),
    # The output and what the plan takes.
    "output-is-a-file": Case({"output": "words.txt"}, ("{here}/words.txt", "file", "folder")),
    "output-in-a-file": Case({"output": "words.txt/out"}, ("{here}/words.txt", "file")),
    "output-cannot-be-made": Case({"output": "/proc/vqpipe"}, ("/proc/vqpipe",)),
    "output-of-another-source": Case(
        {"source.uri": "other.npy"},
        ("{here}/out", "{here}/good.npy", "{here}/other.npy", "--force ingest"),
        existing=True,
    ),
    "output-of-more-rows": Case(
        {"source.rows": 300}, ("{here}/out", "400", "300", "--force ingest"), existing=True
    ),
    "chunk-too-large": Case(
        {"source.uri": "chunk.zarr", "memory_per_worker": "16MB"},
        ("2,000 rows", "8 MB", "16 MB", "memory_per_worker", "rechunk"),
        fresh=True,
    ),
    "plan-too-large": Case(
        {"source.uri": "wide.zarr", "memory_per_worker": "430MB", "codebook": "KM2000"},
        ("memory_per_worker", "train needs", "430 MB"),
        fresh=True,
    ),
    "worker-too-small": Case(
        {"memory_per_worker": "100MB"}, ("memory_per_worker", "needs", "100 MB")
    ),
}


def refuse(world: Path, case: Case, output: str | None) -> None:
    config = world / "config.yaml"
    if case.text is None:
        changes = case.changes if output is None else {"output": output, **case.changes}
        write_config(config, changes)
    else:
        config.write_text(case.text, encoding="utf-8")
    before = snapshot(world)
    result = run(str(config), *case.options)
    check_refused(result, tuple(fact.replace("{here}", str(world)) for fact in case.facts))
    after = snapshot(world)
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name]] == []


@pytest.mark.parametrize("name", [name for name in REFUSED if not REFUSED[name].fresh])
def test_a_finished_output_is_left_as_it_is(world: Path, name: str) -> None:
    refuse(world, REFUSED[name], None)


@pytest.mark.parametrize("name", [name for name in REFUSED if not REFUSED[name].existing])
def test_no_new_output_is_begun(world: Path, name: str) -> None:
    refuse(world, REFUSED[name], "fresh")


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    check_refused(run(str(tmp_path / "none.yaml")), (f"{tmp_path}/none.yaml", "vqpipe init"))
    check_refused(run(str(tmp_path)), (str(tmp_path), "is a folder"))
    np.save(tmp_path / "rows.npy", vectors())
    check_refused(run(str(tmp_path / "rows.npy")), ("rows.npy", f"vqpipe init {tmp_path}/rows.npy"))
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    check_refused(run(str(tmp_path / "latin.yaml")), ("latin.yaml", "UTF-8"))


@dataclass(frozen=True)
class Late:
    """A wrong input that only reading the rows, or beginning the work, can find."""

    content: bytes
    facts: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    name: str = "good.npy"


FOUND_LATE = {
    "nan": Late(with_value(123, np.nan), ("row 123 ", "NaN", "shard 1", "invalid_rows: mask")),
    "inf": Late(with_value(399, np.inf), ("row 399 ", "Inf", "shard 3", "invalid_rows: mask")),
    "too-long": Late(with_value(0, 1e20), ("row 0 ", "overflows", "invalid_rows: mask")),
    "zero-under-cosine": Late(
        with_zero_row(7), ("row 7 ", "zero under cosine"), {"source.metric": "cosine"}
    ),
    "all-rows-nan": Late(npy(np.full((50, 4), np.nan, np.float32)), ("50", "NaN", "source")),
    "more-codewords-than-distinct-rows": Late(
        npy(np.tile(vectors(5), (80, 1))),
        ("KM8", "8 codewords", "5 distinct", "KM5"),
        {"codebook": "KM8", "train.heldout_rows": 0},
    ),
    "a-row-of-another-dim": Late(
        with_dim_at(200, 15), ("good.fvecs", "row 200", "dim 15", "dim 16"), name="good.fvecs"
    ),
    "cluster-class-is-no-cluster": Late(
        npy(vectors()),
        ("cluster.class", "'collections.OrderedDict'", "Cluster"),
        {"cluster": {"class": "collections.OrderedDict"}},
    ),
    "cluster-class-of-an-extra": Late(
        npy(vectors()),
        ("cluster.class", "pip install 'vqpipe[slurm]'"),
        {"cluster": {"class": "dask_jobqueue.NoCluster"}},
    ),
    "cluster-class-is-not-there": Late(
        npy(vectors()),
        ("cluster.class", "'no.such.Cluster'", "LocalCluster"),
        {"cluster": {"class": "no.such.Cluster"}},
    ),
}


@pytest.mark.parametrize("name", FOUND_LATE)
def test_what_is_found_late_is_told_as_well(tmp_path: Path, name: str) -> None:
    case = FOUND_LATE[name]
    (tmp_path / case.name).write_bytes(case.content)
    config = write_config(tmp_path / "config.yaml", {"source.uri": case.name, **case.changes})
    for _ in range(2):
        # The second run meets what the first one left.
        result = run(config)
        said = result.stderr[result.stderr.index("error: ") :]
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert result.stdout == ""
        assert result.stderr.count("error: ") == 1
        assert [fact for fact in case.facts if fact not in said] == [], said
    assert not (tmp_path / "out/current").exists()


@pytest.mark.parametrize("change", ["missing", "kind"])
def test_a_codebook_to_start_from_must_suit(tmp_path: Path, change: str) -> None:
    (tmp_path / "good.npy").write_bytes(npy(vectors()))
    assert run(write_config(tmp_path / "config.yaml", {})).exit_code == 0
    init = {"missing": "none.zarr", "kind": "out/v1/codebook.zarr"}[change]
    changes = {"train.init": init, "codebook": "PQ2x4", "output": "out2"}
    result = run(write_config(tmp_path / "config.yaml", changes))
    assert result.exit_code == 2
    assert init in result.stderr
    assert change == "missing" or ("PQ4x4" in result.stderr and "PQ2x4" in result.stderr)


def codes_of(output: Path, generation: str = "v1") -> zarr.Group:
    return zarr.open_group(output / generation / "codes.zarr", mode="r")


def digest_of(output: Path, generation: str = "v1") -> str:
    facts = json.loads((output / generation / "codebook.zarr/zarr.json").read_text())
    return str(facts["attributes"]["digest"])


def test_a_nan_row_costs_its_shard_alone_and_mask_goes_on_without_training(tmp_path: Path) -> None:
    rows = vectors()
    rows[250, 0] = np.nan
    np.save(tmp_path / "good.npy", rows)
    config = write_config(tmp_path / "config.yaml", {})
    result = run(config)
    assert result.exit_code == 2
    assert "row 250 " in result.stderr
    assert "the other 3 of 4 shards are encoded" in result.stderr
    output = tmp_path / "out"
    done = np.isfinite(codes_of(output)["shards/squared_error"][:])
    assert done.tolist() == [True, True, False, True]
    kept = {
        name: content
        for name, content in snapshot(output).items()
        if "codes/c/" in name and content is not None
    }
    assert len(kept) == 3
    digest = digest_of(output)

    result = run(config, "--json", "--set", "source.invalid_rows=mask")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    states = {stage["name"]: stage["status"] for stage in found["stages"]}
    assert (states["sample"], states["train"], states["encode"]) == ("skipped", "skipped", "done")
    assert (found["generation"], found["masked_rows"], found["rows"]) == ("v1", 1, ROWS)
    assert digest_of(output) == digest
    after = snapshot(output)
    assert [name for name in kept if after[name] != kept[name]] == []
    codes = codes_of(output)
    assert np.flatnonzero(~codes["valid"][:].astype(bool)).tolist() == [250]
    assert codes["codes"][250].tolist() == [0, 0, 0, 0]
    assert (output / "current").read_text() == "v1\n"


def test_another_source_is_accepted_by_force_and_makes_v2(world: Path, tmp_path: Path) -> None:
    for name in ("good.npy", "other.npy"):
        shutil.copy(world / name, tmp_path)
    assert run(write_config(tmp_path / "config.yaml", {})).exit_code == 0
    before = snapshot(tmp_path / "out/v1")
    config = write_config(tmp_path / "config.yaml", {"source.uri": "other.npy"})
    assert run(config).exit_code == 2
    result = run(config, "--force", "ingest", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["generation"] == "v2"
    assert (tmp_path / "out/current").read_text() == "v2\n"
    assert snapshot(tmp_path / "out/v1") == before
    assert digest_of(tmp_path / "out") != digest_of(tmp_path / "out", "v2")
    result = run(config, "--json")
    assert {stage["status"] for stage in json.loads(result.stdout)["stages"]} == {"skipped"}


def test_a_source_that_shrank_is_refused_until_forced(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", vectors())
    config = write_config(tmp_path / "config.yaml", {})
    assert run(config).exit_code == 0
    np.save(tmp_path / "good.npy", vectors()[:300])
    before = snapshot(tmp_path)
    result = run(config)
    check_refused(result, (f"{tmp_path}/good.npy", "400", "300", "--force ingest"))
    assert snapshot(tmp_path) == before
    result = run(config, "--force", "ingest", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["generation"], found["rows"]) == ("v2", 300)


def test_a_write_protected_output_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", vectors())
    (tmp_path / "out").mkdir(mode=0o500)
    if os.access(tmp_path / "out", os.W_OK):
        pytest.skip("this user may write anywhere")
    result = run(write_config(tmp_path / "config.yaml", {}))
    check_refused(result, (f"{tmp_path}/out", "right to write"))


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_plan_that_does_not_fit_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "good.npy", vectors())
    config = write_config(tmp_path / "config.yaml", {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6))
    before = snapshot(tmp_path)
    check_refused(run(config), (f"{tmp_path}/out", "17 MB", "1 MB are free", "another disk"))
    assert snapshot(tmp_path) == before
    monkeypatch.undo()
    assert run(config).exit_code == 0
    # A finished output needs no room: it is not refused for want of it.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    assert run(config).exit_code == 0


@pytest.mark.parametrize(
    "damage",
    {
        "not-json": lambda text: text[:-5],
        "not-an-object": lambda text: "[]",
        "lacks-keys": lambda text: "{}",
        "of-other-types": lambda text: '{"source": 1, "settings": 2, "stages": 3}',
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_state_file_is_named(
    tmp_path: Path, damage: tuple[str, Callable[[str], str]]
) -> None:
    np.save(tmp_path / "good.npy", vectors())
    config = write_config(tmp_path / "config.yaml", {})
    assert run(config, "--until", "sample").exit_code == 0
    file = tmp_path / "out/v1/stages.json"
    file.write_text(damage[1](file.read_text()))
    before = snapshot(tmp_path)
    check_refused(run(config), (str(file),))
    assert snapshot(tmp_path) == before
