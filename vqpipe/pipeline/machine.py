"""The machine that this process runs on: what bounds it."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

# What changes how many threads and which kernels a library takes, wherever it is set.
_SETTINGS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE", "MALLOC_TRIM_THRESHOLD_",
    "FAISS_SIMD_LEVEL", "FAISS_OPT_LEVEL", "PREFECT_API_URL", "PREFECT_HOME", "DASK_CONFIG",
)  # fmt: skip

_CGROUP = Path("/sys/fs/cgroup")


def describe_machine() -> dict[str, Any]:
    """Return the system, its cores, memory and load, and settings of the environment.

    Returns
    -------
    dict
        ``system``, ``libc``; ``cores`` that this process may use and ``core_limit`` of its container (None: none);
        ``load`` of the last minute; ``memory_bytes`` of the machine, ``memory_free_bytes`` and ``memory_limit_bytes``
        of the container (None: none); ``settings``.
    """
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "cores": len(os.sched_getaffinity(0)),
        "core_limit": _core_limit(),
        "load": round(os.getloadavg()[0], 2),
        "memory_bytes": _memory("MemTotal"),
        "memory_free_bytes": _memory("MemAvailable"),
        "memory_limit_bytes": _memory_limit(),
        "settings": {
            name: _without_login(os.environ[name]) for name in _SETTINGS if name in os.environ
        },
    }


def _without_login(value: str) -> str:
    """Return a setting without what an address may hold before its host: a name and a password."""
    scheme, colon, rest = value.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if colon else value


def _core_limit() -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return float(quota) / float(period)
    return None


def _memory_limit() -> int | None:
    with suppress(OSError, ValueError):
        return int((_CGROUP / "memory.max").read_text())
    return None


def held_memory() -> int:
    """Return the bytes that this process holds now; 0 where the system does not tell."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _memory(name: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) << 10
    return None
