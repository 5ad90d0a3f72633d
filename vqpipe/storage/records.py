"""The records of shards: which rows made each, how large it is, its error; one chunk a shard, read in bulk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray

from vqpipe.dtypes import Float64
from vqpipe.storage.arrays import CHECKSUM_BYTES, array_in, make_records
from vqpipe.storage.place import place_of
from vqpipe.urls import join

SIGNATURE_BYTES = 16

# A hundred times what is planned for; a shape of more is damage, and memory taken.
MOST_SHARDS = 1 << 20

# Name, shape of one record, dtype, and what a shard without a record has.
RECORDS: tuple[tuple[str, tuple[int, ...], str, float], ...] = (
    ("source_signature", (SIGNATURE_BYTES,), "uint8", 0),
    ("source_stamp", (SIGNATURE_BYTES,), "uint8", 0),
    ("stored_bytes", (), "int64", 0),
    ("squared_error", (), "float64", np.nan),
)

RECORD_ARRAYS = tuple(f"shards/{name}" for name, *_ in RECORDS)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a shard is made from.

    Attributes
    ----------
    signature : bytes
        16 bytes that tell its rows.
    stamp : bytes
        16 bytes that tell the state of the objects that hold them, taken before the first was read.
    """

    signature: bytes
    stamp: bytes


@dataclass(frozen=True, eq=False)
class Records:
    """What is known of every shard.

    Attributes
    ----------
    source_signature : uint8 array of shape (shards, 16)
        Of the rows that the shard was made from.
    source_stamp : uint8 array of shape (shards, 16)
        State of the stored objects behind those rows, taken before they were read.
    stored_bytes : int64 array of shape (shards,)
        That the shard's codes take.
    squared_error : float64 array of shape (shards,)
        Summed over the shard's rows; NaN until the shard is done.
    damaged : frozenset of int
        Shards of which a record fails its checksum, or is gone; they are not done.
    """

    source_signature: NDArray[np.uint8]
    source_stamp: NDArray[np.uint8]
    stored_bytes: NDArray[np.int64]
    squared_error: Float64
    damaged: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.squared_error)

    def is_done(self, index: int) -> bool:
        """Say whether a shard was written."""
        return index < self.count and not np.isnan(self.squared_error[index])

    def signature(self, index: int) -> bytes:
        """Return the signature of the rows that a shard was made from."""
        return bytes(self.source_signature[index].tobytes())

    def stamp(self, index: int) -> bytes:
        """Return the stamp of the objects that held those rows."""
        return bytes(self.source_stamp[index].tobytes())

    @property
    def digest(self) -> str:
        """SHA-256 of all records: what follows from the codes follows from this.

        Stamps are left out: a file that was touched holds the same rows.
        """
        sha = hashlib.sha256(self.source_signature.tobytes())
        sha.update(self.stored_bytes.astype("<i8").tobytes())
        sha.update(self.squared_error.astype("<f8").tobytes())
        return sha.hexdigest()


def create_records(group: zarr.Group, count: int) -> None:
    """Write the metadata of the records of ``count`` shards, in place of any there were."""
    for name, shape, dtype, fill in RECORDS:
        make_records(group, f"shards/{name}", (count, *shape), dtype, fill)


def extend_records(group: zarr.Group, count: int) -> None:
    """Make room for the records of ``count`` shards."""
    for name, shape, _, _ in RECORDS:
        records = record_array(group, name)
        if records.shape[0] < count:
            records.resize((count, *shape))


def record_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return one of the arrays."""
    array = array_in(group, f"shards/{name}")
    count, *inner = array.shape
    if count > MOST_SHARDS or [tuple(inner)] != [
        shape for one, shape, *_ in RECORDS if one == name
    ]:
        raise ValueError(f"shards/{name} is of shape {array.shape}")
    return array


def read_records(path: str, group: zarr.Group) -> Records:
    """Read all records of the ``codes.zarr`` at a path, past Zarr.

    At 10,000 shards Zarr's reader takes 8 s for these 12-byte chunks and plain reads half a second.
    A chunk is what Zarr's bytes and crc32c codecs make of one record: its little-endian bytes and
    their checksum.
    """
    damaged: set[int] = set()
    lost: set[int] = set()
    found: dict[str, NDArray[Any]] = {}
    for name, shape, dtype, fill in RECORDS:
        count = record_array(group, name).shape[0]
        folder = join(path, "shards", name, "c")
        found[name], bad, missing = read_record_chunks(folder, (count, *shape), dtype, fill)
        damaged |= bad
        lost |= missing
    # The error is written last: where it is, all else was.
    damaged |= {index for index in lost if not np.isnan(found["squared_error"][index])}
    found["squared_error"][list(damaged)] = np.nan
    return Records(**found, damaged=frozenset(damaged))


def read_record_chunks(
    folder: str, shape: tuple[int, ...], dtype: str, fill: float
) -> tuple[NDArray[Any], set[int], set[int]]:
    """Read an array that `make_records` made, past Zarr, given the folder of its chunks.

    Returns
    -------
    values : array of shape ``shape``
    damaged, missing : set of int
        Whose chunks fail their checksum, and which have none.
    """
    stored = np.dtype(dtype).newbyteorder("<")
    values = np.full(shape, fill, dtype=stored)
    size, damaged, missing = values[:1].nbytes, set[int](), set(range(shape[0]))
    for index, chunk in _chunks(folder, shape[0], len(shape) - 1):
        missing.discard(index)
        if len(chunk) != size + CHECKSUM_BYTES or not _is_whole(chunk):
            damaged.add(index)
        else:
            values[index] = np.frombuffer(chunk[:-CHECKSUM_BYTES], stored).reshape(shape[1:])
    return values.astype(dtype, copy=False), damaged, missing


def _chunks(folder: str, count: int, axes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks that there are; the names of the later axes are all 0."""
    rest = "/0" * axes
    paths = (f"{folder}/{index}{rest}" for index in range(count))
    for index, chunk in enumerate(place_of(folder).read_small(paths)):
        if chunk is not None:
            yield index, chunk


def _is_whole(chunk: bytes) -> bool:
    checksum = int.from_bytes(chunk[-CHECKSUM_BYTES:], "little")
    return bool(google_crc32c.value(chunk[:-CHECKSUM_BYTES]) == checksum)
