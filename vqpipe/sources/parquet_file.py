"""What is in a Parquet file, by its footer: rows, row groups, columns. With `parquet_rows` the door to pyarrow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from vqpipe.errors import SourceError
from vqpipe.sources.flat_file import file_size, stamp_file
from vqpipe.sources.part import Stamp, shorten
from vqpipe.storage.place import place_of

# Pages are read through a buffer of this size. Without one pyarrow takes a whole column of a row group at once.
_BUFFER_BYTES = 1 << 20

# A message that lists more columns than this is not read.
_MOST_LISTED = 10

# Footers that a process keeps: a source is described, and its stretches are told, from the same ones.
_KEPT_FOOTERS = 4096

# What stands before and after a Parquet file's content; PARE where the footer is encrypted.
_MAGIC = b"PAR1"

Kind = Literal["list", "integer", "text", "other"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column at the top of a file's schema.

    Attributes
    ----------
    name : str
    kind : str
        ``list`` of numbers, of any or of one length; ``integer``; ``text``; or ``other``.
    dtype : str
        numpy's name of a number, of a list's values too; empty for what is none.
    dim : int
        Length that the schema fixes for lists; 0 where it fixes none.
    type : str
        As pyarrow names it, for messages.
    """

    name: str
    kind: Kind
    dtype: str
    dim: int
    type: str


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file's footer says.

    Attributes
    ----------
    rows : int
    starts : tuple of int
        First row of each row group that has rows.
    groups : tuple of int
        The numbers of those row groups.
    columns : tuple of Column
    values : dict of str to int
        Most values in a row group, nulls counted, by the name of a column of lists.
    """

    rows: int
    starts: tuple[int, ...]
    groups: tuple[int, ...]
    columns: tuple[Column, ...]
    values: dict[str, int]

    def column(self, name: str) -> Column | None:
        """Return the column of a name; None if there is none."""
        return next((column for column in self.columns if column.name == name), None)

    def listed(self) -> str:
        """Return the columns and their types in words."""
        named = [f"{shorten(column.name)} ({column.type})" for column in self.columns]
        more = f" and {len(named) - _MOST_LISTED} more" if len(named) > _MOST_LISTED else ""
        return ", ".join(named[:_MOST_LISTED]) + more


def pyarrow() -> Any:
    """Return pyarrow, which only those need who have Parquet files.

    Raises
    ------
    SourceError
        If it is not installed.
    """
    try:
        # Beside the time that it takes to load, it is an extra.
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise SourceError(
            "Parquet files are read with pyarrow, which is not installed here: pip install 'vqpipe[parquet]'"
        ) from None
    return pyarrow


def read_footer(path: str) -> Footer:
    """Read a file's footer, or take it from those that this process has read.

    Raises
    ------
    SourceError
        If it is no Parquet file, or damaged.
    """
    pyarrow()
    size = file_size(path)
    if size < 3 * len(_MAGIC):
        raise SourceError(
            f"source {path}: has {size} bytes, fewer than the shortest Parquet file; it was cut: write it again"
        )
    return _read_footer(path, stamp_file(path))


@lru_cache(maxsize=_KEPT_FOOTERS)
def _read_footer(path: str, stamp: Stamp) -> Footer:
    with opened(path) as file:
        told = file.metadata
        schema = file.schema_arrow
        columns = tuple(_column(field) for field in schema)
        starts, groups, row = [], [], 0
        for index in range(told.num_row_groups):
            rows = told.row_group(index).num_rows
            if rows < 0:
                raise SourceError(
                    f"source {path}: row group {index} has {rows} rows, by its footer; the file is damaged: write "
                    "it again"
                )
            if rows:
                starts.append(row)
                groups.append(index)
            row += rows
        if row != told.num_rows:
            raise SourceError(
                f"source {path}: its footer says {told.num_rows} rows, and its row groups have {row}; the file is "
                "damaged: write it again"
            )
        return Footer(row, tuple(starts), tuple(groups), columns, _count_values(told, columns))


def _count_values(told: Any, columns: tuple[Column, ...]) -> dict[str, int]:
    lists = {column.name for column in columns if column.kind == "list"}
    found = dict.fromkeys(lists, 0)
    # The leaves of a file's schema, numbered through; a list of numbers has one.
    for leaf in range(told.num_columns):
        path = told.schema.column(leaf).path
        for name in lists:
            if path.startswith(f"{name}."):
                groups = (told.row_group(group) for group in range(told.num_row_groups))
                counts = (group.column(leaf).num_values for group in groups)
                found[name] = max(found[name], max(counts, default=0))
    return found


def _column(field: Any) -> Column:
    pa = pyarrow()
    found = _storage(field.type)
    name, said = field.name, str(field.type)
    fixed = pa.types.is_fixed_size_list(found)
    if fixed or pa.types.is_list(found) or pa.types.is_large_list(found):
        dtype = _number(found.value_type)
        if dtype:
            return Column(name, "list", dtype, found.list_size if fixed else 0, said)
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_integer(found):
        return Column(name, "integer", _number(found), 0, said)
    if pa.types.is_string(found) or pa.types.is_large_string(found):
        return Column(name, "text", "", 0, said)
    return Column(name, "other", "", 0, said)


def _storage(found: Any) -> Any:
    # Tensors of a fixed shape, as Hugging Face's data sets have them, are lists by another name.
    return getattr(found, "storage_type", found)


def _number(found: Any) -> str:
    pa = pyarrow()
    plain = pa.types.is_integer(found) or pa.types.is_floating(found)
    return str(found.to_pandas_dtype().__name__) if plain else ""


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Give a file as what pyarrow calls a ParquetFile.

    Raises
    ------
    SourceError
        If it has no footer, or a damaged or an encrypted one.
    """
    pa = pyarrow()
    with closing(_Stored(path)) as stored:
        try:
            file = pa.parquet.ParquetFile(stored, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise SourceError(
                f"source {path}: cannot be read as Parquet ({error}); it was cut, is damaged, encrypted, or another "
                "kind of file: write it again, or set `format` to what it is"
            ) from error
        yield file


class _Stored(io.RawIOBase):
    """A stored file, on a disk or in an object store, as a file object: read by ranges at any place."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._size = file_size(path)
        self._file = place_of(path).opened(path)
        self._at = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read at any place."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return how many bytes there were."""
        view = memoryview(buffer).cast("B")
        # What a damaged footer asks for is not taken for what there is.
        count = self._file.fill(view[: max(0, self._size - self._at)], self._at)
        self._at += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        """Return bytes from here on; the length that is asked for may come from a damaged file."""
        left = max(0, self._size - self._at)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        count = self.readinto(data)
        return bytes(data[:count])

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()
