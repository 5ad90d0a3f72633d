"""Queries and their nearest rows: held-out rows, files, or what a file of ann-benchmarks holds beside its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vqpipe.config import FileConfig
from vqpipe.dtypes import Int64
from vqpipe.errors import SourceError
from vqpipe.pipeline.run import Run
from vqpipe.sources import Benchmark, VectorArray, find_benchmark, open_source, open_table
from vqpipe.sources.hdf5 import BENCHMARK_QUERIES, BENCHMARK_TRUTH
from vqpipe.storage.samples import SetName
from vqpipe.tasks.evaluate import Queries


def query_file(run: Run) -> VectorArray | None:
    """Return the file of queries; None where the queries are held-out rows.

    Raises
    ------
    SourceError
        If it cannot be used, or is of another space than the source.
    """
    queries = run.config.evaluate.queries
    if not isinstance(queries, FileConfig):
        return None
    with _named("evaluate.queries"):
        key = BENCHMARK_QUERIES if _benchmark(queries) else queries.key
        file = open_source(queries.uri, queries.format, key)
    if file.dim != run.source.dim:
        raise SourceError(
            f"evaluate.queries {queries.uri}: has dim = {file.dim} and the source has dim = {run.source.dim}; "
            "queries and rows must be of one space"
        )
    return file


def truth_file(run: Run) -> VectorArray | None:
    """Return the table of each query's nearest rows; None where they must be searched for.

    A file of ann-benchmarks brings its own where the source is its vectors, and its metric theirs.

    Raises
    ------
    SourceError
        If it cannot be used.
    """
    truth, queries = run.config.evaluate.truth, run.config.evaluate.queries
    if truth is not None:
        with _named("evaluate.truth"):
            key = BENCHMARK_TRUTH if _benchmark(truth) else truth.key
            return open_table(truth.uri, truth.format, key)
    if not isinstance(queries, FileConfig):
        return None
    with _named("evaluate.queries"):
        benchmark = _benchmark(queries)
        if benchmark is None or not benchmark.is_of(run.source) or _is_other(run, benchmark):
            return None
        return open_table(queries.uri, queries.format, BENCHMARK_TRUTH)


def named_files(run: Run) -> list[tuple[Any, list[Any]]]:
    """Return the files of queries and truth that the config names, and the state that they are in."""
    return [
        (file.uri, list(file.stamps(0, file.rows)))
        for file in (query_file(run), truth_file(run))
        if file is not None
    ]


def _benchmark(file: FileConfig) -> Benchmark | None:
    """Return the file of ann-benchmarks whose data set is to be found by what it is for."""
    return None if file.key is not None else find_benchmark(file.uri, file.format)


def _is_other(run: Run, benchmark: Benchmark) -> bool:
    return benchmark.metric not in (None, run.config.source.metric)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Say which key of the config names a file that cannot be used."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{key}: {error}") from error


def check_files(run: Run) -> None:
    """Refuse queries and truths that do not fit, before anything is computed.

    Raises
    ------
    SourceError
    """
    _warn_of_metric(run)
    file, table = query_file(run), truth_file(run)
    if table is None or file is None:
        return
    if table.rows != file.rows:
        raise SourceError(
            f"evaluate.truth {table.uri}: has {table.rows:,} rows and evaluate.queries {file.uri} has {file.rows:,}; "
            "each query needs a row of its nearest rows"
        )
    nearest = np.asarray(table.read(0, table.rows))[:, 0]
    outside = np.flatnonzero((nearest < 0) | (nearest >= run.source.rows))
    if len(outside):
        raise SourceError(
            f"evaluate.truth {table.uri}: query {outside[0]}'s nearest is said to be row {nearest[outside[0]]} but the "
            f"source has rows 0 to {run.source.rows - 1}; the truth belongs to another source"
        )


def _warn_of_metric(run: Run) -> None:
    """Warn of a file of ann-benchmarks whose nearest rows are nearest by another metric than the run's."""
    if run.source.format != "hdf5":
        return
    named = run.config.source
    benchmark = find_benchmark(named.uri, named.format)
    if benchmark is not None and benchmark.is_of(run.source) and _is_other(run, benchmark):
        run.warn(
            f"source {benchmark.path}: its own nearest rows are the nearest by {benchmark.metric}, and source.metric "
            f"is {named.metric}: recall is not measured by them unless evaluate.truth names them; set "
            f"source.metric: {benchmark.metric} if that is what the codes are for"
        )


def find_queries(run: Run) -> tuple[Queries, Int64 | None]:
    """Return the queries and, where it is given, each one's exact nearest row."""
    none = Queries(0)
    if run.spec.kind == "KM":
        # Every row of a cell is equally near by its code: ranking them says nothing.
        return none, None
    file, table = query_file(run), truth_file(run)
    if file is not None:
        if table is not None:
            nearest = np.asarray(table.read(0, table.rows))[:, 0].astype(np.int64)
            return Queries(file.rows, file=file), nearest
        if run.given is not None:
            run.warn(
                "evaluate: a given codebook has no sample to search, so recall needs evaluate.truth"
            )
            return none, None
        return Queries(file.rows, file=file), None
    wanted = run.config.evaluate.queries
    if run.given is not None or not isinstance(wanted, int):
        return none, None
    sample = run.finished_sample()
    name: SetName = "heldout" if sample.rows["heldout"] else "train"
    return Queries(min(wanted, sample.rows[name]), sample=sample, name=name), None
