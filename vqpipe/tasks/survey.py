"""What a worker says of itself before it is given work: its versions, its CPU, whether it sees source and output."""

from __future__ import annotations

import os
import resource
import uuid
from dataclasses import dataclass

from vqpipe.errors import OutputError
from vqpipe.kernels import describe_cpu
from vqpipe.runner import Worker
from vqpipe.sources import VectorArray
from vqpipe.storage.disk import PARTIAL
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import holder_of
from vqpipe.versions import versions_that_matter


@dataclass(frozen=True, slots=True)
class SurveyJob:
    """What workers are asked.

    Attributes
    ----------
    source : VectorArray
    output : Folder
    run : str or None
        What tells the run that holds the output's lease; None where there is none and nothing is to be written.
    """

    source: VectorArray
    output: Folder
    run: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a process is, and what it sees.

    Attributes
    ----------
    versions : dict of str to str
        Of Python and packages.
    cpu : str
    rows : bytes
        What tells the source's first and last row.
    """

    versions: dict[str, str]
    cpu: str
    rows: bytes


def survey_worker(worker: Worker | None, job: SurveyJob) -> Facts:
    """Look at the process that runs this, and at source and output from there.

    Raises
    ------
    SourceError
        If the source cannot be read here.
    OutputError
        If the output is not the one of the run, or cannot be written to.
    """
    source = job.source.original
    rows = b"".join(source.signature(row, row + 1) for row in source.probed_rows())
    if job.run is not None:
        _try_output(job.output, job.run)
    return Facts(versions_that_matter(), describe_cpu(), rows)


def _try_output(output: Folder, run: str) -> None:
    if holder_of(output) != run:
        raise OutputError(
            f"output {output.path}: is another folder there than where the run was started, or none"
        )
    # Named so that the next run sweeps it up, should this process be killed.
    name = f"probe-{uuid.uuid4().hex[:12]}{PARTIAL}"
    try:
        output.write_bytes(name, str(os.getpid()).encode())
        output.remove(name)
    except OSError as error:
        raise OutputError(
            f"output {output.path}: cannot be written there ({error.strerror or error})"
        ) from error


def peak_memory(worker: Worker | None, job: None) -> int:
    """Return the most bytes that the process which runs this has held so far."""
    # ru_maxrss is in KiB on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
