"""The engine that a config asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vqpipe.config import Config
from vqpipe.engines.dask import DaskRunner
from vqpipe.engines.serial import SerialRunner
from vqpipe.runner import Runner


@contextmanager
def make_runner(config: Config) -> Iterator[Runner]:
    """Give the runner that ``cluster`` names and close what it started."""
    if config.cluster == "serial":
        yield SerialRunner()
        return
    with DaskRunner(config.cluster, int(config.memory_per_worker)) as runner:
        yield runner
