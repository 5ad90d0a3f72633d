"""What Python users call: load a codebook, open codes, run a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr

from vqpipe.config import Config
from vqpipe.config_file import load_config
from vqpipe.engines.choose import make_runner
from vqpipe.errors import OutputError
from vqpipe.pipeline.generation import current_name
from vqpipe.pipeline.given import read_given
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.progress import Silent
from vqpipe.quantizer import Quantizer
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
