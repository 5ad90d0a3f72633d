"""Shards and slices: which rows one task owns. Planned with integers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# A shard of a million rows is seconds to minutes of work: long enough to hide a task's cost,
# short enough that a crash loses little.
TARGET_SHARD_ROWS = 1 << 20

# Dask is comfortable to about 100,000 tasks and a listing of records to about 10,000.
MAX_SHARDS = 10_000


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows ``start:stop`` that one task owns.

    Attributes
    ----------
    index : int
        Position among its peers, from 0.
    start, stop : int
        Row numbers, half open.
    """

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


def ceil_div(dividend: int, divisor: int) -> int:
    """Return the quotient rounded up.

    Examples
    --------
    >>> ceil_div(7, 3)
    3
    """
    return -(-dividend // divisor)


def plan_shards(rows: int, shard_rows: int) -> Iterator[Shard]:
    """Cut rows into shards of ``shard_rows``, the last one shorter.

    Examples
    --------
    >>> [(shard.start, shard.stop) for shard in plan_shards(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    for index, start in enumerate(range(0, rows, shard_rows)):
        yield Shard(index, start, min(start + shard_rows, rows))


def choose_shard_rows(rows: int, unit_rows: int, row_code_bytes: int, memory_bytes: int) -> int:
    """Return the rows of a code shard: the multiple of the source's unit nearest to 2^20 rows.

    Parameters
    ----------
    rows : int
        Rows of the source.
    unit_rows : int
        Rows of the source's shards, or else of its chunks: a task reads whole ones.
    row_code_bytes : int
        Bytes of one row's codes.
    memory_bytes : int
        Memory of a worker; a code shard takes at most an eighth of it.

    Examples
    --------
    >>> choose_shard_rows(10**7, 1_000_000, 16, 2**31)
    1000000
    >>> choose_shard_rows(10**7, 1, 4096, 2**31)
    65536
    """
    most = max(1, memory_bytes // 8 // row_code_bytes)
    wanted = min(max(TARGET_SHARD_ROWS, ceil_div(rows, MAX_SHARDS)), most)
    units = max(1, round(wanted / unit_rows))
    while units > 1 and units * unit_rows > most:
        units -= 1
    return units * unit_rows


def choose_slice_rows(batch_rows: int, block_rows: int, most_slices: int) -> int:
    """Return the rows of one slice of a batch: whole blocks, at most ``most_slices`` of them.

    The cut depends on the config alone, never on the number of workers, so that a sum over
    slices is the same sum everywhere.
    """
    blocks = ceil_div(ceil_div(batch_rows, most_slices), block_rows)
    return blocks * block_rows


def batch_slices(start: int, batch_rows: int, slice_rows: int, rows: int) -> list[Shard]:
    """Cut one batch of an endlessly repeated sequence of rows into slices.

    A batch that starts at ``start`` covers ``batch_rows`` positions from there, modulo ``rows``: training
    walks through the sample in order and starts over at its end. A slice never crosses that end.

    Examples
    --------
    >>> [(s.start, s.stop) for s in batch_slices(6, batch_rows=6, slice_rows=4, rows=10)]
    [(6, 10), (0, 2)]
    """
    slices: list[Shard] = []
    position, left = start % rows, batch_rows
    while left:
        take = min(slice_rows, left, rows - position)
        slices.append(Shard(len(slices), position, position + take))
        position, left = (position + take) % rows, left - take
    return slices
