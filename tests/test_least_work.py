"""Least work: which rows are read and which are encoded when a source was touched, grown or changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from runs import WORDS, config_of, files_of, run_here, statuses

import vqpipe
from vqpipe.config import Config
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import OutputError
from vqpipe.pipeline import encode as encode_stage
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.plan import plan_run
from vqpipe.progress import Silent
from vqpipe.sources.array import VectorArray
from vqpipe.storage import codes as codes_module
from vqpipe.storage.codes import find_codes

KEYS: dict[str, Any] = {"encode__shard_rows": 1000, "train__rounds": 3, "evaluate__queries": 20}


def rows(count: int) -> np.ndarray:
    return np.load(WORDS)[:count]


def save(path: Path, vectors: np.ndarray) -> None:
    """Write vectors in the format that the path's ending names."""
    if path.suffix == ".npy":
        np.save(path, vectors)
    elif path.suffix == ".fvecs":
        dims = np.full((len(vectors), 1), vectors.shape[1], "<i4").view("<f4")
        path.write_bytes(np.concatenate([dims, vectors.astype("<f4")], axis=1).tobytes())
    elif path.suffix == ".fbin":
        head = np.array(vectors.shape, "<u4").tobytes()
        path.write_bytes(head + vectors.astype("<f4").tobytes())
    elif path.suffix == ".zip":
        folder = path.with_suffix("")
        zarr.create_array(folder, data=vectors, chunks=(500, 100), overwrite=True)
        shutil.make_archive(str(folder), "zip", folder)
        shutil.rmtree(folder)
    else:
        path.write_bytes(b"")
        raise AssertionError(path)


def encode(config: Config, force: str | None = None) -> dict[str, Any]:
    """Run up to the codes: what follows from them is not asked for here."""
    return run_here(config, until="encode", force=force)


def codes_of(folder: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(folder / "out/v1/codes.zarr/codes", mode="r")[...])


def encode_reason(summary: dict[str, Any]) -> str:
    (reason,) = (stage["reason"] for stage in summary["stages"] if stage["name"] == "encode")
    return str(reason)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record every range of the source that is read."""
    seen: list[tuple[int, int]] = []
    pieces, read = VectorArray.pieces, VectorArray.read

    def noted_pieces(self: VectorArray, start: int, stop: int, most: int) -> Any:
        seen.append((start, stop))
        return pieces(self, start, stop, most)

    def noted_read(self: VectorArray, start: int, stop: int) -> Any:
        seen.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(VectorArray, "pieces", noted_pieces)
    monkeypatch.setattr(VectorArray, "read", noted_read)
    return seen


FLAT = ["rows.npy", "rows.fvecs", "rows.fbin", "rows.zarr.zip"]


@pytest.mark.parametrize("name", FLAT)
def test_a_flat_file_that_was_touched_is_read_once_and_encoded_never(
    tmp_path: Path, reads: list[tuple[int, int]], name: str
) -> None:
    source = tmp_path / name
    save(source, rows(3500))
    config = config_of(tmp_path, source, "KM20", **KEYS)
    run_here(config)
    before = files_of(tmp_path / "out/v1/codes.zarr/codes")
    reads.clear()
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    assert reads == []

    os.utime(source, ns=(1, 1))
    summary = run_here(config)
    assert statuses(summary)["encode"] == "done"
    assert encode_reason(summary).startswith("0 rows in 0 shards; 4 shards were there, 4 of them")
    assert statuses(summary)["evaluate"] == statuses(summary)["export"] == "skipped"
    assert reads == [(0, 1000), (1000, 2000), (2000, 3000), (3000, 3500)]
    assert files_of(tmp_path / "out/v1/codes.zarr/codes") == before

    reads.clear()
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    assert reads == []


@pytest.mark.parametrize("name", FLAT)
def test_of_a_flat_file_written_anew_only_shards_with_other_rows_are_encoded(
    tmp_path: Path, name: str
) -> None:
    source = tmp_path / name
    vectors = rows(5200)
    save(source, vectors[:3500])
    config = config_of(tmp_path, source, "KM20", **KEYS)
    encode(config)
    changed = vectors.copy()
    changed[1700] = vectors[3]
    save(source, changed)
    summary = encode(config)
    assert summary["generation"] == "v1"
    # Shard 1 was changed, shard 3 was the last partial one, 4 and 5 are new.
    assert encode_reason(summary).startswith(
        "3,200 rows in 4 shards; 2 shards were there, 2 of them compared"
    )
    assert "1,700 rows are new" in encode_reason(summary)
    quantizer = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    np.testing.assert_array_equal(codes_of(tmp_path), quantizer.encode(changed))


def test_dask_compares_and_encodes_as_the_serial_runner_does(tmp_path: Path) -> None:
    found = []
    for cluster in ("serial", {"options": {"n_workers": 2}}):
        folder = tmp_path / ("dask" if isinstance(cluster, dict) else "serial")
        folder.mkdir()
        source = folder / "rows.npy"
        save(source, rows(3500))
        encode(config_of(folder, source, "KM20", **KEYS))
        save(source, np.concatenate([rows(3600), rows(100)]))
        config = config_of(folder, source, "KM20", cluster=cluster, **KEYS)
        found.append(encode_reason(encode(config)))
        stored = files_of(folder / "out/v1/codes.zarr")
        found.append({name: data for name, data in stored.items() if "source_stamp" not in name})
    assert found[:2] == found[2:]


def test_a_file_that_changes_while_it_is_read_leaves_a_record_that_no_longer_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "rows.npy"
    save(source, rows(3500))
    config = config_of(tmp_path, source, "KM20", **KEYS)
    other = rows(3500).copy()
    other[1500:] = other[1500:][::-1]
    write = codes_module.CodeArray.write

    def write_and_change(self: Any, shard: Any, *arguments: Any) -> int:
        # Shard 1 was read from the old file; its record is written after the file has changed.
        if shard.index == 1:
            save(source, other)
        return write(self, shard, *arguments)

    monkeypatch.setattr(codes_module.CodeArray, "write", write_and_change)
    run_here(config, until="encode")
    monkeypatch.undo()
    assert encode_reason(run_here(config)).startswith("1,000 rows in 1 shards")
    quantizer = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    np.testing.assert_array_equal(codes_of(tmp_path), quantizer.encode(other))


def test_a_run_killed_in_encoding_keeps_the_shards_of_a_flat_file_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[tuple[int, int]]
) -> None:
    source = tmp_path / "rows.npy"
    save(source, rows(3500))
    config = config_of(tmp_path, source, "KM20", **KEYS)
    run_here(config, until="train")
    encode_shard = encode_stage.encode_shard

    def fail(shard: Any, job: Any) -> Any:
        if shard.index == 2:
            raise KeyboardInterrupt
        return encode_shard(shard, job)

    monkeypatch.setattr(encode_stage, "encode_shard", fail)
    with pytest.raises(KeyboardInterrupt):
        run_here(config)
    monkeypatch.setattr(encode_stage, "encode_shard", encode_shard)
    reads.clear()
    run_here(config, until="encode")
    assert reads == [(2000, 3000), (3000, 3500)]


def test_new_files_go_to_the_end_whatever_their_names(tmp_path: Path) -> None:
    vectors = rows(4000)
    save(tmp_path / "b.npy", vectors[:1500])
    config = config_of(tmp_path, str(tmp_path / "*.npy"), "KM20", **KEYS)
    encode(config)
    save(tmp_path / "a.npy", vectors[1500:2500])
    summary = encode(config)
    assert encode_reason(summary).startswith("1,500 rows in 2 shards; 1 shards were there")
    save(tmp_path / "a0.npy", vectors[2500:4000])
    encode(config)
    quantizer = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    np.testing.assert_array_equal(codes_of(tmp_path), quantizer.encode(vectors))
    assert set(statuses(encode(config)).values()) == {"skipped"}


def test_the_order_of_new_files_is_kept_by_a_run_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = rows(4000)
    save(tmp_path / "m.npy", vectors[:1000])
    config = config_of(tmp_path, str(tmp_path / "*.npy"), "KM20", **KEYS)
    encode(config)
    save(tmp_path / "z.npy", vectors[1000:3000])
    encode_shard = encode_stage.encode_shard

    def stop_at_the_last(shard: Any, job: Any) -> Any:
        if shard.stop == 3000:
            raise KeyboardInterrupt
        return encode_shard(shard, job)

    monkeypatch.setattr(encode_stage, "encode_shard", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        encode(config)
    monkeypatch.undo()
    save(tmp_path / "n.npy", vectors[3000:])
    assert "2,000 rows in 2 shards" in encode_reason(encode(config))
    quantizer = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    np.testing.assert_array_equal(codes_of(tmp_path), quantizer.encode(vectors))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda folder: (folder / "a.npy").unlink(), "a.npy"),
        (lambda folder: save(folder / "a.npy", rows(1200)), "had 1,000 rows and has 1,200"),
        (lambda folder: save(folder / "a.npy", rows(900)), "had 1,000 rows and has 900"),
        (lambda folder: save(folder / "b.npy", rows(900)), "had 1,000 rows and has 900"),
    ],
    ids=["gone", "grown before another", "shrunk", "the last shrunk"],
)
def test_files_that_went_or_rows_that_moved_are_refused_unless_forced(
    tmp_path: Path, change: Any, fact: str
) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.npy", rows(1000))
    config = config_of(tmp_path, str(tmp_path / "*.npy"), "KM20", **KEYS)
    encode(config)
    before = files_of(tmp_path / "out/v1")
    change(tmp_path)
    with pytest.raises(OutputError, match=fact) as caught:
        encode(config)
    assert "--force ingest" in str(caught.value)
    assert files_of(tmp_path / "out/v1") == before
    summary = encode(config, force="ingest")
    assert summary["generation"] == "v2"
    assert set(statuses(encode(config)).values()) == {"skipped"}


def test_a_shard_whose_record_or_codes_are_damaged_is_named_and_encoded_again_alone(
    tmp_path: Path,
) -> None:
    source = tmp_path / "rows.zarr"
    zarr.create_array(source, data=rows(3500), chunks=(500, 100))
    config = config_of(tmp_path, source, "KM20", **KEYS)
    run_here(config)
    stored = tmp_path / "out/v1/codes.zarr"
    before = files_of(stored)
    chunks = ["shards/source_signature/c/2/0", "shards/source_stamp/c/2/0", "codes/c/2/0"]
    chunks += ["shards/stored_bytes/c/2", "shards/squared_error/c/2"]
    for chunk in chunks:
        for fault in ("flip", "cut", "delete"):
            if (chunk, fault) == ("codes/c/2/0", "flip"):
                # Its size is as recorded: who reads it finds it, not who looks at it.
                continue
            damage(stored / chunk, fault)
            summary = run_here(config)
            said = encode_reason(summary)
            assert said.startswith("1,000 rows in 1 shards; 3 shards were there"), (chunk, fault)
            if (chunk, fault) != ("shards/squared_error/c/2", "delete"):
                # Without its error a shard is one that was never finished.
                (warning,) = summary["warnings"]
                assert "shard 2 (rows 2,000 to 3,000)" in warning
            assert files_of(stored) == before
            assert statuses(summary)["evaluate"] == "skipped"


def test_codes_of_another_codebook_are_encoded_again_all_of_them(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows(2500))
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM20", **KEYS)
    encode(config)
    before = files_of(tmp_path / "out/v1/codes.zarr")
    group = zarr.open_group(tmp_path / "out/v1/codes.zarr", mode="r+")
    group["codes"][...] = 0
    group.attrs["codebook_digest"] = "0" * 64
    assert encode_reason(encode(config)).startswith("2,500 rows in 3 shards (")
    assert files_of(tmp_path / "out/v1/codes.zarr") == before


def damage(path: Path, fault: str) -> None:
    """Flip a bit in the middle of a file, cut its last byte off, or delete it."""
    data = bytearray(path.read_bytes())
    if fault == "delete":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data)


def test_records_read_in_bulk_are_what_zarr_reads(tmp_path: Path) -> None:
    source = tmp_path / "rows.npy"
    save(source, rows(3500))
    encode(config_of(tmp_path, source, "PQ10x4", **KEYS))
    codes = find_codes(str(tmp_path / "out/v1/codes.zarr"))
    assert codes is not None
    records, group = codes.records(), zarr.open_group(codes.path, mode="r")
    assert records.count == 4
    assert not records.damaged
    for name in ("source_signature", "source_stamp", "stored_bytes", "squared_error"):
        stored = group[f"shards/{name}"]
        found = getattr(records, name)
        assert stored.chunks == (1, *stored.shape[1:])
        assert found.dtype == stored.dtype
        np.testing.assert_array_equal(found, stored[...])
    np.testing.assert_array_equal(codes.stored_sizes(), records.stored_bytes)


def test_a_plan_of_a_touched_file_reads_no_row_and_says_what_will_be_compared(
    tmp_path: Path, reads: list[tuple[int, int]]
) -> None:
    source = tmp_path / "rows.npy"
    save(source, rows(3500))
    config = config_of(tmp_path, source, "KM20", **KEYS)
    encode(config)
    os.utime(source, ns=(1, 1))
    reads.clear()
    plan = plan_run(begin_run(config, SerialRunner(), Silent()))
    assert reads == []
    (stage,) = (stage for stage in plan["stages"] if stage["name"] == "encode")
    assert stage["state"] == "partial"
    assert "4 of 4 shards lie in a file that was written since" in stage["reason"]
    assert stage["bytes_read"] == 3500 * 200
