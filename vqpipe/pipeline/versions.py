"""Which versions made what is written."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

# What the bytes of a codebook and of codes can depend on, and what ran the work.
_PACKAGES = ("vqpipe", "numpy", "faiss-cpu", "zarr", "numcodecs", "dask", "distributed", "prefect")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
