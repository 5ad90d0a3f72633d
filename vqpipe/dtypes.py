"""The arrays that travel between rooms, by what they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Codes as they are stored, in the smallest unsigned dtype, and as they are computed with.
Codes = NDArray[np.unsignedinteger]
Labels = NDArray[np.intp]
