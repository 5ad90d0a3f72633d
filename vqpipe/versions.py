"""Which versions made what is written."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

# What the bytes of a codebook and of codes can depend on.
_MATTER = ("vqpipe", "numpy", "faiss-cpu", "zarr", "numcodecs", "llvmlite")

# What ran the work.
_RAN = ("dask", "distributed", "prefect")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    return {"python": platform.python_version()} | _found((*_MATTER, *_RAN))


def versions_that_matter() -> dict[str, str]:
    """Return the versions that all who work on one run must share: of Python without the last number."""
    return {"python": ".".join(platform.python_version_tuple()[:2])} | _found(_MATTER)


def _found(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
