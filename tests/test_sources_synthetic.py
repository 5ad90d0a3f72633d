"""Synthetic vectors: the same rows however they are cut, unlike each other, and usable by every command."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.runs import config_of, files_of, run_here, statuses
from vqpipe.cli import app
from vqpipe.errors import ConfigError, OutputError, SourceError
from vqpipe.sources import VectorArray, open_source
from vqpipe.sources import synthetic as synthetic_module
from vqpipe.sources.mixture import MAX_CENTRE_VALUES, parse_mixture
from vqpipe.storage.codes import find_codes


def mixture(rows: Any = 10**9, dim: Any = 12, **parameters: Any) -> VectorArray:
    written = {"rows": rows, "dim": dim, **parameters}
    query = "&".join(f"{name}={value}" for name, value in written.items())
    return open_source(f"synthetic:mixture?{query}")


SMALL = {"dim": st.sampled_from([1, 7, 96, 30_000]), "clusters": st.sampled_from([1, 2, 200])}
DTYPES = st.sampled_from(["float32", "uint8", "int8"])


@settings(deadline=None, max_examples=30)
@given(
    start=st.integers(0, 10**9 - 3000),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
    **SMALL,
    dtype=DTYPES,
)
def test_rows_are_the_same_however_a_range_is_cut(
    start: int, cuts: list[int], dim: int, clusters: int, dtype: str
) -> None:
    most = 40 if dim > 1000 else 3000
    source = mixture(dim=dim, clusters=clusters, dtype=dtype)
    whole = source.read(start, start + most)
    assert whole.shape == (most, dim)
    assert whole.dtype == dtype
    assert whole.flags.c_contiguous
    ends = sorted({0, most, *(cut % most for cut in cuts)})
    parts = [source.read(start + a, start + b) for a, b in itertools.pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    pieces = list(source.pieces(start, start + most, 1 + ends[1]))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_rows_are_what_the_docstring_says() -> None:
    """Computed longhand, one at a time, from the tables."""
    source = mixture(dim=5, clusters=9, seed=3)
    tables = synthetic_module._tables(
        parse_mixture("synthetic:mixture?rows=1&dim=5&clusters=9&seed=3")[0]
    )
    block_rows, places = tables._block_rows, (1 << 18, 1 << 20, 1 << 20)
    for row in (0, 1, block_rows - 1, block_rows, 7 * block_rows + 5, 999_999_999):
        block, j = divmod(row, block_rows)
        starts = []
        for key, count in zip(tables._keys, places, strict=True):
            word = (block + int(key)) % 2**64
            for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
                word = (word ^ (word >> 33)) * factor % 2**64
            starts.append((word ^ (word >> 33)) % count)
        label, *noises = starts
        wanted = tables._centres[tables._labels[label + j]].copy()
        for noise, place in zip(tables._noises, noises, strict=True):
            wanted += noise[place + 5 * j : place + 5 * j + 5]
        np.testing.assert_array_equal(source.read(row, row + 1)[0], wanted)


def test_rows_stay_what_they_were() -> None:
    """A new version of the rows must have a new number, since codes are kept by it."""
    row = mixture(dim=4, seed=7).read(123_456_789, 123_456_790)[0]
    byte = mixture(dim=4, seed=7, dtype="uint8").read(123_456_789, 123_456_790)[0]
    assert synthetic_module._VERSION == 1
    assert row.view("<u4").tolist() == [3192834188, 3200885775, 3196644740, 1060402894]
    assert byte.tolist() == [124, 120, 123, 141]


def test_more_rows_leave_the_earlier_ones_and_another_seed_leaves_none() -> None:
    few, many, other = mixture(2000), mixture(10**9), mixture(2000, seed=1)
    np.testing.assert_array_equal(few.read(0, 2000), many.read(0, 2000))
    assert not (few.read(0, 2000) == other.read(0, 2000)).any(axis=1).any()
    assert few.signature(0, 1000) == many.signature(0, 1000) != other.signature(0, 1000)
    assert few.uri == many.uri != other.uri


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_no_two_rows_are_the_same(dtype: str) -> None:
    source = mixture(dim=24, dtype=dtype)
    rows = np.concatenate([source.read(at, at + 60_000) for at in (0, 5_000_000, 999_000_000)])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_neighbouring_rows_and_blocks_are_unrelated() -> None:
    """No correlation of a row with the next, or with that of the next block, that chance does not give."""
    source = mixture(dim=16)
    rows = source.read(0, 120_000).astype(np.float64)
    rows -= rows.mean(axis=0)
    rows /= rows.std(axis=0)
    block_rows = (96 << 10) // 16
    for lag in (1, 2, 511, block_rows, 65_536):
        count = len(rows) - lag
        correlation = rows[:-lag].T @ rows[lag:] / count
        # 256 pairs of dims, each of standard deviation 1 / sqrt(count): of the rows, or of all that the strings hold.
        assert np.abs(correlation).max() < 5 / np.sqrt(min(count, synthetic_module._NOISES / 16))


def test_rows_lie_around_the_centres_as_the_spread_says() -> None:
    tables = synthetic_module._tables(
        parse_mixture("synthetic:mixture?rows=1&dim=32&clusters=50")[0]
    )
    rows = mixture(dim=32, clusters=50).read(0, 40_000).astype(np.float64)
    centres = tables._centres.astype(np.float64)
    distances = ((rows[:, None, :8] - centres[:, :8]) ** 2).sum(axis=2)
    for more in range(8, 32, 8):
        distances += ((rows[:, None, more : more + 8] - centres[:, more : more + 8]) ** 2).sum(
            axis=2
        )
    label = distances.argmin(axis=1)
    noise = rows - centres[label]
    assert np.abs(noise.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(noise.std(axis=0), 0.5, rtol=0.02)
    # Nearly normal: kurtosis 3 less 1.2 / 24, since two sums of twelve are added.
    assert abs((noise**4).mean() / (noise**2).mean() ** 2 - 2.95) < 0.03
    assert 0.5 < centres.var(axis=0).mean() < 2
    counts = np.bincount(label, minlength=50)
    assert counts.min() > 0
    # About sqrt(50): the first cluster against the last.
    assert 4 < counts.max() / counts.min() < 11


@pytest.mark.parametrize("spread", [0, 0.5, 3, 100])
def test_integers_use_their_range_and_do_not_wrap(spread: float) -> None:
    wide = mixture(dim=24, spread=spread).read(0, 20_000).astype(np.float64)
    for dtype in ("uint8", "int8"):
        rows = mixture(dim=24, spread=spread, dtype=dtype).read(0, 20_000).astype(np.float64)
        assert rows.std() > 8
        assert np.corrcoef(rows.ravel(), wide.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("synthetic:mixture", ["rows is missing", "synthetic:mixture?rows=1e9&dim=96&seed=0"]),
        ("synthetic:mixture?rows=10", ["dim is missing"]),
        ("synthetic:mixture?dim=10", ["rows is missing"]),
        ("synthetic:uniform?rows=10&dim=2", ["synthetic:uniform", "the one kind is a mixture"]),
        ("synthetic://mixture?rows=10&dim=2", ["the one kind is a mixture"]),
        ("synthetic:mixture?rows=0&dim=2", ["rows '0'", "from 1 to"]),
        ("synthetic:mixture?rows=-5&dim=2", ["rows '-5'"]),
        ("synthetic:mixture?rows=1.5&dim=2", ["rows '1.5'", "no whole number"]),
        ("synthetic:mixture?rows=1e400&dim=2", ["rows '1e400'"]),
        ("synthetic:mixture?rows=1e13&dim=2", ["rows '1e13'", str(10**12)]),
        ("synthetic:mixture?rows=nan&dim=2", ["rows 'nan'"]),
        ("synthetic:mixture?rows=&dim=2", ["rows ''"]),
        ("synthetic:mixture?rows=10&dim=0", ["dim '0'"]),
        ("synthetic:mixture?rows=10&dim=1e6", ["dim '1e6'", "65536"]),
        ("synthetic:mixture?rows=10&dim=2&dim=3", ["dim stands twice"]),
        ("synthetic:mixture?rows=10&dim=2&rwos=3", ["no parameter 'rwos'", "rows, dim, seed"]),
        ("synthetic:mixture?rows=10&dim=2&seed=-1", ["seed '-1'"]),
        ("synthetic:mixture?rows=10&dim=2&seed=9223372036854775808", ["9223372036854775808"]),
        ("synthetic:mixture?rows=10&dim=2&clusters=0", ["clusters '0'"]),
        ("synthetic:mixture?rows=10&dim=2&clusters=65537", ["clusters '65537'", "65536"]),
        ("synthetic:mixture?rows=10&dim=65536", [str(4096 * 65536), str(MAX_CENTRE_VALUES), "128"]),
        ("synthetic:mixture?rows=10&dim=2&spread=-1", ["spread '-1'"]),
        ("synthetic:mixture?rows=10&dim=2&spread=inf", ["spread 'inf'"]),
        ("synthetic:mixture?rows=10&dim=2&spread=101", ["spread '101'", "100"]),
        ("synthetic:mixture?rows=10&dim=2&dtype=float64", ["dtype 'float64'", "float32, uint8"]),
        ("synthetic:mixture?rows", ["'rows'", "name=value"]),
        ("synthetic:mixture?rows=10&&dim=2", ["name=value"]),
    ],
)  # fmt: skip
def test_a_name_that_says_no_rows_is_refused(uri: str, wanted: list[str]) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(uri)
    for value in wanted:
        assert value in str(caught.value)


def test_key_and_format_must_fit(tmp_path: Path) -> None:
    uri = "synthetic:mixture?rows=10&dim=2"
    assert open_source(uri, format="synthetic").format == "synthetic"
    with pytest.raises(SourceError, match="leave out `key`"):
        open_source(uri, key="x")
    with pytest.raises(SourceError, match="no synthetic vectors"):
        open_source(str(tmp_path / "a.npy"), format="synthetic")
    with pytest.raises(ConfigError, match="synthetic"):
        config_of(tmp_path, uri, source__format="synthetics")


def test_large_seeds_are_kept_to_the_digit() -> None:
    assert parse_mixture(f"synthetic:mixture?rows=1&dim=1&seed={2**63 - 1}")[0].seed == 2**63 - 1


def test_pickles_small_and_stands_in_a_list() -> None:
    source = mixture()
    assert len(pickle.dumps(source)) < 600
    both = open_source(
        ["synthetic:mixture?rows=100&dim=3", "synthetic:mixture?rows=50&dim=3&seed=1"]
    )
    np.testing.assert_array_equal(both.read(90, 150)[:10], mixture(100, 3).read(90, 100))
    np.testing.assert_array_equal(both.read(90, 150)[10:], mixture(50, 3, seed=1).read(0, 50))
    assert "seed=1" in both.place_of(120)


SMALL_URI = "synthetic:mixture?rows={}&dim=8&clusters=40"


def test_a_run_takes_it_and_grows_with_it(tmp_path: Path) -> None:
    keys = {"encode__shard_rows": 5000, "train__rounds": 3}
    first = run_here(config_of(tmp_path, SMALL_URI.format(20_000), "PQ4x4", **keys))
    assert first["bytes_in"] == 20_000 * 8 * 4
    assert first["recall"]["100"] > 0.5
    work = json.loads((tmp_path / "out" / "run.json").read_text())["work"]
    assert (work["encode"]["rows"], work["encode"]["tasks"]) == (20_000, 4)
    assert work["encode"]["task_seconds"] > 0
    assert work["encode"]["task_cpu_seconds"] > 0
    grown = run_here(config_of(tmp_path, SMALL_URI.format("3e4"), "PQ4x4", **keys))
    assert (grown["generation"], grown["rows"]) == ("v1", 30_000)
    assert statuses(grown)["train"] == "skipped"
    work = json.loads((tmp_path / "out" / "run.json").read_text())["work"]
    assert (work["encode"]["rows"], work["encode"]["tasks"]) == (10_000, 2)
    codes = find_codes(str(tmp_path / "out" / "v1" / "codes.zarr"))
    assert codes is not None
    assert codes.rows == 30_000
    for uri in (SMALL_URI.format(20_000), SMALL_URI.format(30_000) + "&seed=1"):
        with pytest.raises(OutputError, match="another source"):
            run_here(config_of(tmp_path, uri, "PQ4x4", **keys))


def test_workers_compute_the_same_rows_as_this_process(tmp_path: Path) -> None:
    keys = {"encode__shard_rows": 5000, "train__rounds": 2, "evaluate__queries": 0, "export": []}
    written = []
    for name, cluster in (("serial", "serial"), ("dask", {"scale": 2})):
        config = config_of(
            tmp_path,
            SMALL_URI.format(20_000),
            "PQ4x4",
            output=str(tmp_path / name),
            cluster=cluster,
            **keys,
        )
        run_here(config)
        written.append(files_of(tmp_path / name / "v1" / "codes.zarr"))
    assert len(written[0]) > 4
    assert written[0] == written[1]


def test_rows_of_the_config_cut_it_and_it_grows_by_them(tmp_path: Path) -> None:
    keys = {"encode__shard_rows": 5000, "train__rounds": 3, "evaluate__queries": 10, "export": []}
    uri = SMALL_URI.format("1e12")
    whole = run_here(config_of(tmp_path, uri, "KM16", source__rows=10_000, **keys))
    assert whole["rows"] == 10_000
    grown = run_here(config_of(tmp_path, uri, "KM16", source__rows=15_000, **keys))
    assert (grown["rows"], statuses(grown)["train"]) == (15_000, "skipped")


def test_init_plan_and_inspect_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = SMALL_URI.format("1e9")

    def output(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    starter = output("init", uri)
    written = yaml.safe_load(starter)
    assert (written["name"], written["output"]) == ("mixture", "runs/mixture")
    assert written["source"]["uri"] == uri
    assert written["source"]["format"] == "synthetic"
    (tmp_path / "config.yaml").write_text(starter)
    plan = json.loads(output("plan", "config.yaml", "--json"))
    encode = next(stage for stage in plan["stages"] if stage["name"] == "encode")
    assert (plan["rows"], encode["rows"], encode["tasks"]) == (10**9, 10**9, 954)
    assert encode["bytes_read"] == 10**9 * 8 * 4
    found = json.loads(output("inspect", uri, "--json"))
    assert (found["what"], found["format"], found["rows"], found["dim"]) == (
        "source", "synthetic", 10**9, 8,
    )  # fmt: skip
