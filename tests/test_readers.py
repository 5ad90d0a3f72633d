"""Codes are plain integers: three implementations of Zarr read them, and they take the bits they have."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from runs import config_of, run_here, statuses

import vqpipe
from vqpipe.codebook import CodebookSpec
from vqpipe.engines.serial import SerialRunner
from vqpipe.pipeline.verify import verify_output
from vqpipe.progress import Silent
from vqpipe.storage import codes as storage
from vqpipe.storage.codes import CodeArray, Origin
from vqpipe.storage.folder import Folder

ROWS = 1_000_000

# Of a group, the arrays of these names as (shape, dtype, SHA-256 of the values in C order).
Reader = Callable[[Path, list[str]], dict[str, tuple[list[int], str, str]]]


def facts(values: np.ndarray) -> tuple[list[int], str, str]:
    data = np.ascontiguousarray(values).tobytes()
    return list(values.shape), values.dtype.name, hashlib.sha256(data).hexdigest()


def read_with_zarr(group: Path, names: list[str]) -> dict[str, tuple[list[int], str, str]]:
    arrays = {name: zarr.open_array(str(group / name), mode="r") for name in names}
    return {name: facts(np.asarray(array[...])) for name, array in arrays.items()}


def read_with_tensorstore(group: Path, names: list[str]) -> dict[str, tuple[list[int], str, str]]:
    found = {}
    for name in names:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{group / name}/"}}
        found[name] = facts(tensorstore.open(spec, read=True).result().read().result())
    return found


@pytest.fixture(scope="session")
def read_with_zarrita(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Install zarrita where a script beside it finds it."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not here, so zarrita cannot read")
    folder = tmp_path_factory.mktemp("zarrita")
    quiet = ("--no-audit", "--no-fund", "--no-update-notifier", "--prefix", str(folder))
    installed = subprocess.run(
        ["npm", "install", *quiet, "zarrita@^0.7", "@zarrita/storage@^0.2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"npm cannot install zarrita: {installed.stderr.strip()[-200:]}")
    script = shutil.copy(Path(__file__).with_name("read_zarr.mjs"), folder)

    def read(group: Path, names: list[str]) -> dict[str, tuple[list[int], str, str]]:
        ran = subprocess.run(
            ["node", script, str(group), *names], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout)
        return {name: (one["shape"], one["dtype"], one["digest"]) for name, one in found.items()}

    return read


def stored(path: Path, spec: CodebookSpec, shard_rows: int) -> tuple[CodeArray, int]:
    """Write random codes as the encode stage does; return their array and the bytes recorded."""
    codes = CodeArray(str(path), ROWS, spec.columns, spec.code_dtype, shard_rows, False, False)
    codes.prepare({"codebook_digest": "0"})
    rng, recorded = np.random.default_rng(spec.k), 0
    for shard in codes.shards:
        values = rng.integers(0, spec.k, (shard.rows, spec.columns)).astype(spec.code_dtype)
        valid, errors = np.ones(shard.rows, bool), np.ones(shard.rows)
        recorded += codes.write(shard, values, valid, errors, Origin(bytes(16), bytes(16)))
    return codes, recorded


# Shards as `auto` cuts them: a power of two; whole units of a source with shards of its own.
SIZES = [
    *[(CodebookSpec("KM", 1, 1 << bits), 1 << 20) for bits in (8, 10, 14)],
    *[(CodebookSpec("PQ", 5, 1 << bits), 1 << 20) for bits in (4, 5, 6, 8, 10, 12)],
    *[(CodebookSpec("OPQ", 3, 1 << bits), 1_000_000) for bits in (4, 6, 10, 12)],
    *[(CodebookSpec("RQ", 1, 1 << bits, 3), 250_000) for bits in (4, 5, 10, 12)],
    (CodebookSpec("KM", 1, 1024), 1_000_000),
    (CodebookSpec("PQ", 16, 256), 1 << 20),
]


@pytest.mark.parametrize(("spec", "shard_rows"), SIZES, ids=str)
def test_a_million_codes_take_their_bits_on_disk_and_hardly_more(
    spec: CodebookSpec, shard_rows: int, tmp_path: Path
) -> None:
    """Random codes: what is learnt on real rows has less entropy."""
    _, recorded = stored(tmp_path / "codes.zarr", spec, shard_rows)
    files = [file for file in (tmp_path / "codes.zarr/codes").rglob("*") if file.is_file()]
    on_disk = sum(file.stat().st_size for file in files)
    bare = ROWS * spec.columns * spec.bits / 8
    assert on_disk <= 1.02 * bare
    assert recorded == on_disk - (tmp_path / "codes.zarr/codes/zarr.json").stat().st_size


@pytest.mark.parametrize("bits", [4, 10])
def test_a_million_codes_are_read_alike_by_all(
    bits: int, tmp_path: Path, read_with_zarrita: Reader
) -> None:
    """In shards of several chunks, the last of them in part beyond the rows."""
    array, _ = stored(tmp_path / "codes.zarr", CodebookSpec("PQ", 5, 1 << bits), 1 << 18)
    rng = np.random.default_rng(1 << bits)
    pieces = [rng.integers(0, 1 << bits, (shard.rows, 5)) for shard in array.shards]
    wanted = {"codes": facts(np.concatenate(pieces).astype(array.dtype))}
    for read in (read_with_zarr, read_with_tensorstore, read_with_zarrita):
        assert read(tmp_path / "codes.zarr", ["codes"]) == wanted


@pytest.mark.parametrize("codebook", ["KM300", "PQ4x5", "OPQ4x4", "RQ3x6"])
def test_a_runs_arrays_are_read_alike_by_all(
    codebook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_with_zarrita: Reader
) -> None:
    rows = np.random.default_rng(5).standard_normal((3001, 16)).astype(np.float32)
    rows[7, 3] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    # Small enough that shards of 1,000 rows have chunks inside.
    monkeypatch.setattr(storage, "CHUNK_BYTES", 500)
    keys: dict[str, Any] = {"encode__shard_rows": 1000, "encode__store_error": True, "export": []}
    run_here(
        config_of(tmp_path, "rows.npy", codebook, source__invalid_rows="mask", **keys), "encode"
    )
    group = tmp_path / "out/v1/codes.zarr"
    codes = zarr.open_array(str(group / "codes"), mode="r")
    assert codes.shards is not None
    names = ["codes", "valid", "sq_error", "shards/stored_bytes", "shards/squared_error"]
    seen = [read(group, names) for read in (read_with_zarr, read_with_tensorstore)]
    seen.append(read_with_zarrita(group, names))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["codes"][:2] == ([3001, codes.shape[1]], codes.dtype.name)
    # And they say what the codebook says.
    quantizer = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    valid = np.isfinite(rows).all(axis=1)
    wanted = np.zeros(codes.shape, codes.dtype)
    for start in range(0, len(rows), 1000):
        here = np.flatnonzero(valid[start : start + 1000]) + start
        wanted[here] = quantizer.encode(rows[here])
    assert seen[0]["codes"] == facts(wanted)
    codebook_names = ["centroids", "offset", *(["rotation"] if "OPQ" in codebook else [])]
    book = tmp_path / "out/v1/codebook.zarr"
    assert read_with_zarr(book, codebook_names) == read_with_zarrita(book, codebook_names)


def masked_run(folder: Path, **keys: Any) -> Any:
    """Return the config of a finished output of 2,000 rows in two shards, one row masked."""
    rows = np.random.default_rng(6).standard_normal((2000, 8)).astype(np.float32)
    rows[1500, 0] = np.inf
    np.save(folder / "rows.npy", rows)
    more = {"encode__shard_rows": 1000, "encode__store_error": True, "train__rounds": 2}
    config = config_of(folder, "rows.npy", "PQ4x4", source__invalid_rows="mask", **more, **keys)
    run_here(config)
    return config


def test_xarray_opens_the_codes_by_the_names_of_their_axes(tmp_path: Path) -> None:
    masked_run(tmp_path)
    path = tmp_path / "out/v1/codes.zarr"
    group = zarr.open_group(str(path), mode="r")
    with xarray.open_zarr(path, consolidated=False, chunks=None) as found:
        assert dict(found.sizes) == {"row": 2000, "column": 4, "codeword": 16}
        assert found["codes"].dims == ("row", "column")
        assert found["codes"].dtype == np.uint8
        for name in ("codes", "valid", "sq_error", "code_counts"):
            np.testing.assert_array_equal(found[name].values, np.asarray(group[name][...]))
        assert int(found["valid"].sum()) == 1999
        picked = found["codes"].isel(row=[3, 1999]).values
    np.testing.assert_array_equal(picked, np.asarray(group["codes"][...])[[3, 1999]])
    with xarray.open_zarr(path, group="shards", consolidated=False, chunks=None) as found:
        assert found.sizes["shard"] == 2


def test_codes_that_were_written_before_axes_had_names_are_as_good(tmp_path: Path) -> None:
    """Nothing is encoded again, and nothing is called damaged."""
    config = masked_run(tmp_path)
    path = tmp_path / "out/v1/codes.zarr"
    for file in path.rglob("zarr.json"):
        document = json.loads(file.read_text())
        if document["node_type"] == "array":
            assert document.pop("dimension_names")
            file.write_text(json.dumps(document))
    before = read_with_zarr(path, ["codes", "valid", "sq_error"])
    found = verify_output(Folder(str(tmp_path / "out")), config, SerialRunner(), Silent())
    assert found["findings"] == []
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    assert read_with_zarr(path, ["codes", "valid", "sq_error"]) == before
    assert read_with_tensorstore(path, ["codes", "valid", "sq_error"]) == before
