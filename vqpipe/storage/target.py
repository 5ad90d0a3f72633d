"""Where a command writes a file of its own: never over another, and whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from vqpipe.errors import OutputError
from vqpipe.storage.place import place_of
from vqpipe.urls import absolute, is_url, split


@dataclass(frozen=True, slots=True)
class Target:
    """A file, or a folder, that is to be written.

    Attributes
    ----------
    path : str
        Absolute, or a URL.
    ending : str
        Of its name, such as ``.npy``; empty where any will do.
    """

    path: str
    ending: str

    def beside(self, word: str) -> str:
        """Return the path of a file that belongs to it: ``a.npy`` has ``a.distances.npy``."""
        return f"{self.path.removesuffix(self.ending)}.{word}{self.ending}"


def choose_target(place: str, endings: Sequence[str], *, overwrite: bool) -> Target:
    """Return where to write, or refuse to.

    Parameters
    ----------
    place : str
        A path or a URL.
    endings : sequence of str
        Of which its name must have one; none where any will do.
    overwrite : bool
        Whether what is there may be replaced.

    Raises
    ------
    OutputError
        For another ending, a folder that is not there or may not be written to, or something in the way.
    """
    path = absolute(place)
    ending = next((one for one in endings if path.endswith(one)), "")
    folder, name = split(path)
    if endings and (not ending or name == ending):
        raise OutputError(
            f"{place}: the format goes by the ending; write a name that ends in {' or '.join(endings)}"
        )
    if not is_url(path) and not os.path.isdir(folder):
        raise OutputError(f"{place}: there is no folder {folder} to write to; make it first")
    place_of(path).check_writable(folder)
    target = Target(path, ending)
    check_free(target.path, overwrite=overwrite, folder_is_ours=ending == ".zarr")
    return target


def check_free(path: str, *, overwrite: bool, folder_is_ours: bool = False) -> None:
    """Refuse a path where something is.

    Raises
    ------
    OutputError
    """
    place = place_of(path)
    if not place.exists(path):
        return
    if not overwrite:
        raise OutputError(f"{path}: is there already; name another file, or replace it with --overwrite")  # fmt: skip
    if place.is_folder(path) and not (folder_is_ours and "zarr.json" in place.names(path)):
        raise OutputError(f"{path}: is a folder, which is not replaced by a file; name another file")  # fmt: skip
