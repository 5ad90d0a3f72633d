"""Rows and ids of a Parquet file, read forward batch by batch, as NumPy's arrays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Mask
from vqpipe.errors import SourceError
from vqpipe.sources.parquet_file import Footer, opened, pyarrow, read_footer
from vqpipe.sources.part import Batch, Part, Rows, wrapped_errors
from vqpipe.storage.ids import MOST_ID_BYTES

# Rows that are decoded at a time: enough to hide the cost of a call, few enough to hold several of them.
BATCH_BYTES = 4 << 20
_MOST_BATCH_ROWS = 1 << 14


class RowStream:
    """Reads a part's rows forward, from the row group that holds the first of them.

    Parameters
    ----------
    part : Part
    ids : str, optional
        The column of ids, which is read beside the vectors.
    """

    def __init__(self, part: Part, ids: str | None = None) -> None:
        self._part = part
        self._ids = ids
        self._footer: Footer = read_footer(part.path)
        self._open = ExitStack()
        self._file = self._open.enter_context(opened(part.path))
        self._batches: Iterator[Any] = iter(())
        # What was decoded and not yet given away, and the row after it.
        self._kept: Any = None
        self._next = -1

    def read(self, start: int, stop: int) -> Batch:
        """Return the part's rows ``start:stop``.

        Raises
        ------
        SourceError
            For a row of another length, an id that is null or too long, and what cannot be decoded.
        """
        with wrapped_errors(f"{self._part}: rows {start}:{stop} cannot be decoded"):
            return self._read(start, stop)

    def _read(self, start: int, stop: int) -> Batch:
        part = self._part
        self._go_to(start)
        rows = np.empty((stop - start, part.dim), part.native_dtype)
        valid = np.ones(stop - start, dtype=bool)
        ids: list[NDArray[Any]] = []
        filled = 0
        while filled < stop - start:
            batch = self._take(stop - start - filled)
            here = slice(filled, filled + batch.num_rows)
            first = start + filled
            valid[here] = _fill(rows[here], batch.column(0), part, first)
            if self._ids is not None:
                ids.append(_plain_ids(batch.column(1), part, self._ids, first))
            filled += batch.num_rows
        joined = np.concatenate(ids) if ids else None
        return Batch(rows, None if valid.all() else valid, joined)

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def _go_to(self, row: int) -> None:
        """Have the next batch begin with a row."""
        here = self._next - (0 if self._kept is None else self._kept.num_rows)
        starts = self._footer.starts
        group = bisect_right(starts, row) - 1
        # Forward it is read on, unless a row group begins between here and there.
        if self._next < 0 or not (here == row or starts[group] <= here <= row):
            self._begin(group)
            here = starts[group]
        while here < row:
            here += self._take(row - here).num_rows

    def _begin(self, group: int) -> None:
        part = self._part
        names = [name for name in (part.key, self._ids) if name is not None]
        self._batches = self._file.iter_batches(
            batch_size=batch_rows(part.row_bytes),
            row_groups=list(self._footer.groups[group:]),
            columns=names,
            use_threads=False,
        )
        self._kept, self._next = None, self._footer.starts[group]

    def _take(self, most: int) -> Any:
        """Return the next rows, at most so many: the column of vectors, then that of ids."""
        part = self._part
        while self._kept is None or not self._kept.num_rows:
            found = next(self._batches, None)
            if found is None:
                raise SourceError(
                    f"{part}: ends after {self._next} rows, and its footer says {part.rows}; the file is damaged, or "
                    "changed while it was read: write it again"
                )
            names = [name for name in (part.key, self._ids) if name is not None]
            # Names with a dot in them may have brought other columns too.
            self._kept = found.select(names)
            self._next += found.num_rows
        taken = self._kept.slice(0, most)
        self._kept = self._kept.slice(taken.num_rows)
        return taken


def batch_rows(row_bytes: int) -> int:
    """Return the rows that are decoded at a time."""
    return max(1, min(_MOST_BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))


def find_dim(path: str, name: str) -> int:
    """Return the length of the first list that is not null in a column, which must be there.

    Raises
    ------
    SourceError
        If all of them are null.
    """
    with opened(path) as file:
        # The first row tells, almost always.
        for batch in file.iter_batches(batch_size=64, columns=[name], use_threads=False):
            lists = _stored(batch.column(batch.schema.get_field_index(name)))
            there = lists.drop_null()
            if len(there):
                return len(there[0])
    raise SourceError(
        f"source {path}, column {name!r}: all its rows are null, so there are no vectors; leave the file out, or set "
        "`key` to another column"
    )


def _fill(rows: Rows, column: Any, part: Part, first: int) -> Mask:
    """Fill rows from lists; return False for integer rows with a null."""
    lists = _stored(column)
    there: Mask = lists.is_valid().to_numpy(zero_copy_only=False)
    _check_lengths(lists, there, part, first)
    values = lists.flatten()
    plain = values.fill_null(0) if rows.dtype.kind in "iu" and values.null_count else values
    # A null among floats becomes NaN.
    vectors = plain.to_numpy(zero_copy_only=False).reshape(-1, part.dim)
    floats = rows.dtype.kind == "f"
    # A double that float32 does not hold becomes Inf: an invalid row.
    with np.errstate(over="ignore"):
        if there.all():
            rows[...] = vectors
        else:
            rows[there] = vectors
            rows[~there] = np.nan if floats else 0
    if floats:
        return np.ones(len(rows), dtype=bool)
    if values.null_count:
        whole = values.is_valid().to_numpy(zero_copy_only=False).reshape(-1, part.dim)
        there[there] = whole.all(axis=1)
    return there


def _check_lengths(lists: Any, there: Mask, part: Part, first: int) -> None:
    if pyarrow().types.is_fixed_size_list(lists.type):
        lengths = np.full(len(lists), lists.type.list_size)
    else:
        lengths = np.diff(lists.offsets.to_numpy())
    wrong = np.flatnonzero(there & (lengths != part.dim))
    if wrong.size:
        row = int(wrong[0])
        raise SourceError(
            f"{part}: row {first + row} has {lengths[row]} values, and the first one has {part.dim}; vectors are of "
            "one length: mend the row, or make it null and set source.invalid_rows: mask"
        )


def _plain_ids(column: Any, part: Part, name: str, first: int) -> NDArray[Any]:
    """Return ids as integers, or as NumPy's strings."""
    pa = pyarrow()
    ids = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise SourceError(
            f"source {part.path}, column {name!r}: row {first + row} has no id; an id is carried along for every row: "
            "mend the row, or leave out source.ids"
        )
    if pa.types.is_integer(ids.type):
        return np.array(ids.to_numpy(zero_copy_only=False))
    texts = ids.to_pylist()
    for row, text in enumerate(texts):
        if len(text) > MOST_ID_BYTES or len(text.encode()) > MOST_ID_BYTES:
            raise SourceError(
                f"source {part.path}, column {name!r}: the id of row {first + row} takes more than {MOST_ID_BYTES} "
                "bytes of UTF-8; take a column of keys, such as numbers or hashes"
            )
    return np.array(texts, dtype=np.dtypes.StringDType())


def _stored(column: Any) -> Any:
    # Tensors of a fixed shape are lists by another name.
    return getattr(column, "storage", column)
