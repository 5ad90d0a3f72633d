"""The summary of shards' records in an object store: all of them in one object.

Four objects a shard are four requests a shard. Once all shards are done their records are written again together, and
read from there; before any record is written or set back the summary is removed. Where there is none, or it fails
its checksum, the records themselves are read. To Zarr it is an array of bytes in one chunk, which is read past it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from vqpipe.storage.arrays import open_group, write_raw
from vqpipe.storage.place import place_of
from vqpipe.storage.records import RECORDS, Records
from vqpipe.urls import is_url, join

_MAGIC = b"vqpipe records 1\n"
_CHECKSUM_BYTES = 32


def summary_path(codes: str) -> str:
    """Return where the summary of a ``codes.zarr`` lies."""
    return join(codes, "shards", "summary", "c", "0")


def write_summary(codes: str, records: Records) -> None:
    """Write the summary of records, all of them done; nothing on a disk, where reading them costs little."""
    if not is_url(codes) or records.damaged or np.isnan(records.squared_error).any():
        return
    write_raw(open_group(codes, writable=True), "shards/summary", _pack(records))


def drop_summary(codes: str) -> None:
    """Remove the summary, before any record changes."""
    if is_url(codes):
        place_of(codes).remove(summary_path(codes))


def read_summary(codes: str) -> Records | None:
    """Return the records that the summary holds; None where there is none, or it is damaged."""
    if not is_url(codes):
        return None
    try:
        return _unpack(place_of(codes).recall(summary_path(codes)))
    except FileNotFoundError:
        return None


def check_summary(codes: str, records: Records) -> str:
    """Say how the summary differs from the records; empty if it does not, or there is none."""
    path = summary_path(codes)
    if not is_url(codes) or not place_of(codes).exists(path):
        return ""
    same = place_of(codes).read(path) == _pack(records)
    return "" if same else "is damaged, or does not say what the shards' records say"


def _pack(records: Records) -> bytes:
    arrays = (getattr(records, name).astype(_stored(dtype)) for name, _, dtype, _ in RECORDS)
    body = _MAGIC + b"".join(array.tobytes() for array in arrays)
    return body + hashlib.sha256(body).digest()


def _unpack(data: bytes) -> Records | None:
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != checksum:
        return None
    sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for _, shape, dtype, _ in RECORDS]
    count, rest = divmod(len(body) - len(_MAGIC), sum(sizes))
    if rest:
        return None
    found: dict[str, Any] = {}
    begin = len(_MAGIC)
    for (name, shape, dtype, _), size in zip(RECORDS, sizes, strict=True):
        values = np.frombuffer(body[begin : begin + count * size], _stored(dtype))
        found[name] = values.reshape(count, *shape).astype(dtype)
        begin += count * size
    return Records(**found)


def _stored(dtype: str) -> np.dtype[np.generic]:
    return np.dtype(dtype).newbyteorder("<")
