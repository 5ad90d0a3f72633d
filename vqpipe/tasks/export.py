"""Export: codes as a FAISS index or as plain ``.npy``, streamed shard by shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

from vqpipe.dtypes import Codes, Int64
from vqpipe.quantizer.faiss_index import write_index
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.folder import Folder
from vqpipe.storage.place import place_of

_PIECE_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One file and the rows that go into it.

    Attributes
    ----------
    name : str
        Relative to the generation's folder.
    format : str
        ``faiss`` or ``npy``.
    start, stop : int
        Rows.
    is_part : bool
        Whether it is one of several that hold the rows together.
    """

    name: str
    format: Literal["faiss", "npy"]
    start: int
    stop: int
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What every export task is told."""

    generation: str
    codes: CodeArray
    codebook: str
    digest: str
    masked_rows: int


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: its rows (masked ones are left out of an index), its size and its SHA-256."""

    rows: int
    bytes: int
    sha256: str


def export_file(file: ExportFile, job: ExportJob) -> Exported:
    """Write one exported file whole."""
    with Folder(job.generation).writing(file.name) as out:
        rows = _write_npy(out, file, job) if file.format == "npy" else _write_faiss(out, file, job)
        size = out.tell()
        out.seek(0)
        return Exported(rows, size, _hash(out))


def hash_file(path: str) -> str:
    """Return the SHA-256 of a file."""
    with place_of(path).reading(path) as file:
        return _hash(file)


def _hash(file: BinaryIO) -> str:
    # The protocol asks for readinto(), which every file of ours has.
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _write_faiss(out: BinaryIO, file: ExportFile, job: ExportJob) -> int:
    codebook = cached_quantizer(job.codebook, job.digest).codebook
    with_ids = job.masked_rows > 0 or file.start > 0
    rows = file.stop - file.start
    if job.masked_rows:
        rows = sum(len(ids) for ids in _valid_ids(file, job))
    ids = _valid_ids(file, job) if with_ids else None
    # A part has hundreds of millions of rows: a table to find each by its id would outgrow its codes.
    write_index(out, codebook, _valid_codes(file, job), rows, ids, two_way=not file.is_part)
    return rows


def _write_npy(out: BinaryIO, file: ExportFile, job: ExportJob) -> int:
    rows = file.stop - file.start
    descr = np.lib.format.dtype_to_descr(np.dtype(job.codes.dtype))
    header = {"descr": descr, "fortran_order": False, "shape": (rows, job.codes.columns)}
    np.lib.format.write_array_header_1_0(out, header)
    out.writelines(
        np.ascontiguousarray(job.codes.read(shard)[0]).data for shard in _pieces(file, job.codes)
    )
    return rows


def _pieces(file: ExportFile, codes: CodeArray) -> Iterator[Shard]:
    rows = min(_PIECE_ROWS, codes.shard_rows)
    for piece in plan_shards(file.stop - file.start, rows):
        yield Shard(piece.index, file.start + piece.start, file.start + piece.stop)


def _valid_codes(file: ExportFile, job: ExportJob) -> Iterator[Codes]:
    for piece in _pieces(file, job.codes):
        values, valid = job.codes.read(piece)
        yield values[valid] if job.masked_rows else values


def _valid_ids(file: ExportFile, job: ExportJob) -> Iterator[Int64]:
    for piece in _pieces(file, job.codes):
        numbers: Int64 = np.arange(piece.start, piece.stop)
        yield numbers[job.codes.read_valid(piece)] if job.masked_rows else numbers
