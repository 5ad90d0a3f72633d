"""The table of formats, and how a path tells its format."""

from __future__ import annotations

import os
from typing import Final

from vqpipe.config import SYNTHETIC_SCHEME
from vqpipe.errors import SourceError
from vqpipe.sources import bins, hdf5, npy, npz, synthetic, vecs, zarr_array
from vqpipe.sources.flat_file import missing
from vqpipe.sources.part import Format
from vqpipe.sources.zarr_tree import is_zarr_folder
from vqpipe.storage.place import place_of

FORMATS: Final[dict[str, Format]] = {
    "npy": npy,
    "npz": npz,
    "hdf5": hdf5,
    "zarr": zarr_array,
    **dict.fromkeys(vecs.DTYPES, vecs),
    **dict.fromkeys(bins.DTYPES, bins),
}

_ENDINGS = {**{f".{name}": name for name in FORMATS}, ".zip": "zarr", ".h5": "hdf5"}
# Told by its scheme, which no file's ending says.
FORMATS["synthetic"] = synthetic

_NOT_BUILT = {".parquet": "Parquet"}


def format_of(path: str) -> str:
    """Tell the format of a path: by its scheme, its ending, or the Zarr metadata in a folder.

    Raises
    ------
    SourceError
        For an ending that is not known, or known but not built yet.

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
    if ending in _NOT_BUILT:
        raise SourceError(
            f"source {path}: {_NOT_BUILT[ending]} files are known but not built yet; convert it to "
            "Zarr or .npy"
        )
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
        f"{', '.join(sorted(_ENDINGS))}: rename the file or set `format`"
    )


def check_format(format: str) -> None:
    """Refuse the name of a format that is not there.

    Raises
    ------
    SourceError
    """
    if format != "auto" and format not in FORMATS:
        raise SourceError(
            f"format {format!r}: is not known or not built yet; take auto or one of "
            f"{', '.join(sorted(FORMATS))}"
        )
