"""Verifying: what is stored is read whole, and a sample of rows is encoded again from the source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from vqpipe.dtypes import Codes, Int64, Mask
from vqpipe.errors import DamagedError, SourceError, VqpipeError
from vqpipe.quantizer import Quantizer
from vqpipe.rows import prepare_rows
from vqpipe.shards import Shard
from vqpipe.sources import VectorArray
from vqpipe.storage.code_ids import ids_fault
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.place import place_of
from vqpipe.storage.records import Records
from vqpipe.storage.samples import Sample, SetName
from vqpipe.tasks.export import Exported, hash_file

# A row differs only if its codeword is farther than the nearest by more than this share of that squared
# distance and this share of the row's squared norm: below, float32 products cannot tell them apart.
DISTANCE_SHARE = 1e-5
NORM_SHARE = 1e-6

# Squared errors are stored in float32, and their sum is recorded in float64.
_SUM_SHARE = 1e-5

# So many rows of a shard that differ are named.
_NAMED_ROWS = 3


@dataclass(frozen=True, slots=True)
class VerifyJob:
    """What every check of a shard is told.

    Attributes
    ----------
    codes : CodeArray
        As it is published.
    records : Records
    codebook, digest : str or None
        Path and digest of the codebook; None where it is damaged, so that no row can be encoded.
    source : VectorArray or None
        None where rows are not compared.
    rows, seed : int
        Rows of each shard that are encoded again, and the seed of their draw.
    """

    codes: CodeArray
    records: Records
    codebook: str | None
    digest: str | None
    source: VectorArray | None
    rows: int
    seed: int


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """What a check of a shard found.

    Attributes
    ----------
    faults : tuple of str
        What differs, in words; empty for a shard that is well.
    rows_compared : int
    masked_rows : int
    lacks_valid : bool
        Whether masks are kept and this shard has none: it was written before there were, or lost.
    stale : bool
        The source holds other rows than those that the shard was made from.
    unread : str
        Why rows were not compared: what the source said.
    """

    faults: tuple[str, ...] = ()
    rows_compared: int = 0
    masked_rows: int = 0
    lacks_valid: bool = False
    stale: bool = False
    unread: str = ""


def verify_shard(shard: Shard, job: VerifyJob) -> ShardCheck:
    """Check a shard's record, size, checksums and codes, and encode a sample of its rows again."""
    index, records = shard.index, job.records
    if index in records.damaged:
        return ShardCheck(("its record fails its checksum",))
    if not records.is_done(index):
        return ShardCheck(("it has no record",))
    faults: list[str] = []
    size, recorded = job.codes.stored_size(index), int(records.stored_bytes[index])
    if size != recorded:
        there = "its codes are gone" if size < 0 else f"its codes take {size:,} bytes"
        return ShardCheck((f"{there}, {recorded:,} are recorded",))
    try:
        codes, valid = job.codes.read(shard)
        faults += _wrong_errors(shard, job)
        if job.codes.ids is not None:
            faults += filter(None, [ids_fault(job.codes.path, shard)])
    except DamagedError as error:
        return ShardCheck((str(error),))
    found = ShardCheck(
        masked_rows=int((~valid).sum()),
        lacks_valid=job.codes.masked and not job.codes.has_shard("valid", index),
    )
    if job.codebook is None or job.digest is None:
        return replace(found, faults=tuple(faults))
    quantizer = cached_quantizer(job.codebook, job.digest)
    if codes.size and int(codes.max()) >= quantizer.codebook.k:
        faults.append(f"code {int(codes.max())} is none of 0 to {quantizer.codebook.k - 1}")
    if faults or job.source is None or not job.rows:
        return replace(found, faults=tuple(faults))
    return _compare(shard, job, quantizer, (codes, valid), found)


def _wrong_errors(shard: Shard, job: VerifyJob) -> Iterator[str]:
    """Say whether the squared errors that are kept do not add up to what is recorded."""
    errors = job.codes.read_errors(shard)
    if errors is None:
        return
    recorded = float(job.records.squared_error[shard.index])
    if not abs(float(errors.sum()) - recorded) <= _SUM_SHARE * recorded:
        yield f"its squared errors add up to {errors.sum():.6g}, {recorded:.6g} is recorded"


def _compare(
    shard: Shard,
    job: VerifyJob,
    quantizer: Quantizer,
    stored: tuple[Codes, Mask],
    found: ShardCheck,
) -> ShardCheck:
    """Encode a seeded sample of the shard's rows again."""
    source = job.source
    if source is None or shard.stop > source.rows:
        return replace(found, stale=True)
    try:
        touched = source.stamp(shard.start, shard.stop) != job.records.stamp(shard.index)
        if touched and not source.shares_objects(shard.start, shard.stop):
            return replace(found, stale=True)
        places, differs = _differing(shard, source, quantizer, stored, job)
        if differs and touched:
            signature = source.signature(shard.start, shard.stop)
            if signature != job.records.signature(shard.index):
                return replace(found, stale=True)
    except (SourceError, DamagedError) as error:
        return replace(found, unread=str(error))
    found = replace(found, rows_compared=len(places))
    if not differs:
        return found
    named = ", ".join(f"{shard.start + place:,}" for place in differs[:_NAMED_ROWS])
    more = f" and {len(differs) - _NAMED_ROWS:,} more" if len(differs) > _NAMED_ROWS else ""
    fault = f"{len(differs):,} of {len(places):,} rows get another code from the source: row {named}{more}"
    return replace(found, faults=(fault,))


def _differing(
    shard: Shard,
    source: VectorArray,
    quantizer: Quantizer,
    stored: tuple[Codes, Mask],
    job: VerifyJob,
) -> tuple[Int64, list[int]]:
    """Return which places of the shard were drawn, and those whose codes are not the nearest."""
    codes, valid = stored
    rng = np.random.default_rng([job.seed, shard.index])
    drawn = rng.choice(shard.rows, min(job.rows, shard.rows), replace=False)
    places: Int64 = np.sort(drawn).astype(np.int64)
    differs: list[int] = []
    for some in _by_chunk(places, shard.start, source.chunk_rows):
        first = int(some[0])
        read = source.read(shard.start + first, shard.start + int(some[-1]) + 1)
        rows, usable = prepare_rows(read[some - first], quantizer.codebook.metric)
        norms = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        centred = quantizer.centre(rows)
        nearest = quantizer.squared_errors(centred, quantizer.assign(centred))
        chosen = quantizer.squared_errors(centred, codes[some].astype(np.intp))
        far = chosen - nearest > DISTANCE_SHARE * nearest + NORM_SHARE * norms
        wrong = (usable & far) | (usable != valid[some])
        differs += some[wrong].tolist()
    return places, differs


def _by_chunk(places: Int64, start: int, chunk_rows: int) -> Iterator[Int64]:
    """Yield sorted places in groups whose rows decode together, so that no chunk is decoded twice."""
    for _, group in groupby(places.tolist(), key=lambda place: (start + place) // chunk_rows):
        yield np.array(list(group), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class SamplePiece:
    """Rows of one set of a sample: one stored shard."""

    sample: Sample
    name: SetName
    start: int
    stop: int


def verify_sample(piece: SamplePiece, source_rows: int) -> str:
    """Read a piece of a sample and say what is wrong with it; empty if nothing is."""
    sample, name = piece.sample, piece.name
    try:
        numbers = sample.read_stored(name, piece.start, piece.stop)
    except VqpipeError as error:
        return str(error)
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < source_rows):
        return f"{sample.path}/{name}_rows: row {numbers.max()} is none of 0 to {source_rows - 1}"
    return ""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """The path of an exported file, and what was written there."""

    path: str
    written: Exported


def verify_export(file: ExportedFile, _job: None) -> str:
    """Say in words how a file differs from what was exported; empty if it does not."""
    try:
        size = place_of(file.path).size(file.path)
        if size != file.written.bytes:
            return f"has {size:,} bytes, {file.written.bytes:,} were written"
        same = hash_file(file.path) == file.written.sha256
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if same else "holds other bytes than were written"
