"""Parquet files: a column of lists, one of ids beside it. Converted before a run; queries are read in place."""

from __future__ import annotations

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.flat_file import file_stamps, share_file
from vqpipe.sources.parquet_file import Column, Footer, read_footer
from vqpipe.sources.parquet_rows import RowStream, find_dim
from vqpipe.sources.part import Part, Reader, Rows, Stream, check_shape, check_unchanged

ENDINGS = (".parquet", ".pq")

stamps = file_stamps
is_shared = share_file


def describe(path: str, format: str, key: str | None) -> Part:
    """Check a Parquet file by its footer and its first row, and describe it.

    Raises
    ------
    SourceError
        If it is damaged, or it is not clear which of its columns is meant.
    """
    footer = read_footer(path)
    column = _choose(footer, path, key)
    where = f"source {path}, column {column.name!r}"
    # Python's lists become doubles wherever nobody said otherwise.
    dtype = np.dtype("float32" if column.dtype == "float64" else column.dtype)
    if not footer.rows:
        check_shape((0, column.dim), dtype, where)
    dim = column.dim or find_dim(path, column.name)
    rows, dim = check_shape((footer.rows, dim), dtype, where)
    most = max((stop - start for start, stop in _groups(footer)), default=0) * dim
    if footer.values[column.name] > most:
        raise SourceError(
            f"{where}: its footer counts {footer.values[column.name]} values in a row group of at most {most // dim} "
            f"rows, and the first row has {dim}; vectors are of one length: make all rows as long, or null"
        )
    return Part(format, path, column.name, rows, dim, str(dtype), 1, 1)


def _groups(footer: Footer) -> zip[tuple[int, int]]:
    return zip(footer.starts, [*footer.starts[1:], footer.rows], strict=True)


def _choose(footer: Footer, path: str, key: str | None) -> Column:
    lists = [column for column in footer.columns if column.kind == "list"]
    if key is None and len(lists) == 1:
        return lists[0]
    if key is None:
        many = f"has {len(lists)} columns of lists of numbers, so one must be named: set `key`"
        none = "has no column of lists of numbers (list or fixed-size list), so no vectors"
        raise SourceError(
            f"source {path}: {many if lists else none}. Its columns are {footer.listed()}"
        )
    named = footer.column(key)
    if named is None:
        raise SourceError(
            f"source {path}: has no column {key!r}. Its columns are {footer.listed()}"
        )
    if named.kind != "list":
        raise SourceError(
            f"source {path}: column {key!r} is of type {named.type}; vectors are lists of numbers (list or fixed-size "
            f"list). Its columns are {footer.listed()}"
        )
    return named


def open_part(part: Part) -> Reader:
    """Open a Parquet file for reading in place, as is good for a few rows such as queries.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    return _Reader(_stream(part, None), part)


def must_convert(part: Part) -> bool:
    """Say yes: a row is found by decoding all before it in its row group."""
    return True


def starts(part: Part) -> tuple[int, ...]:
    """Return the first rows of the row groups."""
    return read_footer(part.path).starts


def ids_dtype(part: Part, ids: str) -> str:
    """Return the dtype of the column of ids.

    Raises
    ------
    SourceError
        If there is none, or it holds neither integers nor text.
    """
    footer = read_footer(part.path)
    column = footer.column(ids)
    if column is None:
        raise SourceError(
            f"source.ids {ids!r}: source {part.path} has no such column. Its columns are {footer.listed()}"
        )
    if column.kind not in ("integer", "text"):
        raise SourceError(
            f"source.ids {ids!r}: this column of {part.path} is of type {column.type}; ids are integers or text: cast "
            "it, or take another column"
        )
    return column.dtype or "string"


def open_stream(part: Part, ids: str | None) -> Stream:
    """Open a Parquet file for reading forward.

    Raises
    ------
    SourceError
        If it is no longer as described.
    """
    return _stream(part, ids)


def _stream(part: Part, ids: str | None) -> RowStream:
    check_unchanged(part, describe(part.path, part.format, part.key))
    return RowStream(part, ids)


class _Reader:
    """Reads rows in place: each stretch from the row group that it begins in."""

    def __init__(self, stream: RowStream, part: Part) -> None:
        self._stream = stream
        self._part = part

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``, shape (stop - start, dim)."""
        batch = self._stream.read(start, stop)
        if batch.valid is not None:
            row = start + int(np.flatnonzero(~batch.valid)[0])
            raise SourceError(f"{self._part}: row {row} is null or holds a null; leave it out")
        return batch.rows

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
