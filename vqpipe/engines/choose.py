"""The engine that a config asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vqpipe.config import Config
from vqpipe.engines.dask import DaskRunner
from vqpipe.engines.serial import SerialRunner
from vqpipe.runner import Runner

# To start a cluster takes some seconds: what one process does in this time it does sooner alone.
ALONE_SECONDS = 20.0


@contextmanager
def make_runner(config: Config) -> Iterator[Runner]:
    """Give the runner that ``cluster`` names and close what it started."""
    if config.cluster == "serial":
        yield SerialRunner()
        return
    with DaskRunner(config.cluster, int(config.memory_per_worker)) as runner:
        yield runner


@contextmanager
def make_runner_for(config: Config | None, seconds: float) -> Iterator[Runner]:
    """Give the runner for work of about so many seconds of one core: what is short is done in this process.

    So is what is asked of an output whose config is not known.
    """
    if config is None or seconds < ALONE_SECONDS:
        yield SerialRunner()
        return
    with make_runner(config) as runner:
        yield runner
