"""Verifying ``vectors.zarr``: every shard is read whole."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from vqpipe.errors import DamagedError
from vqpipe.shards import Shard
from vqpipe.storage.ids import CHUNK_ROWS
from vqpipe.storage.vector_records import VectorRecords
from vqpipe.storage.vectors import Vectors

# Rows that are read at a time.
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class VectorsJob:
    """What every check is told: the vectors as they are published, and their records."""

    vectors: Vectors
    records: VectorRecords


def verify_vectors(shard: Shard, job: VectorsJob) -> str:
    """Check a shard's size and checksums; say what is wrong with it, nothing if it is well."""
    vectors = job.vectors
    size, recorded = (
        int(vectors.stored_sizes([shard.index])[0]),
        int(job.records.stored_bytes[shard.index]),
    )
    if size != recorded:
        there = "a part of it is gone" if size < 0 else f"it takes {size:,} bytes"
        return f"{there}, {recorded:,} are recorded"
    step = max(1, _PIECE_BYTES // vectors.row_bytes)
    try:
        with closing(vectors.open()) as reader:
            for start in range(shard.start, shard.stop, step):
                reader.read(start, min(start + step, shard.stop))
            if vectors.ids is not None:
                for start in range(shard.start, shard.stop, CHUNK_ROWS):
                    reader.read_ids(start, min(start + CHUNK_ROWS, shard.stop))
    except DamagedError as error:
        return str(error)
    return ""
