"""A Zarr array of vectors that somebody asked for: there whole, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore, StorePath

from vqpipe.dtypes import Float32
from vqpipe.memory import FLOAT32_BYTES
from vqpipe.storage.arrays import CHUNK_BYTES, SHARD_BYTES, store_at
from vqpipe.storage.disk import PARTIAL
from vqpipe.storage.place import place_of
from vqpipe.urls import is_url, join

_METADATA = "zarr.json"


def write_vectors(path: str, shape: tuple[int, int], pieces: Iterable[Float32]) -> None:
    """Write an array of vectors, in place of what is there.

    Its metadata comes last: before, no reader takes it for an array. On a disk it is written under another name.

    Parameters
    ----------
    path : str
        Absolute, or a URL.
    shape : (int, int)
        Rows and dim.
    pieces : iterable of float32 arrays
        In order, each of `vectors_shard_rows` rows: whole stored objects. The last may be shorter.
    """
    place = place_of(path)
    root = path if is_url(path) else f"{path}.{os.getpid()}{PARTIAL}"
    place.remove(root)
    try:
        metadata = _write_rows(root, shape, pieces)
        with place.writing(join(root, _METADATA)) as file:
            file.write(metadata)
        if root != path:
            place.remove(path)
            os.replace(root, path)
    except BaseException:
        place.remove(root)
        raise


def vectors_shard_rows(dim: int) -> int:
    """Return the rows of float32 vectors that are stored together: about 64 MB, in chunks of about 4 MB."""
    return SHARD_BYTES // CHUNK_BYTES * _chunk_rows(dim)


def _chunk_rows(dim: int) -> int:
    return max(1, CHUNK_BYTES // (FLOAT32_BYTES * dim))


def _write_rows(root: str, shape: tuple[int, int], pieces: Iterable[Float32]) -> bytes:
    """Write the rows, and return the metadata that makes an array of them."""
    rows, dim = shape
    chunk = _chunk_rows(dim)
    whole = vectors_shard_rows(dim) if rows > chunk else chunk
    described = zarr.create_array(
        MemoryStore(),
        shape=shape,
        chunks=(chunk, dim),
        shards=None if whole == chunk else (whole, dim),
        dtype="float32",
        compressors=[Crc32cCodec()],
        fill_value=float("nan"),
        dimension_names=("row", "dim"),
    )
    array = zarr.Array(
        zarr.AsyncArray(  # type: ignore[call-overload]
            metadata=described.metadata,
            store_path=StorePath(store_at(root, writable=True)),
            # A piece of nothing but NaN is written like any other.
            config={"write_empty_chunks": True},
        )
    )
    start = 0
    for vectors in pieces:
        array[start : start + len(vectors)] = vectors
        start += len(vectors)
    return json.dumps(described.metadata.to_dict(), indent=2).encode()
