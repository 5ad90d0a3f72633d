"""A starter config for a source: it runs as it stands, says what was seen, and reads little."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vqpipe.cli import app
from vqpipe.config_file import load_config
from vqpipe.pipeline import suggestion
from vqpipe.pipeline.suggestion import look_at, suggest_codebook
from vqpipe.sources import VectorArray, open_source


def init(*sources: str | Path) -> str:
    result = CliRunner().invoke(app, ["init", *map(str, sources)])
    assert result.exit_code == 0, result.output
    return result.stdout


def vectors(rows: int = 600, dim: int = 24) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32)


def write_npy(folder: Path) -> list[str]:
    np.save(folder / "words.npy", vectors().astype(np.float16))
    return [f"{folder}/words.npy"]


def write_fvecs(folder: Path) -> list[str]:
    rows = vectors()
    content = b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in rows)
    (folder / "words.fvecs").write_bytes(content)
    return [f"{folder}/words.fvecs"]


def write_u8bin(folder: Path) -> list[str]:
    rows = (vectors() * 20 + 128).clip(0, 255).astype(np.uint8)
    (folder / "words.u8bin").write_bytes(struct.pack("<II", *rows.shape) + rows.tobytes())
    return [f"{folder}/words.u8bin"]


def write_zarr(folder: Path) -> list[str]:
    array = zarr.create_array(folder / "words.zarr", shape=(600, 24), chunks=(100, 24), dtype="f4")
    array[...] = vectors()
    return [f"{folder}/words.zarr"]


def write_parts(folder: Path) -> list[str]:
    for part in range(3):
        np.save(folder / f"part-{part}.npy", vectors(200))
    return [f"{folder}/part-*.npy"]


def write_several(folder: Path) -> list[str]:
    write_parts(folder)
    return [f"{folder}/part-{part}.npy" for part in range(3)]


def write_nothing(folder: Path) -> list[str]:
    return ["synthetic:mixture?rows=600&dim=24&seed=0"]


SOURCES = {
    "npy": write_npy,
    "fvecs": write_fvecs,
    "u8bin": write_u8bin,
    "zarr": write_zarr,
    "a pattern": write_parts,
    "several files": write_several,
    "synthetic": write_nothing,
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_starter_runs_as_it_stands(tmp_path: Path, name: str) -> None:
    text = init(*SOURCES[name](tmp_path))
    assert "600 rows of dim 24" in text
    assert re.search(
        r"^# PQ3x4: 24 dims in 3 parts of 8, half a byte for each; 600 rows are few",
        text,
        re.MULTILINE,
    )
    assert re.search(r"^codebook: PQ3x4$", text, re.MULTILINE)
    config = tmp_path / "config.yaml"
    config.write_text(text)
    ended = CliRunner().invoke(
        app, ["run", "--direct", str(config), "--set", "cluster=serial", "--until", "encode"]
    )
    assert ended.exit_code == 0, ended.output
    assert (tmp_path / f"runs/{load_config(config).name}/v1/codes.zarr").is_dir()


@pytest.mark.parametrize(
    ("change", "said"),
    {
        "unit": (lambda rows: rows / np.linalg.norm(rows, axis=1)[:, None], "Their norms are 1, so l2 and cosine find"),
        "varying": (lambda rows: rows, r"Their norms go from [\d.]+ to [\d.]+: .*metric: cosine"),
        "alike": (lambda rows: 7 * rows / np.linalg.norm(rows, axis=1)[:, None], None),
        "zero rows": (lambda rows: np.concatenate([rows, 0 * rows]), r"\d{3} of them are zero, which cosine"),
        "all zero": (lambda rows: 0 * rows, None),
    }.values(),
    ids=["unit", "varying", "alike", "zero rows", "all zero"],
)  # fmt: skip
def test_it_says_what_the_norms_mean_for_the_metric(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], said: str | None
) -> None:
    np.save(tmp_path / "rows.npy", change(vectors()).astype(np.float32))
    text = init(tmp_path / "rows.npy")
    assert (re.search(said, text) is not None) if said else ("Their norms" not in text)
    assert "all can be used" in text


def test_rows_that_cannot_be_used_are_named_and_masked_and_the_config_still_runs(
    tmp_path: Path,
) -> None:
    rows = vectors()
    rows[[17, 300], 2] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    text = init(tmp_path / "rows.npy")
    assert "2 cannot be used (row 17 holds NaN at column 2), so they are masked" in text
    assert re.search(r"^  invalid_rows: mask ", text, re.MULTILINE)
    (tmp_path / "config.yaml").write_text(text)
    arguments = ["run", "--direct", str(tmp_path / "config.yaml"), "--set", "cluster=serial"]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    assert "600 rows, 2 masked" in ended.stdout


def test_few_rows_are_read_and_they_are_spread_over_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", np.ones((50_000, 4), np.float32))
    read, seen = VectorArray.read, []

    def count(source: VectorArray, start: int, stop: int) -> np.ndarray:
        seen.append((start, stop))
        return read(source, start, stop)

    monkeypatch.setattr(VectorArray, "read", count)
    look = look_at(open_source(str(tmp_path / "rows.npy")))
    assert look.rows == sum(stop - start for start, stop in seen) == suggestion.LOOKED_ROWS
    assert len(seen) == suggestion.LOOKED_PLACES
    assert (seen[0][0], seen[-1][1]) == (0, 50_000)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(seen))


@pytest.mark.parametrize("rows", [1, 49, 51, 60, 999, 1001])
def test_no_row_of_a_small_source_counts_twice(tmp_path: Path, rows: int) -> None:
    values = np.ones((rows, 4), np.float32)
    values[-1] = 0
    np.save(tmp_path / "rows.npy", values)
    look = look_at(open_source(str(tmp_path / "rows.npy")))
    assert look.rows <= min(rows, suggestion.LOOKED_ROWS)
    assert look.zero_rows == 1
    assert rows > 1000 or look.rows == rows


def test_large_chunks_are_not_decoded_and_the_memory_is_raised(tmp_path: Path) -> None:
    # Metadata alone: chunks of 1 GiB of which none is read.
    zarr.create_array(
        tmp_path / "wide.zarr", shape=(1 << 20, 1024), chunks=(1 << 18, 1024), dtype="float32"
    )
    text = init(tmp_path / "wide.zarr")
    assert "No row was looked at: one chunk takes 1.0 GiB once decoded" in text
    assert re.search(r"^memory_per_worker: 4GiB ", text, re.MULTILINE)
    assert "rechunk" in text


@given(st.integers(1, 5000), st.integers(1, 10**9))
def test_every_suggested_codebook_fits_the_vectors(dim: int, rows: int) -> None:
    spec, reason = suggest_codebook(dim, rows)
    spec.check_dim(dim)
    assert spec.k * 4 <= max(rows, 64)
    if spec.kind == "PQ":
        assert min(4, dim) <= dim // spec.m <= 16
    else:
        # No divisor is near.
        assert not any(dim % m == 0 for m in range(-(-dim // 16), dim // 4 + 1))
        assert 1 <= spec.stages <= 64
    assert str(dim) in reason


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "is no npy file"),
        (b"\x93NUMPY", "rows.npy"),
        (None, "no such file"),
    ],
)
def test_a_hopeless_source_is_one_clear_error(
    tmp_path: Path, content: bytes | None, fact: str
) -> None:
    if content is not None:
        (tmp_path / "rows.npy").write_bytes(content)
    for arguments in ([tmp_path / "rows.npy"], [tmp_path / "rows.npy", tmp_path / "none.npy"]):
        result = CliRunner().invoke(app, ["init", *map(str, arguments)])
        assert (result.exit_code, result.stdout) == (2, "")
        assert fact in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["", "nowhere-*.npy", "synthetic:mixture?rows=ten"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    result = CliRunner().invoke(app, ["init", name])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: source ")
