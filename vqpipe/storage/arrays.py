"""Zarr v3 arrays as vqpipe writes them: the codecs, the chunks, and regions written whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.sync import sync

from vqpipe.errors import DamagedError, VqpipeError

# Small enough to read one without wasting much, large enough that its cost is the bytes.
CHUNK_BYTES = 4 << 20
SHARD_BYTES = 64 << 20


@contextmanager
def found_whole(what: str) -> Iterator[None]:
    """Turn what Zarr and its codecs raise for damaged bytes into an error that says what is damaged.

    What the disk refuses stays an OSError: it says nothing about the bytes.

    Raises
    ------
    DamagedError
    """
    try:
        yield
    except (OSError, MemoryError, VqpipeError):
        raise
    # Codecs raise whatever their C library has: ValueError, RuntimeError, KeyError...
    except Exception as error:
        raise DamagedError(
            f"{what}: is damaged ({type(error).__name__}: {error}); `vqpipe verify OUTPUT --repair` finds all that is "
            "damaged and has the next run make it again"
        ) from error


def check_stored(array: zarr.Array[Any], start: int, stop: int) -> None:
    """Refuse to read rows ``start:stop`` if a stored object is gone: Zarr would give the fill value in its place.

    For arrays of which all objects are written, and one of which holds whole rows. Called within `found_whole`.

    Raises
    ------
    ValueError
    """
    rows = (array.shards or array.chunks)[0]
    store = array.store_path.store
    for index in range(start // rows, -(-stop // rows)):
        key = array.metadata.encode_chunk_key((index, *[0] * (array.ndim - 1)))
        if not sync(store.exists(f"{array.path}/{key}".lstrip("/"))):
            raise ValueError(f"{array.name}/{key} is gone")


def make_group(path: str | Store) -> zarr.Group:
    """Create an empty group, in place of whatever was there."""
    return zarr.create_group(path, zarr_format=3, overwrite=True)


def open_group(path: str, *, writable: bool = False) -> zarr.Group:
    """Open a group that exists."""
    return zarr.open_group(path, mode="r+" if writable else "r", zarr_format=3)


def make_floats(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    chunk_rows: int | None = None,
    shard_rows: int | None = None,
) -> zarr.Array[Any]:
    """Create an array of vectors or figures: not compressed, since that gains a tenth of floats.

    Chunks carry a crc32c, so a flipped byte is an error and never a vector. ``shard_rows`` must be a
    multiple of ``chunk_rows``.
    """
    inner = tuple(shape[1:])
    chunks = (max(1, chunk_rows or shape[0]), *inner)
    shards = None if shard_rows is None or shard_rows == chunk_rows else (shard_rows, *inner)
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        compressors=[Crc32cCodec()],
        fill_value=0,
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def make_integers(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    chunk_rows: int,
    shard_rows: int | None = None,
    fill_value: int = 0,
) -> zarr.Array[Any]:
    """Create an array of codes: plain integers under Blosc (zstd, bitshuffle) and crc32c.

    Bitshuffle leaves a b-bit code b bits, and every Zarr reader undoes it.
    """
    inner = tuple(shape[1:])
    size = np.dtype(dtype).itemsize
    return group.create_array(
        name,
        shape=shape,
        chunks=(chunk_rows, *inner),
        shards=None if shard_rows is None or shard_rows == chunk_rows else (shard_rows, *inner),
        dtype=dtype,
        compressors=[BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=size), Crc32cCodec()],
        fill_value=fill_value,
        # A shard of nothing but code 0 is stored like any other: what is missing is not done.
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def make_records(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, fill_value: float
) -> zarr.Array[Any]:
    """Create an array with one chunk per shard, so that each task writes its own."""
    return group.create_array(
        name,
        shape=shape,
        chunks=(1, *shape[1:]),
        dtype=dtype,
        compressors=[Crc32cCodec()],
        fill_value=fill_value,
        overwrite=True,
    )


def with_rows(array: zarr.Array[Any], rows: int) -> zarr.Array[Any]:
    """Return a handle that may write up to ``rows`` rows, without storing that shape.

    New rows of a source that grew are written first and the larger shape is stored last, so that no
    reader ever sees a row that is not there yet. Shards of nothing but the fill value are written too:
    Zarr keeps that wish with the handle, not with the array.
    """
    metadata = array.metadata.update_shape((rows, *array.shape[1:]))
    return zarr.Array(
        zarr.AsyncArray(  # type: ignore[call-overload]
            metadata=metadata,
            store_path=array.store_path,
            config={"write_empty_chunks": True},
        )
    )


def write_array(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    """Write a whole array in chunks of about 4 MB."""
    row_bytes = max(1, values.nbytes // max(1, len(values)))
    array = make_floats(
        group, name, values.shape, values.dtype.name, max(1, CHUNK_BYTES // row_bytes)
    )
    if values.size:
        array[...] = values


def divisor_at_most(number: int, most: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``most``.

    Examples
    --------
    >>> divisor_at_most(1_000_000, 65_536)
    62500
    """
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)
