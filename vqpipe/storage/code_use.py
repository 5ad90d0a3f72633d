"""How many rows use each codeword, kept beside the codes of the ``codes.zarr`` at a path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqpipe.storage.arrays import array_in, found_whole, open_group, write_array
from vqpipe.storage.place import place_of
from vqpipe.urls import join

_NAME = "code_counts"


def write_use(path: str, counts: NDArray[np.int64]) -> None:
    """Keep how many rows use each codeword, int64 of shape (columns, k)."""
    write_array(open_group(path, writable=True), _NAME, counts)


def has_use(path: str) -> bool:
    """Say whether `write_use` kept anything."""
    return place_of(path).exists(join(path, _NAME))


def read_use(path: str) -> NDArray[np.int64]:
    """Return what `write_use` kept.

    Raises
    ------
    DamagedError
    """
    with found_whole(f"{path}: {_NAME}"):
        return np.asarray(array_in(open_group(path), _NAME)[...])
