"""The C library's allocator on a worker."""

from __future__ import annotations

import ctypes
from functools import cache

# glibc's names for its settings, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

# What glibc lets its thresholds grow to by itself, where nobody sets them.
_KEPT_BYTES, _LARGE_BYTES = 64 << 20, 32 << 20

# Zarr decodes in threads of its own, and each kept what it had freed in an arena of its own: a worker grew by a
# quarter over a billion rows. A task is one thread, so one arena is hardly waited for.
_ARENAS = 1


@cache
def keep_freed_memory() -> None:
    """Let freed arrays of some megabytes be used again instead of going back to the system, once a process.

    Dask's nanny starts workers with a low ``MALLOC_TRIM_THRESHOLD_``, which also stops glibc from
    learning better: every temporary array is then mapped and zeroed anew, and training took 1.5 times
    as long. A C library without these settings is left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, _ARENAS)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
