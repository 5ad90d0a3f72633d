"""Converting: shards of ``vectors.zarr`` that follow one another, from files that are read forward once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqpipe.shards import Shard
from vqpipe.sources import VectorArray
from vqpipe.sources.formats import open_stream
from vqpipe.sources.part import Batch, wrapped_errors
from vqpipe.storage.vectors import Vectors

# Rows that are taken from a file at a time.
PIECE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """Shards that one task converts, in order; they need not follow one another without a gap."""

    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Their rows."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True, slots=True)
class ConvertJob:
    """What every task of the conversion is told.

    Attributes
    ----------
    source : VectorArray
        By its own files.
    vectors : Vectors
    """

    source: VectorArray
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Converted:
    """What a task did: rows, and how many of them are null or hold a null, as far as integers tell."""

    rows: int
    null_rows: int


def convert_stretch(stretch: Stretch, job: ConvertJob) -> Converted:
    """Write the shards of a stretch, each whole and its record last.

    Raises
    ------
    SourceError
        For rows that cannot be read, of another length or without an id; names the file and the row.
    """
    null_rows = 0
    with closing(_Forward(job.source)) as files:
        for shard in stretch.shards:
            # Taken before the first read: a file that changes meanwhile leaves a record that no longer fits.
            stamp = job.source.stamp(shard.start, shard.stop)
            rows = np.empty((shard.rows, job.vectors.dim), job.vectors.dtype)
            valid = np.ones(shard.rows, dtype=bool)
            ids = []
            filled = 0
            for batch in files.read(shard.start, shard.stop):
                here = slice(filled, filled + len(batch.rows))
                rows[here] = batch.rows
                if batch.valid is not None:
                    valid[here] = batch.valid
                if batch.ids is not None:
                    ids.append(batch.ids)
                filled += len(batch.rows)
            null_rows += int((~valid).sum())
            job.vectors.write(shard, rows, valid, np.concatenate(ids) if ids else None, stamp)
    return Converted(stretch.rows, null_rows)


class _Forward:
    """Reads a source forward, with the file open that the last rows came from."""

    def __init__(self, source: VectorArray) -> None:
        self._source = source
        self._open: Any = None
        self._part: Any = None

    def read(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield rows ``start:stop`` in consecutive pieces."""
        step = max(1, PIECE_BYTES // self._source.row_bytes)
        for place, part, first, last in self._source.spans(start, stop):
            # A file that is named twice is two of them.
            if self._part != place:
                self.close()
                self._open, self._part = open_stream(part, self._source.ids), place
            for begin in range(first, last, step):
                end = min(begin + step, last)
                with wrapped_errors(f"{part}: rows {begin}:{end} cannot be read"):
                    batch = self._open.read(begin, end)
                yield batch

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open.close()
        self._open = self._part = None
