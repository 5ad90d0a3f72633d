"""Small runs for tests: a config in a folder, run directly, and its output compared byte by byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vqpipe.config import Config
from vqpipe.config_file import make_config
from vqpipe.engines.choose import make_runner
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.progress import Silent

WORDS = Path(__file__).parent.parent / "configs" / "data" / "words-20k-f16.npy"

# The larger sets, where this machine has them.
DATA = Path(os.environ.get("VQPIPE_DATA", "/nonexistent"))


def config_of(folder: Path, source: str | Path, codebook: Any = "KM16", **keys: Any) -> Config:
    """Return a serial config with its output in ``folder``; keys are dotted with ``__``."""
    plain = {"source": {"uri": str(source)}, "output": "out", "codebook": codebook}
    defaults = {"cluster": "serial", "name": "test"}
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    return make_config({**plain, **defaults}, folder, dotted)


def run_here(config: Config, until: str | None = None, force: str | None = None) -> dict[str, Any]:
    """Run a config in this process and return its summary."""
    with make_runner(config) as runner:
        return run_pipeline(config, runner, Silent(), until=until, force=force)


def run_command(*arguments: str, patch: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, a line of Python first."""
    code = f"{patch}\nfrom vqpipe.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def statuses(summary: dict[str, Any]) -> dict[str, str]:
    """Return what became of each stage."""
    return {stage["name"]: stage["status"] for stage in summary["stages"]}


def oracle_codes(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the nearest codewords by float64 differences, longhand: shape (rows, m)."""
    _, m, k, width = centroids.shape
    columns = vectors.astype(np.float64).reshape(len(vectors), m, width)
    codes = np.empty((len(vectors), m), dtype=np.int64)
    for column in range(m):
        distances = np.empty((len(vectors), k))
        for code in range(k):
            difference = columns[:, column] - centroids[0, column, code].astype(np.float64)
            distances[:, code] = (difference**2).sum(axis=1)
        codes[:, column] = distances.argmin(axis=1)
    return codes


def excess_distance(vectors: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return by how much each chosen codeword is farther than the nearest: shape (rows, m), float64."""
    _, m, _, width = centroids.shape
    columns = vectors.astype(np.float64).reshape(len(vectors), m, width)
    wide = centroids[0].astype(np.float64)
    nearest = oracle_codes(vectors, centroids)
    places = np.arange(m)
    chosen = ((columns - wide[places, codes.astype(np.int64)]) ** 2).sum(axis=2)
    best = ((columns - wide[places, nearest]) ** 2).sum(axis=2)
    return chosen - best
