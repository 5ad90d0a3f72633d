"""Comparing a shard's rows with those that it was made from, where their file was written since."""

from __future__ import annotations

from dataclasses import dataclass

from vqpipe.shards import Shard
from vqpipe.sources import VectorArray
from vqpipe.storage.codes import CodeArray


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A shard that is done, and the signature of the rows that it was made from."""

    shard: Shard
    signature: bytes


@dataclass(frozen=True, slots=True)
class CompareJob:
    """What every comparison is told."""

    source: VectorArray
    codes: CodeArray


def compare_rows(item: Doubtful, job: CompareJob) -> bool:
    """Read a shard's rows and say whether they are the ones it was made from; then keep the file's stamp."""
    shard = item.shard
    # Taken before the first read, as in encoding.
    stamp = job.source.stamp(shard.start, shard.stop)
    same = job.source.signature(shard.start, shard.stop) == item.signature
    if same:
        job.codes.write_stamp(shard.index, stamp)
    return same
