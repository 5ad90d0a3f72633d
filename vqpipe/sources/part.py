"""A part of the source: one file or Zarr array, described so that any worker can open it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Mask
from vqpipe.errors import SourceError, VqpipeError

# Rows as a format stores them: the dtype is known only at run time.
Rows = NDArray[Any]

# What stands behind some rows: the stored object's name, its size in bytes, its mtime in ns or, in an object
# store, its ETag.
Stamp = tuple[str, int, int | str]

# No embedding comes near a million values: such a dim comes from a damaged header, and a row of
# that size is memory taken.
MAX_DIM = 1 << 20

# Offsets and sizes in bytes are 64-bit signed everywhere below us.
MAX_BYTES = 2**63 - 1

_NUMBER = re.compile(r"[<>|=]?([iu][1248]|f[248])")


@dataclass(frozen=True, slots=True)
class Part:
    """One file or Zarr array of the source.

    Attributes
    ----------
    format : str
        Name of its format, a key of ``FORMATS``.
    path : str
        Absolute local path, or URL; of synthetic vectors their name, without the number of rows.
    key : str or None
        Array inside a Zarr group, HDF5 or npz file, or column of a Parquet file.
    rows, dim : int
        Shape of the whole part.
    dtype : str
        numpy's name of the stored dtype: ``float32``, or ``>f4`` where it is big-endian.
    chunk_rows : int
        Rows that decode together; 1 where rows can be read singly.
    unit_rows : int
        Rows of a Zarr v3 shard, else ``chunk_rows``: what one task should read whole.
    chunk_dim : int
        Values of a row that decode with it, where Zarr pads it to whole chunks; 0: ``dim``.
    """

    format: str
    path: str
    key: str | None
    rows: int
    dim: int
    dtype: str
    chunk_rows: int
    unit_rows: int
    chunk_dim: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the rows that decode together, the padding included."""
        return self.chunk_rows * max(self.dim, self.chunk_dim) * np.dtype(self.dtype).itemsize

    @property
    def native_dtype(self) -> np.dtype[Any]:
        """The dtype of the rows that are read: as stored, in this machine's byte order."""
        return np.dtype(self.dtype).newbyteorder("=")

    def __str__(self) -> str:
        what = "column" if self.format == "parquet" else "array"
        return f"source {self.path}" + (f", {what} {self.key!r}" if self.key else "")


class Reader(Protocol):
    """An open part."""

    def read(self, start: int, stop: int) -> Rows:
        """Return the part's rows ``start:stop`` as an array of its own, C order, native bytes."""

    def close(self) -> None:
        """Close what is open."""


class Format(Protocol):
    """What a module of a file format offers."""

    def describe(self, path: str, format: str, key: str | None) -> Part:
        """Check a file by its header and size alone, and describe it."""

    def open_part(self, part: Part) -> Reader:
        """Open a part for reading; it must still be as described."""

    def stamps(self, part: Part, start: int, stop: int) -> Iterator[Stamp]:
        """Yield the stamps of the stored objects behind the part's rows ``start:stop``."""

    def is_shared(self, part: Part) -> bool:
        """Say whether one stored object holds all of the part's rows, whatever its chunks."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive rows of a part on their way into ``vectors.zarr``.

    Attributes
    ----------
    rows : array of shape (rows, dim)
        Of the stored dtype in native byte order, C order, the caller's own. What is null in a float row is NaN;
        integer rows that hold a null are 0.
    valid : bool array of shape (rows,), optional
        False for rows of integers that hold a null; None where none does.
    ids : integer or StringDType array of shape (rows,), optional
        Each row's id, where ids were asked for.
    """

    rows: Rows
    valid: Mask | None = None
    ids: NDArray[Any] | None = None


class Stream(Protocol):
    """An open part that is read forward."""

    def read(self, start: int, stop: int) -> Batch:
        """Return the part's rows ``start:stop``.

        Calls go forward: what follows the last one costs its own rows, what lies further on the rows between as
        well, and what lies before may cost all rows from the nearest start on.
        """

    def close(self) -> None:
        """Close what is open."""


class ConvertedFormat(Protocol):
    """What a module offers, besides a `Format`, whose rows cannot be read by their numbers at a fair cost.

    The ingest stage converts them, once and in parallel, to ``vectors.zarr``, which is then read in place; stamps and
    names of the source stay those of its own files.
    """

    def must_convert(self, part: Part) -> bool:
        """Say whether a part is converted: others of the format may be read in place."""

    def starts(self, part: Part) -> tuple[int, ...]:
        """Return the rows, ascending from 0, where reading forward can begin without the rows before."""

    def ids_dtype(self, part: Part, ids: str) -> str:
        """Return the dtype of a column of ids: numpy's name of an integer, or ``string``.

        Raises
        ------
        SourceError
            If the part has no such column, or no ids at all.
        """

    def open_stream(self, part: Part, ids: str | None) -> Stream:
        """Open a part for reading forward, its column of ids too if one is named."""


@contextmanager
def wrapped_errors(what: str) -> Iterator[None]:
    """Turn what a foreign library raises into a SourceError that begins with ``what``."""
    try:
        yield
    except VqpipeError:
        raise
    # Codecs raise whatever their C library has: RuntimeError, zlib.error, KeyError, EOFError... and a
    # MemoryError where a damaged chunk claims to hold more than there is room for.
    except Exception as error:
        raise SourceError(f"{what}: {type(error).__name__}: {error}") from error


def parse_dtype(descr: object, where: str) -> np.dtype[Any]:
    """Return the plain number dtype that a header names.

    Parameters
    ----------
    descr : object
        What stands in the header, ``"<f4"`` for instance.
    where : str
        Begins the message.

    Raises
    ------
    SourceError
        For anything but integers and floats: objects, structures, text, dates.

    Examples
    --------
    >>> parse_dtype(">f4", "source a.npy")
    dtype('>f4')
    """
    if not isinstance(descr, str) or _NUMBER.fullmatch(descr) is None:
        raise SourceError(
            f"{where}: its dtype is {shorten(descr)}, not one plain number type; vectors are "
            "float32, float16, uint8 or int8: convert the array"
        )
    return np.dtype(descr)


def check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> tuple[int, int]:
    """Return rows and dim of a shape that vectors can have.

    Raises
    ------
    SourceError
        For another number of axes, none, negative or absurdly many rows or values.
    """
    if len(shape) != 2:
        raise SourceError(
            f"{where}: its shape is {shorten(shape)}; vectors are a 2-D array of shape "
            "(rows, dim): reshape it"
        )
    rows, dim = shape
    if rows < 0 or dim < 0:
        raise SourceError(
            f"{where}: its header says shape ({rows}, {dim}), which no array can have: the file is "
            "damaged, or of another format (set `format`)"
        )
    if not rows or not dim:
        raise SourceError(
            f"{where}: it has shape ({rows}, {dim}) and so no vectors; check that it was written "
            "to its end"
        )
    if dim > MAX_DIM or rows * dim * dtype.itemsize > MAX_BYTES:
        raise SourceError(
            f"{where}: its header says shape ({rows}, {dim}) of {dtype}; at most dim = {MAX_DIM} "
            f"and {MAX_BYTES} bytes can be read: the file is damaged, or of another format "
            "(set `format`)"
        )
    return rows, dim


def clean_key(path: str, key: str | None) -> str:
    """Return the place of an array inside a file or group, without slashes at its ends; empty for no key.

    Raises
    ------
    SourceError
        For a key that leads elsewhere.

    Examples
    --------
    >>> clean_key("a.zarr", "/group/array/")
    'group/array'
    """
    parts = (key or "").strip("/").split("/")
    if parts != [""] and (not all(parts) or {".", ".."} & set(parts) or "\\" in str(key)):
        raise SourceError(
            f"source {path}: key {key!r} must name an array inside it, as in 'group/array'; "
            "'.', '..' and empty names lead elsewhere"
        )
    return "/".join(parts)


def check_unchanged(part: Part, now: Part) -> None:
    """Refuse a part whose file is no longer what was described. Further rows do no harm.

    Raises
    ------
    SourceError
    """
    if now.rows < part.rows or (now.dim, now.dtype) != (part.dim, part.dtype):
        raise SourceError(
            f"{part}: it was ({part.rows}, {part.dim}) {part.dtype} when the run began and is now "
            f"({now.rows}, {now.dim}) {now.dtype}; the source must not change during a run: run "
            "again when it is complete"
        )


def cut_at_chunks(
    start: int, stop: int, chunk_rows: int, most_rows: int
) -> Iterator[tuple[int, int]]:
    """Cut ``start:stop`` at chunk boundaries into ranges of at most ``most_rows``.

    A chunk larger than ``most_rows`` is not cut, so no chunk is in two ranges.

    Examples
    --------
    >>> list(cut_at_chunks(2, 11, chunk_rows=3, most_rows=5))
    [(2, 6), (6, 9), (9, 11)]
    """
    while start < stop:
        end = (start + most_rows) // chunk_rows * chunk_rows
        if end <= start:
            end = (start // chunk_rows + 1) * chunk_rows
        yield start, min(end, stop)
        start = end


def shorten(value: object) -> str:
    """Return a value as a message shows it: what a damaged header holds can be long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
