"""The table of formats, and how a path tells its format."""

from __future__ import annotations

import os
from typing import Final

from vqpipe.config import SYNTHETIC_SCHEME
from vqpipe.errors import SourceError
from vqpipe.sources import bins, hdf5, npy, npz, parquet, synthetic, vecs, zarr_array
from vqpipe.sources.flat_file import missing
from vqpipe.sources.part import (
    Batch,
    ConvertedFormat,
    Format,
    Part,
    Reader,
    Stream,
    wrapped_errors,
)
from vqpipe.sources.zarr_tree import is_zarr_folder
from vqpipe.storage.place import place_of

FORMATS: Final[dict[str, Format]] = {
    "npy": npy,
    "npz": npz,
    "hdf5": hdf5,
    "parquet": parquet,
    "zarr": zarr_array,
    **dict.fromkeys(vecs.DTYPES, vecs),
    **dict.fromkeys(bins.DTYPES, bins),
}

_ENDINGS = {
    **{f".{name}": name for name in FORMATS},
    **dict.fromkeys(parquet.ENDINGS, "parquet"),
    ".zip": "zarr",
    ".h5": "hdf5",
}
# Told by its scheme, which no file's ending says.
FORMATS["synthetic"] = synthetic

# Formats of which some, or all, parts are converted before they are read.
CONVERTED: Final[dict[str, ConvertedFormat]] = {"parquet": parquet, "npz": npz}


def format_of(path: str) -> str:
    """Tell the format of a path: by its scheme, its ending, or the Zarr metadata in a folder.

    Raises
    ------
    SourceError
        For an ending that is not known.

    Examples
    --------
    >>> format_of("/data/base.zarr.zip")
    'zarr'
    """
    if path.startswith(SYNTHETIC_SCHEME):
        return "synthetic"
    ending = os.path.splitext(path)[1].lower()
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    place = place_of(path)
    if place.is_folder(path):
        if is_zarr_folder(path):
            return "zarr"
        raise SourceError(
            f"source {path}: is a folder without Zarr metadata (zarr.json, .zarray, .zgroup); for "
            "all files of one kind in it write a pattern such as FOLDER/*.npy"
        )
    if not place.exists(path):
        raise SourceError(f"source {path}: {missing(path, 'file')}")
    raise SourceError(
        f"source {path}: the ending {ending!r} tells no format; known are "
        f"{', '.join(sorted(_ENDINGS))}: rename the file or set `format`; of anything else make .npy, with numpy.save"
    )


def check_format(format: str) -> None:
    """Refuse the name of a format that is not there.

    Raises
    ------
    SourceError
    """
    if format != "auto" and format not in FORMATS:
        raise SourceError(
            f"format {format!r}: is not known; take auto or one of {', '.join(sorted(FORMATS))}"
        )


def must_convert(part: Part) -> bool:
    """Say whether a part is converted before its rows are read."""
    converted = CONVERTED.get(part.format)
    return converted is not None and converted.must_convert(part)


def starts(part: Part) -> tuple[int, ...]:
    """Return the rows, ascending from 0, where reading a part forward can begin.

    Raises
    ------
    SourceError
    """
    if not must_convert(part):
        return (0,)
    with wrapped_errors(f"{part}: its stretches of rows cannot be told"):
        return CONVERTED[part.format].starts(part)


def open_stream(part: Part, ids: str | None = None) -> Stream:
    """Open a part for reading forward, whether it must be converted or not.

    Raises
    ------
    SourceError
    """
    with wrapped_errors(f"{part}: cannot be opened as {part.format}"):
        if must_convert(part):
            return CONVERTED[part.format].open_stream(part, ids)
        return _Forward(FORMATS[part.format].open_part(part))


class _Forward:
    """Reads a part that could be read in place, beside others that cannot."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, start: int, stop: int) -> Batch:
        """Return the part's rows ``start:stop``."""
        return Batch(self._reader.read(start, stop))

    def close(self) -> None:
        """Close the part."""
        self._reader.close()
