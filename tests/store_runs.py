"""Small runs in an object store, and what they leave."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import zarr
from runs import config_of

from vqpipe.config import Config
from vqpipe.storage.objects import requests

ROWS, DIM, SHARD_ROWS = 3_000, 8, 500

# What one run leaves and no other would: times, processes, places, the state of the source's objects.
_OF_THE_RUN = (
    "run.json",
    "stages.json",
    "report.html",
    "lease.json",
    "drift.npz",
)
_STAMPS = ("shards/source_stamp/c/", "shards/source_signature/c/", "shards/summary/")


def vectors(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((rows, DIM)).astype(np.float32)


def put(url: str, data: bytes) -> None:
    store, key = requests.open_key(url)
    obstore.put(store, key, data)


def put_zarr(url: str, rows: int = ROWS) -> None:
    """Write the vectors as a sharded Zarr array: 6 objects for 3,000 rows."""
    store, place = requests.open_key(url)
    array = zarr.create_array(
        zarr.storage.ObjectStore(store), name=place, shape=(rows, DIM), chunks=(100, DIM),
        shards=(SHARD_ROWS, DIM), dtype="float32", overwrite=True,
    )  # fmt: skip
    array[...] = vectors(rows)


def objects_of(url: str) -> dict[str, bytes]:
    """Return every object below a prefix by its relative name."""
    store, key = requests.open_key(url)
    found = [meta["path"] for batch in obstore.list(store, key) for meta in batch]
    return {path[len(key) + 1 :]: bytes(obstore.get(store, path).bytes()) for path in found}


def lasting(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what belongs to one run; name the sample alike, whose name holds the source's URI."""
    return {
        re.sub("^samples/[0-9a-f]*", "samples/x", name): data
        for name, data in files.items()
        if not name.endswith(_OF_THE_RUN) and not any(stamp in name for stamp in _STAMPS)
    }


def store_config(
    folder: Path, base: str, source: str, codebook: str = "PQ4x4", **keys: Any
) -> Config:
    plain = {"export": ["faiss", "npy"], "encode__shard_rows": SHARD_ROWS, "output": f"{base}/out"}
    return config_of(folder, source, codebook, **{**plain, **keys})


@dataclass(frozen=True)
class Finished:
    """A finished output in the store, which tests only read."""

    source: str
    output: str
    config: Config


def npy_bytes(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()
