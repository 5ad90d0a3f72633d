"""The config that an output was last run with."""

from __future__ import annotations

from vqpipe.config import Config
from vqpipe.pipeline.record import read_run_file
from vqpipe.storage.folder import Folder


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
