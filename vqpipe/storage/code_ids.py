"""``codes.zarr/ids``: the rows' ids beside their codes, and what tells each shard's.

They are written with the codes of their rows, before the record that says that the shard is there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import zarr
from numpy.typing import NDArray

from vqpipe.shards import Shard
from vqpipe.storage.arrays import (
    array_in,
    check_stored,
    found_whole,
    make_records,
    open_group,
    with_rows,
    write_shards,
)
from vqpipe.storage.ids import CHUNK_ROWS, Ids, IdsHash
from vqpipe.storage.records import SIGNATURE_BYTES

# Read by who verifies alone: a run tells new ids by the signature of the rows, which holds theirs.
_RECORD = "shards/ids_signature"


def make_id_records(group: zarr.Group, count: int) -> None:
    """Write the metadata of the records of ``count`` shards."""
    make_records(group, _RECORD, (count, SIGNATURE_BYTES), "uint8", 0)


def extend_id_records(group: zarr.Group, count: int) -> None:
    """Make room for the records of ``count`` shards."""
    records = array_in(group, _RECORD)
    if records.shape[0] < count:
        records.resize((count, SIGNATURE_BYTES))


def write_code_ids(
    group: zarr.Group, rows: int, index: int, pieces: Iterable[tuple[int, Ids]]
) -> None:
    """Write the ids of a shard, which come in pieces, each with its first row, and what tells them."""
    hashed, array = IdsHash(), with_rows(array_in(group, "ids"), rows)
    for start, piece in pieces:
        write_shards(array, start, start + len(piece), piece)
        hashed.update(piece)
    array_in(group, _RECORD)[index] = _record(hashed)


def ids_fault(path: str, shard: Shard) -> str:
    """Read a shard's ids from the ``codes.zarr`` at a path and say if they are not those that were written.

    Raises
    ------
    DamagedError
        If they cannot be read.
    """
    hashed = IdsHash()
    with found_whole(f"{path}: ids of rows {shard.start:,} to {shard.stop:,}"):
        group = open_group(path)
        array = array_in(group, "ids")
        check_stored(array, shard.start, shard.stop)
        for start in range(shard.start, shard.stop, CHUNK_ROWS):
            hashed.update(np.asarray(array[start : min(start + CHUNK_ROWS, shard.stop)]))
        recorded = np.asarray(array_in(group, _RECORD)[shard.index])
    same = np.array_equal(recorded, _record(hashed))
    return "" if same else "its ids are not those that were written"


def _record(hashed: IdsHash) -> NDArray[np.uint8]:
    return np.frombuffer(hashed.digest()[:SIGNATURE_BYTES], np.uint8)
