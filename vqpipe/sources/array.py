"""The source as one array of vectors: a description, opened where it is used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.formats import FORMATS, must_convert
from vqpipe.sources.part import Part, Reader, Rows, Stamp, cut_at_chunks, wrapped_errors
from vqpipe.sources.row_hash import RowHash
from vqpipe.storage.ids import CHUNK_ROWS, Ids
from vqpipe.storage.vectors import Vectors

# Rows are hashed in pieces of about this size: enough that opening and calling cost nothing.
HASHED_BYTES = 8 << 20

# Twice what a kernel takes at most between two values of the time that it gives to files.
_TICK_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class VectorArray:
    """Files or Zarr arrays, one after another along rows. Holds nothing open; pickles small.

    Attributes
    ----------
    uri : str or tuple of str
        As the user wrote it; of synthetic vectors without the number of rows, which may grow.
    format : str
        The parts' format; ``mixed`` where they differ.
    key : str or None
        Array inside a Zarr group, as the user wrote it.
    parts : tuple of Part
        In row order.
    rows : int
        At most the sum of the parts' rows: a source may be cut to its first rows.
    dim : int
    dtype : str
        Of the rows that are read: as stored, in this machine's byte order.
    ids : str or None
        The column of ids that are carried along,
    ids_dtype : str or None
        and their dtype: numpy's name of an integer, or ``string``.
    converted : Vectors or None
        Where rows are read that the ingest stage converted; None where they are read in place. Files, and places
        of rows, are the source's own all the same.
    """

    uri: str | tuple[str, ...]
    format: str
    key: str | None
    parts: tuple[Part, ...]
    rows: int
    dim: int
    dtype: str
    ids: str | None = None
    ids_dtype: str | None = None
    converted: Vectors | None = None

    @property
    def original(self) -> VectorArray:
        """The source by its own files, whether they are converted or not."""
        return replace(self, converted=None)

    @property
    def chunk_rows(self) -> int:
        """Rows that decode together, at most."""
        if self.converted is not None:
            return self.converted.chunk_rows
        return max(part.chunk_rows for part in self.parts)

    @property
    def unit_rows(self) -> int:
        """Rows of the source's shards, or else of its chunks, at most."""
        if self.converted is not None:
            return self.converted.shard_rows
        return max(part.unit_rows for part in self.parts)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes that decode together, at most: chunk rows times row bytes, and Zarr's padding."""
        if self.converted is not None:
            return self.converted.chunk_bytes
        return max(part.chunk_bytes for part in self.parts)

    def probed_rows(self) -> tuple[int, int]:
        """Return two rows that tell whether a process sees the source: the first, and the last that is read at once."""
        last = self.parts[-1]
        taken = self.rows - sum(part.rows for part in self.parts[:-1])
        return 0, self.rows - (taken if must_convert(last) else 1)

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start:stop``.

        Returns
        -------
        array of shape (stop - start, dim)
            Of the stored dtype in native byte order, in C order, the caller's own. What is null is NaN: integer
            rows come in float32 where one of them is null.

        Raises
        ------
        SourceError
            If there are no such rows, or they cannot be read; names the file and the rows.
        DamagedError
            If they were converted and are no longer whole.
        """
        spans = list(self._stored_spans(start, stop))
        if len(spans) == 1:
            part, first, last = spans[0]
            with closing(_open(part)) as reader:
                return _read(reader, part, first, last)
        rows = np.empty((stop - start, self.dim), self.dtype)
        filled = 0
        for part, first, last in spans:
            with closing(_open(part)) as reader:
                rows[filled : filled + last - first] = _read(reader, part, first, last)
            filled += last - first
        return rows

    def pieces(self, start: int, stop: int, most_rows: int) -> Iterator[Rows]:
        """Yield rows ``start:stop`` in consecutive pieces of at most ``most_rows`` rows.

        Pieces are cut at chunk boundaries, so that no chunk is decoded twice: a chunk larger than
        ``most_rows`` comes whole. Each part is opened once, and no piece crosses into the next.

        Yields
        ------
        array of shape (rows of the piece, dim)

        Raises
        ------
        SourceError
            As `read` does.
        """
        for part, first, last in self._stored_spans(start, stop):
            with closing(_open(part)) as reader:
                for begin, end in cut_at_chunks(first, last, part.chunk_rows, max(1, most_rows)):
                    yield _read(reader, part, begin, end)

    def stamps(self, start: int, stop: int) -> Iterator[Stamp]:
        """Yield name, bytes and mtime in ns (or ETag) of each stored object behind rows ``start:stop``.

        The file for flat formats and zip files (its name without the folder), chunks or shards for
        a Zarr folder (names under the array; size -1 where there is none).

        Of converted rows it is the shards that hold them now.

        Raises
        ------
        SourceError
        """
        if self.converted is not None:
            yield from self.converted.stamps(start, stop)
            return
        for part, first, last in self._spans(start, stop):
            with wrapped_errors(f"{part}: the state of rows {first}:{last} cannot be read"):
                found = list(FORMATS[part.format].stamps(part, first, last))
            yield from found

    def stamp(self, start: int, stop: int) -> bytes:
        """Return 16 bytes that change when the objects behind rows ``start:stop`` are written.

        Waits where one was written so lately that the next write could bear the same time.

        The first half of the SHA-256 over their stamps and their places inside the parts: rows
        that moved, because a file was put before them, are other rows of the same file.

        Raises
        ------
        SourceError
        """
        for _ in range(2):
            sha, row, newest = hashlib.sha256(), start, 0
            for _, first, last in self._stored_spans(start, stop):
                sha.update(repr((first, last)).encode())
                for stamp in self.stamps(row, row + last - first):
                    sha.update(repr(stamp).encode())
                    # An ETag changes with every write, whenever it comes.
                    newest = max(newest, stamp[2] if isinstance(stamp[2], int) else 0)
                row += last - first
            if not 0 <= time.time_ns() - newest < _TICK_NS:
                break
            time.sleep(_TICK_NS / 1e9)
        return sha.digest()[:16]

    def shares_objects(self, start: int, stop: int) -> bool:
        """Say whether rows ``start:stop`` lie in a file that many shards share.

        The stamp of such a file says nothing of these rows alone: what tells them is their
        `signature`.
        """
        # What was converted again may hold the same rows.
        return self.converted is not None or any(
            FORMATS[part.format].is_shared(part) for part, _, _ in self._spans(start, stop)
        )

    def signature(self, start: int, stop: int) -> bytes:
        """Return 16 bytes that tell rows ``start:stop``: all of them are read, piece by piece.

        The first half of the SHA-256 over their values in this machine's byte order, so that it is the
        same however the rows are stored and wherever they lie; where ids are carried along, over these too.

        Raises
        ------
        SourceError
            As `read` does.
        """
        sha = RowHash(self.dtype)
        for piece in self.pieces(start, stop, max(1, HASHED_BYTES // self.row_bytes)):
            sha.update(piece)
        for _, ids in self.id_pieces(start, stop):
            sha.update_ids(ids)
        return sha.digest()

    def id_pieces(self, start: int, stop: int) -> Iterator[tuple[int, Ids]]:
        """Yield the ids of rows ``start:stop`` in consecutive pieces, each with its first row; none where none are.

        Raises
        ------
        DamagedError
            If they are no longer as they were converted.
        """
        if self.converted is None or self.ids is None:
            return
        with closing(self.converted.open()) as reader:
            for begin in range(start, stop, CHUNK_ROWS):
                yield begin, reader.read_ids(begin, min(begin + CHUNK_ROWS, stop))

    def place_of(self, row: int) -> str:
        """Return in words where a row is: its file, and its number there if there are several."""
        ((part, first, _),) = self._spans(row, row + 1)
        place = part.path if len(self.parts) == 1 else f"{part.path}, row {first} of it"
        return place if self.converted is None else f"{place} (where a null is read as NaN)"

    def files(self) -> tuple[tuple[str, int], ...]:
        """Return each part's path and the rows that are taken from it."""
        return tuple((part.path, last - first) for part, first, last in self._spans(0, self.rows))

    def _stored_spans(self, start: int, stop: int) -> Iterator[tuple[Part | Vectors, int, int]]:
        """Yield where rows ``start:stop`` are read, with the row numbers there."""
        spans = list(self._spans(start, stop))
        yield from spans if self.converted is None else [(self.converted, start, stop)]

    def _spans(self, start: int, stop: int) -> Iterator[tuple[Part, int, int]]:
        yield from ((part, first, last) for _, part, first, last in self.spans(start, stop))

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, Part, int, int]]:
        """Yield the parts behind rows ``start:stop``: number, part, and the first and last row, its own numbers.

        Raises
        ------
        SourceError
            If there are no such rows.
        """
        if not 0 <= start <= stop <= self.rows:
            raise SourceError(
                f"rows {start}:{stop} of source {self.uri}: it has rows 0:{self.rows}; the plan "
                "belongs to another state of the source: run again"
            )
        first_row = 0
        for number, part in enumerate(self.parts):
            first, last = max(start - first_row, 0), min(stop - first_row, part.rows)
            if first < last:
                yield number, part, first, last
            first_row += part.rows


def _open(part: Part | Vectors) -> Reader:
    if isinstance(part, Vectors):
        return part.open()
    with wrapped_errors(f"{part}: cannot be opened as {part.format}"):
        return FORMATS[part.format].open_part(part)


def _read(reader: Reader, part: Part | Vectors, start: int, stop: int) -> Rows:
    with wrapped_errors(f"{part}: rows {start}:{stop} cannot be read"):
        return reader.read(start, stop)
