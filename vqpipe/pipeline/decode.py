"""Decoding: the vectors that the codes of an output stand for, as a file."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from vqpipe.dtypes import Float32
from vqpipe.errors import OutputError
from vqpipe.memory import DECODED_ROWS
from vqpipe.pipeline.finished import Finished
from vqpipe.progress import Progress
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.npy_file import write_npy_header
from vqpipe.storage.place import place_of
from vqpipe.storage.target import Target
from vqpipe.storage.vectors_array import vectors_shard_rows, write_vectors

ENDINGS = (".npy", ".zarr")

# Read and decoded together where no file asks for another size.
DECODED_PIECE_ROWS = 1 << 16

_ROWS = re.compile(r"([0-9]*):([0-9]*)")


def parse_rows(text: str | None, rows: int) -> tuple[int, int]:
    """Return the first row and the one after the last that a slice such as ``100:200`` names.

    Parameters
    ----------
    text : str or None
        None for all; either side may be left out.
    rows : int
        That there are.

    Raises
    ------
    OutputError
        For anything else, and for rows that there are not.

    Examples
    --------
    >>> parse_rows("100:200", 1000), parse_rows(":5", 1000), parse_rows(None, 1000)
    ((100, 200), (0, 5), (0, 1000))
    """
    if text is None:
        return 0, rows
    match = _ROWS.fullmatch(text.strip())
    if match is None:
        raise OutputError(f"--rows {text}: is no slice; write A:B, such as 100:200, :1000 or 5000:")
    return check_rows(int(match[1] or 0), int(match[2] or rows), rows)


def check_rows(start: int, stop: int, rows: int) -> tuple[int, int]:
    """Return rows ``start:stop`` if there are such rows.

    Raises
    ------
    OutputError
    """
    if not 0 <= start < stop <= rows:
        raise OutputError(
            f"rows {start}:{stop}: there are rows 0 to {rows - 1:,}; the second number is the row after the last that "
            "is wanted"
        )
    return start, stop


def decode_pieces(found: Finished, start: int, stop: int, piece_rows: int) -> Iterator[Float32]:
    """Yield what the codes of rows ``start:stop`` stand for; NaN for masked rows, whose code says nothing.

    Yields
    ------
    float32 array of shape (rows of the piece, dim)
        In the data's own place; normalised vectors under cosine.
    """
    for piece in plan_shards(stop - start, piece_rows):
        codes, valid = found.codes.read(Shard(0, start + piece.start, start + piece.stop))
        vectors = np.empty((piece.rows, found.codebook.dim), np.float32)
        for first in range(0, piece.rows, DECODED_ROWS):
            some = slice(first, first + DECODED_ROWS)
            vectors[some] = found.codebook.decode(codes[some])
        vectors[~valid] = np.nan
        yield vectors


def decode_output(
    found: Finished, target: Target, start: int, stop: int, progress: Progress
) -> None:
    """Write what the codes of rows ``start:stop`` stand for, piece by piece."""
    rows, dim = stop - start, found.codebook.dim
    progress.begin("decode", rows, "rows")
    piece_rows = vectors_shard_rows(dim)
    pieces = _counted(decode_pieces(found, start, stop, piece_rows), progress)
    if target.ending == ".zarr":
        write_vectors(target.path, (rows, dim), pieces)
        return
    with place_of(target.path).writing(target.path) as file:
        write_npy_header(file, "<f4", (rows, dim))
        for vectors in pieces:
            file.write(np.ascontiguousarray(vectors, dtype="<f4").data)


def _counted(pieces: Iterator[Float32], progress: Progress) -> Iterator[Float32]:
    for vectors in pieces:
        yield vectors
        progress.advance(len(vectors))
