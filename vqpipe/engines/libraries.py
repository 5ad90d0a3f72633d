"""The libraries that compute with threads of their own, as they are in this process."""

from __future__ import annotations

import os

from threadpoolctl import threadpool_info


def thread_libraries() -> list[dict[str, str | int]]:
    """Return each BLAS and OpenMP library that is loaded.

    Returns
    -------
    list of dict
        ``file``, ``kind`` (``blas``, ``openmp``), ``version``, ``core_type`` that it chose its kernels for, and
        ``threads`` where no task limits them.
    """
    return [
        {
            "file": os.path.basename(str(found["filepath"])),
            "kind": str(found["user_api"]),
            "version": str(found["version"] or ""),
            "core_type": str(found.get("architecture", "")),
            "threads": int(found["num_threads"]),
        }
        for found in threadpool_info()
    ]
