"""Encoding: one shard, streamed by source chunk, written whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqpipe.codebook import Metric
from vqpipe.errors import InvalidRowError
from vqpipe.rows import prepare_rows, why_invalid
from vqpipe.shards import Shard
from vqpipe.sources import VectorArray
from vqpipe.sources.row_hash import RowHash
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.records import Origin

# Rows are encoded in windows of about this many bytes of float32.
WINDOW_BYTES = 8 << 20

# The numbers of this many invalid rows are named.
NAMED_ROWS = 10


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """What every encode task is told; the codebook is opened on the worker.

    Attributes
    ----------
    source : VectorArray
    codes : CodeArray
    codebook : str
        Path of ``codebook.zarr``.
    digest : str
        Of the codebook that it must hold.
    invalid_rows : str
        ``error`` or ``mask``.
    """

    source: VectorArray
    codes: CodeArray
    codebook: str
    digest: str
    invalid_rows: Literal["error", "mask"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encode task did.

    Attributes
    ----------
    rows, masked_rows : int
    squared_error : float
        Summed over the rows.
    bytes_codes : int
        That the codes take.
    seconds, cpu_seconds : float
        By the clock, and of the whole process: the second counts little of what else the machine does, and
        tasks that a worker runs at the same time.
    """

    rows: int
    masked_rows: int
    squared_error: float
    bytes_codes: int
    seconds: float
    cpu_seconds: float


def encode_shard(shard: Shard, job: EncodeJob) -> Encoded:
    """Encode one shard and write its codes, then its record.

    Raises
    ------
    InvalidRowError
        Under ``invalid_rows: error``, for a row that has no nearest codeword.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    # Taken before the first read: a source that changes meanwhile leaves a record that no longer fits.
    stamp = job.source.stamp(shard.start, shard.stop)
    hasher = (
        RowHash(job.source.dtype) if job.source.shares_objects(shard.start, shard.stop) else None
    )
    quantizer = cached_quantizer(job.codebook, job.digest)
    codes = np.zeros((shard.rows, job.codes.columns), dtype=job.codes.dtype)
    valid = np.ones(shard.rows, dtype=bool)
    errors = np.zeros(shard.rows)
    start = 0
    for window in _windows(job.source, shard, quantizer.route.block_rows, hasher):
        rows, usable = prepare_rows(window, quantizer.codebook.metric)
        here = slice(start, start + len(rows))
        centred = quantizer.centre(rows)
        labels = quantizer.assign(centred)
        codes[here] = labels
        errors[here] = quantizer.squared_errors(centred, labels)
        valid[here] = usable
        start += len(rows)
    masked_rows = int((~valid).sum())
    if masked_rows:
        if job.invalid_rows == "error":
            raise _invalid(job.source, quantizer.codebook.metric, shard, np.flatnonzero(~valid))
        codes[~valid] = 0
        errors[~valid] = 0.0
    signature = stamp
    if hasher is not None:
        for _, ids in job.source.id_pieces(shard.start, shard.stop):
            hasher.update_ids(ids)
        signature = hasher.digest()
    named = job.source.id_pieces(shard.start, shard.stop)
    stored = job.codes.write(shard, codes, valid, errors, Origin(signature, stamp), named)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return Encoded(shard.rows, masked_rows, float(errors.sum()), stored, seconds, cpu_seconds)


def window_rows(dim: int, block_rows: int) -> int:
    """Return the rows of a window: whole blocks of the assignment route, about 8 MB of float32."""
    return max(1, WINDOW_BYTES // (4 * dim) // block_rows) * block_rows


def _windows(
    source: VectorArray, shard: Shard, block_rows: int, hasher: RowHash | None
) -> Iterator[NDArray[Any]]:
    """Yield a shard's rows in windows of whole blocks, whatever the chunks of the source.

    Blocks are counted from the shard's first row, so that a row's code does not depend on how the source
    happens to be chunked. What is read is hashed as it is read, where there is a hasher: that is the
    rows' signature.
    """
    size = window_rows(source.dim, block_rows)
    kept: list[NDArray[Any]] = []
    held = 0
    for piece in source.pieces(shard.start, shard.stop, size):
        if hasher is not None:
            hasher.update(piece)
        kept.append(piece)
        held += len(piece)
        if held < size:
            continue
        joined = kept[0] if len(kept) == 1 else np.concatenate(kept)
        whole = held // size * size
        for start in range(0, whole, size):
            yield joined[start : start + size]
        kept, held = [joined[whole:]], held - whole
    if held:
        yield np.concatenate(kept)


def _invalid(
    source: VectorArray, metric: Metric, shard: Shard, places: NDArray[np.intp]
) -> InvalidRowError:
    rows = [shard.start + int(place) for place in places[:NAMED_ROWS]]
    others = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
    why = why_invalid(source.read(rows[0], rows[0] + 1)[0], metric)
    return InvalidRowError(
        f"source: row {rows[0]} (shard {shard.index}{others}) {why}, so no codeword is nearest to it: "
        f"{source.place_of(rows[0])}; mend the source, or set source.invalid_rows: mask, which marks such rows "
        "and keeps all else",
        tuple(rows),
    )
