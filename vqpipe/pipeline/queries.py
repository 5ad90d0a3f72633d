"""The queries of a config, and the truth about them: held-out rows, or files that are checked before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vqpipe.config import FileConfig
from vqpipe.dtypes import Int64
from vqpipe.errors import SourceError
from vqpipe.pipeline.run import Run
from vqpipe.sources import VectorArray, open_source, open_table
from vqpipe.storage.samples import SetName
from vqpipe.tasks.evaluate import Queries


def find_queries(run: Run) -> tuple[Queries, Int64 | None]:
    """Return the queries and, where it is given, each one's exact nearest row; no query for a KM codebook."""
    none = Queries(0)
    if run.spec.kind == "KM":
        # Every row of a cell is equally near by its code: ranking them says nothing.
        return none, None
    file, table = _query_file(run), _truth_file(run)
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


def named_files(run: Run) -> list[tuple[Any, list[Any]]]:
    """Return the files of queries and truth that the config names, and the state that they are in."""
    return [
        (file.uri, list(file.stamps(0, file.rows)))
        for file in (_query_file(run), _truth_file(run))
        if file is not None
    ]


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
    file, table = _query_file(run), _truth_file(run)
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


def _query_file(run: Run) -> VectorArray | None:
    queries = run.config.evaluate.queries
    if not isinstance(queries, FileConfig):
        return None
    with _named("evaluate.queries"):
        file = open_source(queries.uri, queries.format, queries.key)
    if file.dim != run.source.dim:
        raise SourceError(
            f"evaluate.queries {queries.uri}: has dim = {file.dim} and the source has dim = {run.source.dim}; "
            "queries and rows must be of one space"
        )
    return file


def _truth_file(run: Run) -> VectorArray | None:
    truth = run.config.evaluate.truth
    if truth is None:
        return None
    with _named("evaluate.truth"):
        return open_table(truth.uri, truth.format, truth.key)
