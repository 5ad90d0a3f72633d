"""Parquet files that are written row group by row group: this room's door to pyarrow, which is an extra."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vqpipe.errors import OutputError

# Of so many rows readers skip and decode at a time; some MB of codes.
ROW_GROUP_ROWS = 1 << 17

Piece = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name : str
    dtype : str
        A NumPy dtype's name, or ``string``.
    width : int
        Values of each row, as a list of fixed size; 0 for a plain value.
    """

    name: str
    dtype: str
    width: int = 0


def check_parquet() -> None:
    """Refuse to go on without pa.

    Raises
    ------
    OutputError
    """
    _pyarrow()


def write_parquet(
    file: BinaryIO, columns: Sequence[Column], pieces: Iterable[Piece], facts: Mapping[str, str]
) -> int:
    """Write a table that need never be in memory whole, and return its rows.

    Parameters
    ----------
    file : binary file
        Left open.
    columns : sequence of Column
    pieces : iterable of mappings
        Of every column its values, of shape (rows of the piece,) or (rows of the piece, width).
    facts : mapping of str to str
        Kept with the schema.

    Raises
    ------
    OutputError
        Without pa.
    """
    pa, parquet = _pyarrow()
    fields = [pa.field(column.name, _type(pa, column)) for column in columns]
    schema = pa.schema(fields, metadata=dict(facts))
    rows = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for piece in _in_groups(columns, pieces):
            arrays = [_array(pa, column, piece[column.name]) for column in columns]
            table = pa.Table.from_arrays(arrays, schema=schema)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            rows += table.num_rows
    return rows


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise OutputError(
            f"Parquet needs pyarrow, which is not installed here ({error}): pip install 'vqpipe[parquet]'"
        ) from None
    return pa, parquet


def _in_groups(columns: Sequence[Column], pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield pieces joined and cut to whole row groups, so that these do not depend on how rows come."""
    waiting: list[Piece] = []
    count = 0
    names = [column.name for column in columns]
    for piece in pieces:
        length, start = len(piece[names[0]]), 0
        while start < length:
            stop = min(length, start + ROW_GROUP_ROWS - count)
            waiting.append({name: piece[name][start:stop] for name in names})
            count += stop - start
            start = stop
            if count == ROW_GROUP_ROWS:
                yield _joined(names, waiting)
                waiting, count = [], 0
    if count:
        yield _joined(names, waiting)


def _joined(names: Sequence[str], pieces: Sequence[Piece]) -> Piece:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}


def _type(pa: Any, column: Column) -> Any:
    if column.dtype == "string":
        return pa.string()
    plain = pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(plain, column.width) if column.width else plain


def _array(pa: Any, column: Column, values: NDArray[Any]) -> Any:
    if column.width:
        flat = pa.array(np.ascontiguousarray(values).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, column.width)
    if column.dtype == "string":
        return pa.array(values.tolist(), type=pa.string())
    return pa.array(np.ascontiguousarray(values))
