"""The config that an output was last run with, and the source that it names."""

from __future__ import annotations

from vqpipe.config import Config
from vqpipe.errors import InputError
from vqpipe.pipeline.generation import Generation
from vqpipe.pipeline.record import read_run_file
from vqpipe.sources import VectorArray, open_source
from vqpipe.sources.conversion import by_way_of_vectors
from vqpipe.storage.folder import Folder
from vqpipe.storage.vectors import VECTORS_NAME


def recorded_config(output: Folder) -> Config | None:
    """Return the config in ``run.json``, for the output as it lies now; None if it cannot be read.

    Its paths are absolute and its variables were expanded when it was written.
    """
    written = read_run_file(output).get("config")
    if not isinstance(written, dict):
        return None
    try:
        return Config.model_validate({**written, "output": output.path})
    except ValueError:
        return None


def recorded_source(config: Config, generation: Generation) -> tuple[VectorArray | None, str]:
    """Return the source that a generation was made from, as it is now; or None and why it cannot be had."""
    named = config.source
    was = generation.facts["source"]
    try:
        source = open_source(
            named.uri, named.format, named.key, named.rows, generation.known_files, ids=named.ids
        )
        source = by_way_of_vectors(source, Folder(config.output).file(VECTORS_NAME))
    except InputError as error:
        return None, str(error)
    now = {
        "uri": list(named.uri) if isinstance(named.uri, list) else named.uri,
        "key": source.key,
        "metric": named.metric,
        "dim": source.dim,
        "dtype": source.dtype,
    }
    if any(was[key] != now[key] for key in now):
        return None, "it was made from another source"
    return source, ""
