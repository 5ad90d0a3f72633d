"""``.npy`` files that are written piece by piece."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np


def write_npy_header(file: BinaryIO, dtype: Any, shape: tuple[int, ...]) -> None:
    """Write what stands before the values, which follow in C order."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
