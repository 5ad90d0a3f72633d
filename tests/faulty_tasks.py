"""Tasks that fail in one shard, as tasks of the encode stage: top-level, so that workers find them."""

from __future__ import annotations

import errno
import os
import signal

from vqpipe.shards import Shard
from vqpipe.tasks.encode import Encoded, EncodeJob, encode_shard

POISON = 1


def fail(shard: Shard, job: EncodeJob) -> Encoded:
    if shard.index == POISON:
        raise ValueError("these rows are odd")
    return encode_shard(shard, job)


def exceed_quota(shard: Shard, job: EncodeJob) -> Encoded:
    if shard.index == POISON:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    return encode_shard(shard, job)


def want_memory(shard: Shard, job: EncodeJob) -> Encoded:
    if shard.index == POISON:
        bytearray(1 << 60)
    return encode_shard(shard, job)


def crash(shard: Shard, job: EncodeJob) -> Encoded:
    if shard.index == POISON:
        os.kill(os.getpid(), signal.SIGSEGV)
    return encode_shard(shard, job)


def hoard(shard: Shard, job: EncodeJob) -> Encoded:
    """Fill the worker's memory, as rows that are larger than was planned would."""
    held = []
    while shard.index == POISON:
        held.append(b"x" * (4 << 20))
    return encode_shard(shard, job)
