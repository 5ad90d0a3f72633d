"""The records of the shards of ``vectors.zarr``: which files made each, and how large it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from vqpipe.storage.arrays import array_in, found_whole, make_records, open_group
from vqpipe.storage.records import MOST_SHARDS, SIGNATURE_BYTES, read_record_chunks
from vqpipe.urls import join

# The size of a shard that is not there.
NOT_STORED = -1

# Name, shape of one record, dtype, and what a shard without a record has; the last is written last.
_RECORDS: tuple[tuple[str, tuple[int, ...], str, int], ...] = (
    ("source_stamp", (SIGNATURE_BYTES,), "uint8", 0),
    ("stored_bytes", (), "int64", NOT_STORED),
)


@dataclass(frozen=True, eq=False)
class VectorRecords:
    """What is known of every shard.

    Attributes
    ----------
    source_stamp : uint8 array of shape (shards, 16)
        State of the files that its rows came from, taken before they were read.
    stored_bytes : int64 array of shape (shards,)
        That all of the shard takes; -1 until it is done.
    damaged : frozenset of int
        Shards of which a record fails its checksum, or is gone; they are not done.
    """

    source_stamp: NDArray[np.uint8]
    stored_bytes: NDArray[np.int64]
    damaged: frozenset[int]

    def is_done(self, index: int) -> bool:
        """Say whether a shard was written."""
        return index < len(self.stored_bytes) and self.stored_bytes[index] >= 0

    def stamp(self, index: int) -> bytes:
        """Return the stamp of the files that a shard was made from."""
        return bytes(self.source_stamp[index].tobytes())


def make_vector_records(group: zarr.Group, count: int) -> None:
    """Write the metadata of the records of ``count`` shards."""
    for name, shape, dtype, fill in _RECORDS:
        make_records(group, f"shards/{name}", (count, *shape), dtype, fill)


def extend_vector_records(group: zarr.Group, count: int) -> None:
    """Make room for the records of ``count`` shards."""
    for name, shape, _, _ in _RECORDS:
        records = array_in(group, f"shards/{name}")
        if records.shape[0] < count:
            records.resize((count, *shape))


def read_vector_records(path: str) -> VectorRecords:
    """Read all records of the ``vectors.zarr`` at a path.

    Raises
    ------
    DamagedError
        If their metadata cannot be read.
    """
    with found_whole(f"{path}: the records"):
        group = open_group(path)
        count = array_in(group, "shards/stored_bytes").shape[0]
        if count > MOST_SHARDS:
            raise ValueError(f"there are records of {count} shards")
        (stamps, bad, lost), (sizes, worse, _) = (
            read_record_chunks(join(path, "shards", name, "c"), (count, *shape), dtype, fill)
            for name, shape, dtype, fill in _RECORDS
        )
    # The size is written last: where it is, the stamp was.
    damaged = bad | worse | {index for index in lost if sizes[index] >= 0}
    sizes[list(damaged)] = NOT_STORED
    return VectorRecords(stamps, sizes, frozenset(damaged))
