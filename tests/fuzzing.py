"""Files of every format that others may hand us, mutated: what reads them must say so in our own errors.

    python tests/fuzzing.py COUNT SEED [NAME...]

reads COUNT mutated files of each kind in a process that may take little memory beyond what its imports
took, and prints how many were refused and how much memory that took.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from vqpipe.api import open_codes
from vqpipe.codebook import Codebook
from vqpipe.config_file import load_config
from vqpipe.errors import VqpipeError
from vqpipe.kmeans.state import TrainState
from vqpipe.pipeline.given import read_given
from vqpipe.pipeline.inspection import inspect_path
from vqpipe.quantizer import Quantizer, Route
from vqpipe.quantizer.faiss_index import write_index
from vqpipe.sources import open_source, open_table
from vqpipe.sources.formats import open_stream
from vqpipe.storage.codebook_file import write_codebook
from vqpipe.storage.codes import CodeArray, Origin

# What a fuzzed process may take beyond its imports: many times what the files hold.
MOST_MEMORY_BYTES = 512 << 20
MOST_RESIDENT_BYTES = 128 << 20

# What is read of a source at a time, and the largest chunk: more, the plan of a run would refuse.
PIECE_BYTES = 4 << 20

# Numbers at which sums overflow, signs turn, or memory ends.
NUMBERS = [
    *(sign * (1 << bits) + more for bits in (0, 7, 8, 15, 16, 31, 32, 40, 47, 62, 63)
      for sign in (1, -1) for more in (-1, 0, 1)),
    10**9, 10**12, 10**20,
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A kind of file.

    Attributes
    ----------
    write : callable
        Writes a good one into a folder and returns its path.
    use : callable
        Reads it as a run would.
    ours : tuple of exception types
        What `use` may raise.
    """

    write: Callable[[Path], Path]
    use: Callable[[Path], object]
    ours: tuple[type[Exception], ...] = (VqpipeError,)


def some_rows(dtype: str = "float32") -> np.ndarray:
    return (10 * np.random.default_rng(0).standard_normal((12, 8))).astype(dtype)


def write_npy(folder: Path, **order: Any) -> Path:
    np.save(folder / "rows.npy", np.asarray(some_rows(), **order))
    return folder / "rows.npy"


def write_npz(folder: Path, save: Callable[..., None] = np.savez) -> Path:
    save(folder / "rows.npz", rows=some_rows(), names=np.arange(12))
    return folder / "rows.npz"


def write_hdf5(folder: Path, **keys: Any) -> Path:
    version = keys.pop("libver", None)
    with h5py.File(folder / "rows.h5", "w", libver=version) as file:
        file.create_dataset("group/rows", data=some_rows(), **keys)
        file["names"] = np.arange(12)
    return folder / "rows.h5"


def write_vecs(folder: Path, ending: str, dtype: str) -> Path:
    rows = some_rows(dtype)
    dims = np.full((len(rows), 1), rows.shape[1], "<i4").view(np.uint8)
    path = folder / f"rows.{ending}"
    path.write_bytes(np.hstack([dims, rows.view(np.uint8)]).tobytes())
    return path


def write_bin(folder: Path, ending: str, dtype: str) -> Path:
    rows = some_rows(dtype)
    path = folder / f"rows.{ending}"
    path.write_bytes(np.array(rows.shape, "<u4").tobytes() + rows.tobytes())
    return path


def write_zarr(folder: Path, **keys: Any) -> Path:
    rows = some_rows()
    array = zarr.create_array(folder / "rows.zarr", shape=rows.shape, dtype=rows.dtype, **keys)
    array[...] = rows
    return folder / "rows.zarr"


def write_zip(folder: Path) -> Path:
    store = write_zarr(folder, chunks=(4, 8), zarr_format=2)
    path = shutil.make_archive(str(folder / "rows.zarr"), "zip", store)
    shutil.rmtree(store)
    return Path(path)


def write_parquet(folder: Path, **keys: Any) -> Path:
    rows = some_rows()
    table = pa.table({"id": [f"id-{row}" for row in range(len(rows))], "vector": rows.tolist()})
    plain = table.cast(pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))]))
    pq.write_table(plain, folder / "rows.parquet", row_group_size=5, **keys)
    return folder / "rows.parquet"


def some_codebook(kind: Any, metric: Any = "l2") -> Codebook:
    rng = np.random.default_rng(1)
    shape = (2, 1, 8, 8) if kind == "RQ" else (1, 2, 8, 4)
    centroids = rng.standard_normal(shape).astype(np.float32)
    rotation = None
    if kind == "OPQ":
        rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    return Codebook(kind, metric, np.ones(8, np.float32), centroids, rotation)


def write_faiss(folder: Path, kind: str, metric: str = "l2", *, with_ids: bool = False) -> Path:
    codes = np.zeros((5, 2), np.uint8)
    ids = iter([np.arange(5)]) if with_ids else None
    with open(folder / "index.faiss", "wb") as file:
        write_index(file, some_codebook(kind, metric), [codes], 5, ids)
    return folder / "index.faiss"


def write_theirs(folder: Path) -> Path:
    """Write an index of FAISS's own making: a PCA before a product."""
    index = faiss.IndexPreTransform(faiss.PCAMatrix(8, 8), faiss.IndexPQ(8, 2, 4))
    rows = np.random.default_rng(1).standard_normal((700, 8)).astype(np.float32)
    index.train(rows)
    faiss.write_index(index, str(folder / "index.faiss"))
    return folder / "index.faiss"


def write_ours(folder: Path, kind: str) -> Path:
    path = folder / "codebook.zarr"
    write_codebook(str(path), Quantizer(some_codebook(kind), Route("product", 256)), [{"round": 1}])
    return path


def write_checkpoint(folder: Path) -> Path:
    codebook = some_codebook("PQ")
    counts = np.zeros((2, 8))
    file = io.BytesIO()
    state = TrainState(codebook, np.zeros((2, 8, 4)), counts, counts, 3, "forgetting", 0, 0, (), 0)
    state.write(file)
    (folder / "checkpoint.npz").write_bytes(file.getvalue())
    return folder / "checkpoint.npz"


def write_output(folder: Path) -> Path:
    """Write the state of an output, and codes of two shards."""
    output = folder / "out"
    codes = CodeArray(str(output / "v1/codes.zarr"), 12, 2, "uint8", 6, True, True)
    (output / "v1").mkdir(parents=True)
    codes.prepare({"codebook_digest": "ab"})
    for shard in codes.shards:
        zeros = np.zeros((6, 2), np.uint8)
        origin = Origin(bytes(16), bytes(16))
        codes.write(shard, zeros, np.ones(6, bool), np.ones(6), origin)
    source = {"uri": "rows.npy", "key": None, "format": "npy", "metric": "l2", "dim": 8,
              "dtype": "float32", "files": [["rows.npy", 12]], "rows": 12}  # fmt: skip
    stages = {
        "source": source,
        "settings": {"sample": {}, "train": {"codebook": "PQ2x3"}, "encode": {}},
        "fingerprints": {"sample": "0" * 64, "train": "1" * 64},
        "stages": {"encode": {"state": "done", "fingerprint": "2" * 64, "rows": 12}},
        "route": {"name": "product", "block_rows": 256, "probes": 0},
    }
    (output / "v1/stages.json").write_text(json.dumps(stages, indent=2))
    (output / "run.json").write_text(json.dumps({"status": "done", "generation": "v1"}))
    (output / "current").write_text("v1\n")
    return output


CONFIG = """\
name: words
seed: 3
source: {uri: [a.npy, "${HOME}/b.npy"], metric: cosine, rows: 1e6}
output: &place out
codebook: {kind: RQ, stages: 4, bits: 6}
train: {rows: 1000, rounds: auto, stop: 0.001}
encode:
  shard_rows: 4096
evaluate: {queries: {uri: q.fvecs}, truth: {uri: t.ivecs}, recall_at: [1, 10]}
export: [faiss, npy]
memory_per_worker: 2GiB
cluster: {class: distributed.LocalCluster, scale: {minimum: 1, maximum: 4}}
"""


def write_config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(CONFIG)
    return folder / "config.yaml"


def use_vectors(path: Path) -> None:
    source = open_source(str(path))
    if source.chunk_bytes > PIECE_BYTES:
        return
    rows = min(source.rows, max(1, PIECE_BYTES // source.row_bytes), 4096)
    source.stamp(0, rows)
    for piece in source.pieces(0, rows, 1000):
        assert piece.shape[1] == source.dim


def use_parquet(path: Path) -> None:
    """Read it in place, as queries are, and forward with its ids, as the ingest stage does."""
    use_vectors(path)
    source = open_source(str(path), ids="id")
    with closing(open_stream(source.parts[0], "id")) as stream:
        assert stream.read(0, min(source.rows, 4096)).rows.shape[1] == source.dim


def use_table(path: Path) -> None:
    table = open_table(str(path))
    assert table.read(0, table.rows).shape == (table.rows, table.dim)


def use_codebook(path: Path) -> None:
    codebook = read_given(str(path)).codebook
    # Machine code for each shape would take longer than all else.
    quantizer = Quantizer(codebook, Route("product", 256))
    rows = np.random.default_rng(2).standard_normal((20, codebook.dim)).astype(np.float32)
    assert quantizer.decode(quantizer.encode(rows)).shape == rows.shape


def use_checkpoint(path: Path) -> None:
    with open(path, "rb") as file:
        TrainState.read(file)


def use_output(path: Path) -> None:
    inspect_path(str(path))
    open_codes(path)


CASES = {
    "npy": Case(write_npy, use_vectors),
    "npy by columns": Case(lambda folder: write_npy(folder, order="F"), use_vectors),
    "npz": Case(write_npz, use_vectors),
    "npz, packed": Case(lambda folder: write_npz(folder, np.savez_compressed), use_vectors),
    "hdf5": Case(write_hdf5, use_vectors),
    "hdf5 chunks": Case(
        lambda folder: write_hdf5(
            folder, chunks=(5, 3), compression="gzip", shuffle=True, fletcher32=True
        ),
        use_vectors,
    ),
    "hdf5 lzf, of today": Case(
        lambda folder: write_hdf5(
            folder, chunks=(5, 3), compression="lzf", libver="latest", maxshape=(None, 8)
        ),
        use_vectors,
    ),
    "fvecs": Case(lambda folder: write_vecs(folder, "fvecs", "<f4"), use_vectors),
    "bvecs": Case(lambda folder: write_vecs(folder, "bvecs", "u1"), use_vectors),
    "ivecs": Case(lambda folder: write_vecs(folder, "ivecs", "<i4"), use_table),
    "fbin": Case(lambda folder: write_bin(folder, "fbin", "<f4"), use_vectors),
    "u8bin": Case(lambda folder: write_bin(folder, "u8bin", "u1"), use_vectors),
    "i8bin": Case(lambda folder: write_bin(folder, "i8bin", "i1"), use_vectors),
    "zarr v2": Case(lambda folder: write_zarr(folder, chunks=(4, 8), zarr_format=2), use_vectors),
    "zarr v3": Case(lambda folder: write_zarr(folder, chunks=(4, 8)), use_vectors),
    "zarr shards": Case(
        lambda folder: write_zarr(folder, chunks=(2, 8), shards=(6, 8)), use_vectors
    ),
    "zarr zip": Case(write_zip, use_vectors),
    "parquet": Case(lambda folder: write_parquet(folder, compression="none"), use_parquet),
    "parquet zstd": Case(lambda folder: write_parquet(folder, compression="zstd"), use_parquet),
    "faiss PQ": Case(lambda folder: write_faiss(folder, "PQ"), use_codebook),
    "faiss OPQ": Case(
        lambda folder: write_faiss(folder, "OPQ", "cosine", with_ids=True), use_codebook
    ),
    "faiss RQ": Case(lambda folder: write_faiss(folder, "RQ"), use_codebook),
    "faiss PCA": Case(write_theirs, use_codebook),
    "codebook PQ": Case(lambda folder: write_ours(folder, "PQ"), use_codebook),
    "codebook OPQ": Case(lambda folder: write_ours(folder, "OPQ"), use_codebook),
    "checkpoint": Case(write_checkpoint, use_checkpoint, (ValueError,)),
    "output": Case(write_output, use_output),
    "config": Case(write_config, load_config),
}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to four of: bits flipped, numbers replaced, pieces cut, doubled or moved."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(found) + 1)
        # Headers are at the beginning.
        if rng.random() < 0.5:
            place = rng.randrange(min(len(found), 160) + 1)
        change = rng.randrange(7)
        if change == 0 and place < len(found):
            found[place] ^= 1 << rng.randrange(8)
        elif change == 1:
            size = rng.choice((4, 8))
            number = rng.choice(NUMBERS) % (1 << 8 * size)
            found[place : place + size] = number.to_bytes(size, "little")
        elif change == 2:
            del found[place : place + rng.choice((1, 4, 64, len(found)))]
        elif change == 3:
            found[place:place] = found[place : place + rng.choice((1, 8, 64))] * rng.choice((1, 50))
        elif change == 4:
            found[place : place + 1] = rng.randbytes(rng.randrange(1, 9))
        elif change == 5:
            found = _with_number(found, rng)
        else:
            found[place:place] = rng.choice(
                (b"[" * 3000, b"\0", b'"', b"{", b"- &a [*a]\n", b"null")
            )
    return bytes(found)


def _with_number(data: bytearray, rng: random.Random) -> bytearray:
    """Replace a number that is written in digits."""
    digits = [place for place, byte in enumerate(data) if 48 <= byte < 58]
    if not digits:
        return data
    first = last = rng.choice(digits)
    while first - 1 in digits:
        first -= 1
    while last + 1 in digits:
        last += 1
    return data[:first] + str(rng.choice(NUMBERS)).encode() + data[last + 1 :]


def fuzz(name: str, count: int, seed: int, folder: Path) -> int:
    """Use a kind's mutated files and return how many were refused.

    Raises
    ------
    AssertionError
        With the number of the mutation, for any error but ours.
    """
    case = CASES[name]
    path = case.write(folder)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    good = {file: file.read_bytes() for file in files}
    case.use(path)
    refused = 0
    for number in range(count):
        rng = random.Random(f"{name} {seed} {number}")
        file = rng.choice(files)
        file.write_bytes(mutate(good[file], rng))
        try:
            case.use(path)
        except case.ours:
            refused += 1
        except Exception as error:
            raise AssertionError(
                f"{name}: seed {seed}, mutation {number} of {file.name}"
            ) from error
        finally:
            file.write_bytes(good[file])
    return refused


def address_space_bytes() -> int:
    """Return the address space that this process has taken."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(count: int, seed: int, names: list[str]) -> None:
    """Fuzz with little memory, and print a line a kind."""
    warnings.simplefilter("error", RuntimeWarning)
    warnings.simplefilter("ignore", UserWarning)
    for name in CASES:
        # What a kind needs but once is no memory that its files took.
        with tempfile.TemporaryDirectory() as folder:
            fuzz(name, 0, 0, Path(folder))
    most = address_space_bytes() + MOST_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for name in names or CASES:
        before = resident_bytes()
        with tempfile.TemporaryDirectory() as folder:
            refused = fuzz(name, count, seed, Path(folder))
        taken = resident_bytes() - before
        print(json.dumps({"name": name, "refused": refused, "bytes": taken}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
