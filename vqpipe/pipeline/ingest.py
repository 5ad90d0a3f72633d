"""The ingest stage: sources that workers can read by row range are read in place."""

from __future__ import annotations

from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage


def need(run: Run) -> Need:
    """Say that nothing must be converted: every format there is now is read in place."""
    return Need("done", f"{run.source.format} is read in place")


def execute(run: Run) -> str:
    """Convert nothing."""
    return f"{run.source.format} is read in place"


STAGE = Stage("ingest", need, execute)
