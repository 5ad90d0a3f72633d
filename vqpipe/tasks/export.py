"""Export: codes as a FAISS index, as plain ``.npy`` or as Parquet, streamed shard by shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Codes, Int64
from vqpipe.quantizer.faiss_index import write_index
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.folder import Folder
from vqpipe.storage.npy_file import write_npy_header
from vqpipe.storage.parquet_file import Column, Piece, write_parquet
from vqpipe.storage.picked_rows import has_ids, read_ids
from vqpipe.storage.place import place_of

_PIECE_ROWS = 1 << 20

Format = Literal["faiss", "npy", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One file and the rows that go into it.

    Attributes
    ----------
    name : str
        Relative to the folder that it is written to.
    format : str
        ``faiss``, ``npy`` or ``parquet``.
    start, stop : int
        Rows.
    is_part : bool
        Whether it is one of several that hold the rows together.
    """

    name: str
    format: Format
    start: int
    stop: int
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What every export task is told.

    Attributes
    ----------
    folder : str
        Where the files are written.
    codes : CodeArray
    codebook, digest : str
    masked_rows : int
        How many there are; they are left out of an index and of Parquet.
    """

    folder: str
    codes: CodeArray
    codebook: str
    digest: str
    masked_rows: int


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: its rows (masked ones are left out of all but npy), its size and its SHA-256."""

    rows: int
    bytes: int
    sha256: str


def export_file(file: ExportFile, job: ExportJob) -> Exported:
    """Write one exported file whole."""
    write = {"faiss": _write_faiss, "npy": _write_npy, "parquet": _write_parquet}[file.format]
    with Folder(job.folder).writing(file.name) as out:
        rows = write(out, file, job)
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
    write_npy_header(out, job.codes.dtype, (rows, job.codes.columns))
    out.writelines(
        np.ascontiguousarray(job.codes.read(shard)[0]).data for shard in _pieces(file, job.codes)
    )
    return rows


def _write_parquet(out: BinaryIO, file: ExportFile, job: ExportJob) -> int:
    codebook = cached_quantizer(job.codebook, job.digest).codebook
    id_dtype = has_ids(job.codes)
    columns = [Column("row", "int64"), *([Column("id", id_dtype)] if id_dtype else [])]
    # A row of a cluster has a label; what else has codes has several, which belong together.
    is_label = codebook.kind == "KM"
    columns.append(
        Column("label", job.codes.dtype)
        if is_label
        else Column("codes", job.codes.dtype, job.codes.columns)
    )
    if job.codes.store_error:
        columns.append(Column("sq_error", "float32"))
    facts = {
        "vqpipe.codebook": str(codebook.spec),
        "vqpipe.codebook_digest": codebook.digest,
        "vqpipe.metric": codebook.metric,
    }
    return write_parquet(out, columns, _tables(file, job, is_label=is_label), facts)


def _tables(file: ExportFile, job: ExportJob, *, is_label: bool) -> Iterator[Piece]:
    """Yield the valid rows as columns."""
    for piece in _pieces(file, job.codes):
        codes, valid = job.codes.read(piece)
        table: dict[str, NDArray[Any]] = {
            "row": np.arange(piece.start, piece.stop)[valid],
            **({"label": codes[valid, 0]} if is_label else {"codes": codes[valid]}),
        }
        ids, errors = read_ids(job.codes, piece.start, piece.stop), job.codes.read_errors(piece)
        if ids is not None:
            table["id"] = ids[valid]
        if errors is not None:
            table["sq_error"] = errors[valid].astype(np.float32)
        yield table


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
