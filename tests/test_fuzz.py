"""Input that nobody vouches for: whatever it holds, our own errors say so, and no claim of it takes memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from fuzzing import (
    CASES,
    MOST_RESIDENT_BYTES,
    NUMBERS,
    use_codebook,
    use_vectors,
    write_faiss,
    write_ours,
    write_output,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

import vqpipe
from vqpipe.config_file import load_config
from vqpipe.errors import CodebookError, ConfigError, OutputError, SourceError, VqpipeError
from vqpipe.pipeline.generation import find_generations
from vqpipe.pipeline.given import read_given
from vqpipe.quantizer.faiss_file import read_index_file
from vqpipe.storage.folder import Folder

HERE = Path(__file__).parent

FEW = settings(max_examples=100, deadline=None)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)

COUNTS = st.sampled_from(NUMBERS) | st.integers(-2, 20)


def fuzz_in_little_memory(count: int, seed: int) -> list[dict[str, Any]]:
    """Use mutated files of each kind in a process of its own, which a crash would end."""
    ran = subprocess.run(
        [sys.executable, str(HERE / "fuzzing.py"), str(count), str(seed)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def check_fuzzed(found: list[dict[str, Any]], count: int) -> None:
    assert [one["name"] for one in found] == list(CASES)
    for one in found:
        # A mutation that changes nothing that is read is no error.
        assert count // 5 <= one["refused"] <= count, one
        assert one["bytes"] <= MOST_RESIDENT_BYTES, one


def test_mutated_files_of_every_kind_give_our_own_errors_in_bounded_memory() -> None:
    check_fuzzed(fuzz_in_little_memory(50, seed=0), 50)


@pytest.mark.long
def test_ten_thousand_mutated_files_give_our_own_errors_in_bounded_memory() -> None:
    """500 files of each of some twenty kinds."""
    check_fuzzed(fuzz_in_little_memory(500, seed=1), 500)


@FEW
@given(rows=COUNTS, dim=COUNTS, left=st.integers(0, 64))
def test_any_claim_of_a_bin_header_is_held_against_the_file(
    rows: int, dim: int, left: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.u8bin"
    rows, dim = rows % 2**32, dim % 2**32
    path.write_bytes(struct.pack("<II", rows, dim) + bytes(left))
    with suppress(SourceError):
        use_vectors(path)
        assert rows * dim == left


@FEW
@given(
    shape=st.lists(COUNTS, max_size=3).map(tuple) | ANYTHING,
    dtype=st.sampled_from(["<f4", "|O", "<U9", "|u1", "<f2", "<M8[s]"]) | ANYTHING,
    order=st.booleans() | ANYTHING,
    left=st.integers(0, 64),
)
@example(shape=(1, 1), dtype="|O", order=False, left=8)
def test_any_fields_of_an_npy_header_are_held_against_the_file(
    shape: Any, dtype: Any, order: Any, left: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    text = repr({"descr": dtype, "fortran_order": order, "shape": shape}).encode("utf8")
    head = b"\x93NUMPY\x03\x00" + len(text).to_bytes(4, "little")
    path.write_bytes(head + text + bytes(left))
    with suppress(SourceError):
        use_vectors(path)
        assert np.prod(shape) * np.dtype(dtype).itemsize == left


@FEW
@given(place=st.integers(0, 600), number=COUNTS, size=st.sampled_from([4, 8]))
@pytest.mark.parametrize("kind", ["PQ", "OPQ", "RQ"])
def test_any_number_in_an_index_is_held_against_the_file(
    kind: str, place: int, number: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("index")
    path = write_faiss(folder, kind, "cosine")
    data = bytearray(path.read_bytes())
    data[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
    path.write_bytes(data)
    with suppress(CodebookError):
        use_codebook(path)
    path.unlink()
    folder.rmdir()


def test_an_index_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    head = b"IxMp" + bytes(33)
    (tmp_path / "deep.faiss").write_bytes(head * 100_000)
    with pytest.raises(CodebookError, match="too deep"):
        read_index_file(str(tmp_path / "deep.faiss"))


@pytest.mark.parametrize("kind", ["PQ", "RQ"])
def test_of_an_index_the_codes_are_not_read(kind: str, tmp_path: Path) -> None:
    """What stands after the codebook is passed over, so a hole in the file costs nothing."""
    path = write_faiss(tmp_path, kind)
    data = path.read_bytes()
    codes = 5
    frame = data.index(codes.to_bytes(8, "little") + bytes(codes))
    many = 1 << 40
    with open(path, "wb") as file:
        file.write(data[:frame] + many.to_bytes(8, "little"))
        file.truncate(file.tell() + many)
        file.seek(0, os.SEEK_END)
        file.write(data[frame + 8 + codes :])
    assert read_given(str(path)).codebook.k == 8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("format", ["faiss", "zarr"])
def test_a_codebook_with_values_that_are_no_place_is_refused(
    format: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fuzzing

    codebook = fuzzing.some_codebook("PQ")
    codebook.centroids[0, 1, 3, 2] = value
    monkeypatch.setattr(fuzzing, "some_codebook", lambda *_: codebook)
    path = write_faiss(tmp_path, "PQ") if format == "faiss" else write_ours(tmp_path, "PQ")
    with pytest.raises(CodebookError, match="NaN or beyond"):
        read_given(str(path))


# What in the metadata of a codebook.zarr is changed: the file, the keys, the value.
CLAIMS: dict[str, tuple[str, list[Any], Any]] = {
    "a large shape": ("centroids", ["shape"], [1, 2, 1 << 40, 4]),
    "large chunks": ("centroids", ["chunk_grid", "configuration", "chunk_shape"], [1, 2, 1 << 40, 4]),
    "a codec more": ("centroids", ["codecs"], ["bytes", "crc32c", "zstd"]),
    "another codec": ("centroids", ["codecs"], [{"name": "vlen-bytes"}]),
    "texts": ("centroids", ["data_type"], "string"),
    "wider numbers": ("offset", ["data_type"], "float64"),
    "no rows": ("centroids", ["shape"], [1, 2, 0, 4]),
    "a route of much memory": ("", ["attributes", "route", "block_rows"], 1 << 50),
    "a route of many groups": ("", ["attributes", "route", "probes"], 1 << 50),
    "an unknown route": ("", ["attributes", "route", "name"], "eval"),
    "an unknown kind": ("", ["attributes", "kind"], "XQ"),
    "an unknown metric": ("", ["attributes", "metric"], "l3"),
    "no history": ("", ["attributes", "training_history"], 7),
    "a digest of another kind": ("", ["attributes", "digest"], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_of_a_codebooks_metadata_are_refused(name: str, tmp_path: Path) -> None:
    array, keys, value = CLAIMS[name]
    path = write_ours(tmp_path, "PQ")
    file = path / array / "zarr.json"
    document = json.loads(file.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(json.dumps(document))
    with pytest.raises(CodebookError, match=r"codebook\.zarr") as caught:
        read_given(str(path))
    assert not isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "source: !!python/object/apply:os.system [exit 1]": "python/object",
        "x: " + "[" * 100_000: "brackets are open",
        "a: &a [1]\nb: &b {<<: *a}": "mapping",
        "name: 2001-99-99": "month",
    }.items(),
    ids=range(4),
)
def test_yaml_that_would_run_code_or_never_end_is_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "any.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(tmp_path / "any.yaml")


def test_a_config_of_aliases_that_multiply_is_refused_before_it_takes_memory(
    tmp_path: Path,
) -> None:
    """Nine lists of nine of the one before: a billion strings, if anything copied them out."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    names = "abcdefghij"
    for before, name in pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    code = (
        "import resource, sys\n"
        "from vqpipe.config_file import load_config\n"
        "from vqpipe.errors import ConfigError\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    load_config(sys.argv[1])\nexcept ConfigError as error:\n    print(len(str(error)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "laughs.yaml")],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    length, kilobytes = map(int, ran.stdout.split())
    assert length < 10_000
    assert kilobytes < 100_000


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("name", ["rows.npy", "checkpoint.npz", "drift.npz"])
def test_a_pickle_is_never_read(name: str, tmp_path: Path) -> None:
    from vqpipe.kmeans.state import TrainState
    from vqpipe.pipeline.drift import check_baseline

    marker, path = tmp_path / "marker", tmp_path / name
    objects = np.array([[Payload(marker)]], dtype=object)
    if name == "rows.npy":
        np.save(path, objects, allow_pickle=True)
        with pytest.raises(SourceError, match=r"\|O"):
            use_vectors(path)
    else:
        facts = dict.fromkeys(("facts", "rows", "counts", "signatures"), objects)
        np.savez(path, **facts)
        if name == "drift.npz":
            assert "cannot be read" in check_baseline(Folder(str(tmp_path)))
        else:
            with pytest.raises(ValueError, match="not a training state"):
                TrainState.read(io.BytesIO(path.read_bytes()))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()


ELSEWHERE = ["../../x", "/etc/passwd", "v1/../../x", "..", ".", "", "v1/", "v1\0", "V1", "x" * 5000]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_generation_outside_the_output_is_never_current(name: str, tmp_path: Path) -> None:
    output = write_output(tmp_path)
    (tmp_path / "x").mkdir()
    (output / "current").write_text(name)
    with pytest.raises(OutputError, match="no generation is complete"):
        vqpipe.open_codes(output)


@pytest.mark.parametrize(
    "name", [*ELSEWHERE[:6], "index/../../../x.faiss", "index/1.faiss/../../x"]
)
def test_a_file_outside_a_generation_is_no_export_of_it(name: str, tmp_path: Path) -> None:
    output = write_output(tmp_path)
    file = output / "v1/stages.json"
    facts = json.loads(file.read_text())
    record = {"rows": 1, "bytes": 1, "sha256": "0"}
    for exported, whole in (("index/6.faiss", True), (name, False)):
        done = {"state": "done", "fingerprint": "0", "files": {exported: record}}
        file.write_text(json.dumps({**facts, "stages": {"export": done}}))
        found, damaged = find_generations(Folder(str(output)))
        assert (len(found), len(damaged)) == ((1, 0) if whole else (0, 1))


@pytest.mark.parametrize("field", ["sample", "train"])
@pytest.mark.parametrize("name", ["../../x", "/etc", "0" * 63 + "/"])
def test_a_sample_outside_the_output_is_never_named(field: str, name: str, tmp_path: Path) -> None:
    """Samples are named by a fingerprint."""
    output = write_output(tmp_path)
    file = output / "v1/stages.json"
    facts = json.loads(file.read_text())
    facts["fingerprints"][field] = name
    file.write_text(json.dumps(facts))
    found, damaged = find_generations(Folder(str(output)))
    assert (len(found), len(damaged)) == (0, 1)


@pytest.mark.parametrize(
    "fields", [{"shape": [1 << 50, 2]}, {"shape": [12, 1 << 50]}, {"shape": []}]
)
def test_codes_of_an_absurd_shape_are_damage(fields: dict[str, Any], tmp_path: Path) -> None:
    output = write_output(tmp_path)
    for name in ("codes", "shards/squared_error"):
        file = output / f"v1/codes.zarr/{name}/zarr.json"
        good = file.read_text()
        file.write_text(json.dumps({**json.loads(good), **fields}))
        with pytest.raises(VqpipeError, match=r"codes\.zarr"):
            vqpipe_codes(output).records()
        file.write_text(good)
    assert zarr.open_group(output / "v1/codes.zarr", mode="r")["codes"].shape == (12, 2)


def vqpipe_codes(output: Path) -> Any:
    from vqpipe.storage.codes import find_codes

    return find_codes(str(output / "v1/codes.zarr"))
