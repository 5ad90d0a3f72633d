"""Files of ann-benchmarks: vectors, queries and each query's nearest vectors, in one HDF5 file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vqpipe.codebook import Metric
from vqpipe.errors import SourceError
from vqpipe.sources.array import VectorArray
from vqpipe.sources.formats import format_of
from vqpipe.sources.hdf5 import BENCHMARK_QUERIES, BENCHMARK_ROWS, BENCHMARK_TRUTH, is_benchmark
from vqpipe.sources.location import find_paths
from vqpipe.sources.part import wrapped_errors
from vqpipe.sources.source import open_source, open_table

_DISTANCES = "distances"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A file of ann-benchmarks.

    Attributes
    ----------
    path : str
    metric : str or None
        By which its nearest vectors are the nearest; None where its distances do not tell.
    """

    path: str
    metric: Metric | None

    def is_of(self, source: VectorArray) -> bool:
        """Say whether a source is this file's vectors, all of them: its truth numbers their rows."""
        if len(source.parts) != 1:
            return False
        part = source.parts[0]
        return (part.path, part.key, part.rows) == (self.path, BENCHMARK_ROWS, source.rows)


def find_benchmark(uri: str | Sequence[str], format: str = "auto") -> Benchmark | None:
    """Return the file of ann-benchmarks that a URI names; None where it names anything else.

    Raises
    ------
    SourceError
        If it cannot be opened.
    """
    paths = find_paths(uri)
    if len(paths) != 1 or (format_of(paths[0]) if format == "auto" else format) != "hdf5":
        return None
    with wrapped_errors(f"source {paths[0]}: cannot be opened as hdf5"):
        if not is_benchmark(paths[0]):
            return None
    return Benchmark(paths[0], _metric_of(paths[0]))


def _metric_of(path: str) -> Metric | None:
    """Tell the metric by one distance in the file and the two vectors that it lies between.

    Its attribute ``distance`` would say it too; but texts lie in a heap, and in a damaged one HDF5's library goes
    round for ever.
    """
    try:
        distances, numbers = (
            open_source(path, "hdf5", _DISTANCES),
            open_table(path, "hdf5", BENCHMARK_TRUTH),
        )
        rows, queries = (
            open_source(path, "hdf5", key) for key in (BENCHMARK_ROWS, BENCHMARK_QUERIES)
        )
        # The farthest of the nearest: of near ones all distances are next to nothing.
        said, number = float(distances.read(0, 1)[0, -1]), int(numbers.read(0, 1)[0, -1])
        row, query = rows.read(number, number + 1)[0], queries.read(0, 1)[0]
    except SourceError:
        return None
    if len(row) != len(query):
        return None
    a, b = row.astype(np.float64), query.astype(np.float64)
    found: dict[Metric, float] = {"l2": float(np.linalg.norm(a - b))}
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms > 0:
        found["cosine"] = 1 - float(a @ b) / norms
    alike = [metric for metric, value in found.items() if np.isclose(value, said, 1e-3, 1e-6)]
    return alike[0] if len(alike) == 1 else None
