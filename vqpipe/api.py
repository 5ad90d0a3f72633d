"""What Python users call: run a config, load a codebook, open, search and decode codes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from vqpipe.config import Config
from vqpipe.config_file import load_config
from vqpipe.dtypes import Float32
from vqpipe.engines.choose import make_runner, make_runner_for
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import OutputError
from vqpipe.pipeline.decode import DECODED_PIECE_ROWS, check_rows, decode_pieces
from vqpipe.pipeline.finished import find_finished
from vqpipe.pipeline.generation import current_name
from vqpipe.pipeline.given import read_given
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.pipeline.recorded import recorded_config
from vqpipe.pipeline.search import Answers, join_answers, search_output, search_seconds
from vqpipe.progress import Silent
from vqpipe.quantizer import Quantizer
from vqpipe.sources import open_source
from vqpipe.sources.source import VECTOR_DTYPES
from vqpipe.storage.arrays import found_whole, open_group
from vqpipe.storage.folder import Folder
from vqpipe.urls import absolute


def load_codebook(path: str | Path) -> Quantizer:
    """Load a codebook.

    Parameters
    ----------
    path : str or Path
        A ``codebook.zarr``, or a FAISS PQ, OPQ or RQ index; a path or a URL.

    Returns
    -------
    Quantizer
        With ``encode(vectors) -> codes``, ``decode(codes) -> vectors`` and ``.codebook``.

    Raises
    ------
    CodebookError
        If there is none, or it is damaged.
    """
    return read_given(absolute(path))


def open_codes(output: str | Path) -> zarr.Group:
    """Open the current generation's codes.

    Parameters
    ----------
    output : str or Path
        The output folder of a run; a path or a URL.

    Returns
    -------
    zarr.Group
        With ``codes`` of shape (rows, columns), and ``valid``, ``sq_error`` or ``ids`` (integers, or NumPy's strings)
        of shape (rows,) where the config asked for them.

    Raises
    ------
    OutputError
        If no generation is complete.
    DamagedError
        If its metadata cannot be read.
    """
    folder = Folder(absolute(output))
    name = current_name(folder)
    if name is None:
        raise OutputError(
            f"output {folder.path}: no generation is complete yet; run the config to its end"
        )
    path = (folder / name).file("codes.zarr")
    with found_whole(path):
        try:
            return open_group(path)
        except FileNotFoundError:
            raise OutputError(
                f"{path}: there are no codes; run the config again, and what is missing is made anew"
            ) from None


def search(output: str | Path, queries: NDArray[Any] | str | Path, k: int = 10) -> Answers:
    """Find for each query the rows of an output that are nearest by code.

    Parameters
    ----------
    output : str or Path
        The output folder of a run; a path or a URL.
    queries : array of shape (queries, dim), str or Path
        Vectors, which are searched in this process, or a source of them, as a config names it: then a long search runs
        on the cluster of the output's config. Under cosine they are normalised here.
    k : int
        Rows wanted per query.

    Returns
    -------
    Answers
        ``rows`` (int64, -1 where there are fewer valid rows), ``distances`` (float32, squared, from the query to what
        the code stands for) and ``ids`` (what the source calls the rows, or None), each of shape (queries, k): nearest
        first, equal distances by smaller row number.

    Raises
    ------
    InputError
        If no generation is complete, or the queries do not fit.
    DamagedError
        If codes are lost or damaged.
    """
    if k < 1:
        raise OutputError(f"k = {k}: at least one row is to be found per query")
    found = find_finished(Folder(absolute(output)))
    if isinstance(queries, (str, Path)):
        source = open_source(os.fspath(queries))
        config = recorded_config(found.output)
        with make_runner_for(config, search_seconds(found, source.rows)) as runner:
            return join_answers(list(search_output(found, source, k, runner, Silent())), k)
    vectors = np.asarray(queries)
    if vectors.dtype.name not in VECTOR_DTYPES:
        vectors = vectors.astype(np.float32)
    return join_answers(list(search_output(found, vectors, k, SerialRunner(), Silent())), k)


def decode(output: str | Path, start: int = 0, stop: int | None = None) -> Float32:
    """Return the vectors that the codes of rows ``start:stop`` of an output stand for.

    Returns
    -------
    float32 array of shape (stop - start, dim)
        In the data's own place; NaN for masked rows. Under cosine normalised vectors.

    Raises
    ------
    InputError
        If no generation is complete, or there are no such rows.
    DamagedError
        If codes are lost or damaged.
    """
    found = find_finished(Folder(absolute(output)))
    first, last = check_rows(start, found.codes.rows if stop is None else stop, found.codes.rows)
    return np.concatenate(list(decode_pieces(found, first, last, DECODED_PIECE_ROWS)))


def run(config: Config | str | Path) -> dict[str, Any]:
    """Run a config without Prefect and return its summary, as ``vqpipe run --direct --json`` prints it.

    Raises
    ------
    InputError
        For whatever of the user's input is wrong.
    StageError
        If a stage fails; the output is a valid resume point.
    """
    loaded = config if isinstance(config, Config) else load_config(config)
    with make_runner(loaded) as runner:
        return run_pipeline(loaded, runner, Silent())
