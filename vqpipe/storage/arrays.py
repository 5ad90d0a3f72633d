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
from zarr.storage import LocalStore

from vqpipe.dtypes import Float32
from vqpipe.errors import DamagedError, VqpipeError
from vqpipe.storage.objects.zarr_store import zarr_store
from vqpipe.urls import is_url

# Small enough to read one without wasting much, large enough that its cost is the bytes.
CHUNK_BYTES = 4 << 20
SHARD_BYTES = 64 << 20

# What crc32c adds to a chunk.
CHECKSUM_BYTES = 4

# What the axes of the arrays of codes.zarr are called: readers that label axes (xarray) open a group only where all
# of its arrays have such names.
AXES: dict[str, tuple[str, ...]] = {
    "codes": ("row", "column"),
    "valid": ("row",),
    "sq_error": ("row",),
    "ids": ("row",),
    "code_counts": ("column", "codeword"),
    "shards/ids_signature": ("shard", "signature_byte"),
    "shards/source_signature": ("shard", "signature_byte"),
    "shards/source_stamp": ("shard", "stamp_byte"),
    "shards/stored_bytes": ("shard",),
    "shards/squared_error": ("shard",),
    "shards/summary": ("summary_byte",),
}


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


def store_at(path: str, *, writable: bool = False) -> Store:
    """Return a store for Zarr whose root is a path or a URL."""
    if is_url(path):
        return zarr_store(path, read_only=not writable)
    return LocalStore(path, read_only=not writable)


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
    store = path if isinstance(path, Store) else store_at(path, writable=True)
    return zarr.create_group(store, zarr_format=3, overwrite=True)


def open_group(path: str, *, writable: bool = False) -> zarr.Group:
    """Open a group that exists."""
    store = store_at(path, writable=writable)
    return zarr.open_group(store, mode="r+" if writable else "r", zarr_format=3)


def array_in(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array of a group.

    Raises
    ------
    KeyError
        If there is none.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return array


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
        dimension_names=AXES.get(name),
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
        dimension_names=AXES.get(name),
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
        dimension_names=AXES.get(name),
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


def write_shards(array: zarr.Array[Any], start: int, stop: int, values: Any) -> None:
    """Write rows ``start:stop``, which are whole shards or end with the array.

    zarr 3.1 reads what is stored there before it writes it anew, also where nothing of it stays: what is damaged is
    removed, and nothing else, since others may read the old rows until the new ones are there.
    """
    try:
        array[start:stop] = values
    except (OSError, MemoryError, VqpipeError):
        raise
    # Codecs raise whatever their C library has; whatever it was, it comes again if the values are at fault.
    except Exception:
        rows = (array.shards or array.chunks)[0]
        for index in range(start // rows, -(-stop // rows)):
            key = array.metadata.encode_chunk_key((index, *[0] * (array.ndim - 1)))
            sync(array.store_path.store.delete(f"{array.path}/{key}".lstrip("/")))
        array[start:stop] = values


def write_array(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    """Write a whole array in chunks of at most about 4 MB."""
    row_bytes = max(1, values.nbytes // max(1, len(values)))
    # A chunk is stored whole, whatever part of it the array fills.
    chunk_rows = max(1, min(len(values), CHUNK_BYTES // row_bytes))
    array = make_floats(group, name, values.shape, values.dtype.name, chunk_rows)
    if values.size:
        array[...] = values


def read_floats(group: zarr.Group, name: str) -> Float32:
    """Return a float32 array that `make_floats` wrote as one chunk.

    Its metadata may be anyone's: no codec but ours runs, and no memory is taken before the chunk is seen to
    fill it.

    Raises
    ------
    ValueError
        If the metadata is not what `make_floats` writes, or the chunk is of another size.
    KeyError, FileNotFoundError
        If there is no such array, or no chunk.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    metadata: Any = array.metadata
    names = [codec.to_dict().get("name") for codec in metadata.codecs]
    if names != ["bytes", "crc32c"] or array.dtype != np.float32 or array.chunks != array.shape:
        raise ValueError(f"{name}: is no single chunk of float32 under bytes and crc32c alone")
    key = metadata.encode_chunk_key((0,) * array.ndim)
    size = sync(array.store_path.store.getsize(f"{array.path}/{key}"))
    if size != array.nbytes + CHECKSUM_BYTES:
        raise ValueError(f"{name}: {size} bytes are stored of an array of {array.nbytes}")
    return np.asarray(array[...], dtype=np.float32)


def write_raw(group: zarr.Group, name: str, data: bytes) -> None:
    """Write bytes as they are, as an array of one chunk."""
    size = max(1, len(data))
    array = group.create_array(
        name, shape=(size,), chunks=(size,), dtype="uint8", compressors=None,
        dimension_names=AXES.get(name), overwrite=True,
    )  # fmt: skip
    array[: len(data)] = np.frombuffer(data, np.uint8)


def divisor_at_most(number: int, most: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``most``.

    Examples
    --------
    >>> divisor_at_most(1_000_000, 65_536)
    62500
    """
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)
