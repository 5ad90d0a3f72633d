"""What vqpipe raises, and which exit status each error means.

::

    VqpipeError
    ├── InputError              exit status 2: the user's input is wrong
    │   ├── ConfigError         the config: a key, a type, a value, a variable
    │   ├── SourceError         the source: missing, truncated, of the wrong shape or type
    │   ├── InvalidRowError     a row that has no nearest codeword (NaN, Inf, zero under cosine)
    │   ├── CodebookError       a codebook that cannot be read, or cannot be learnt from this source
    │   ├── OutputError         the output folder: in the way, write-protected, of another source
    │   ├── AccessError         an object store that lets us not in: no such bucket, no right, no credentials
    │   ├── ClusterError        workers that cannot do this run: other versions, less memory, out of sight of the data
    │   └── LimitError          memory or disk that the plan would exceed
    ├── DamagedError            exit status 1: what was written is damaged; `vqpipe verify --repair` mends it
    ├── LeaseError              exit status 1: another run works in the output, or has taken it over
    ├── WorkerError             exit status 1: a task ends whatever worker runs it
    ├── StoreError              exit status 1: an object store that cannot be reached or fails
    └── StageError              exit status 1: a stage failed; the output is a valid resume point
"""

from __future__ import annotations

from typing import Any


class VqpipeError(Exception):
    """The root of every error that vqpipe raises on purpose.

    Attributes
    ----------
    exit_status : int
    summary : dict or None
        What the run had come to, if it had begun: what ``--json`` prints.
    """

    exit_status = 1
    summary: dict[str, Any] | None = None


class InputError(VqpipeError):
    """The user's input is wrong: the message says what, which value, why, and what to do."""

    exit_status = 2


class ConfigError(InputError):
    """The config is wrong."""


class SourceError(InputError):
    """The source cannot be used."""


class InvalidRowError(InputError):
    """Rows of the source have no nearest codeword.

    Parameters
    ----------
    message : str
    rows : tuple of int
        The first few row numbers in the source.
    """

    def __init__(self, message: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(message, rows)
        self.rows = rows

    def __str__(self) -> str:
        return str(self.args[0])


class CodebookError(InputError):
    """A codebook cannot be read, or cannot be learnt from this source."""


class OutputError(InputError):
    """The output folder cannot be used."""


class AccessError(InputError):
    """An object store lets us not in: there is no such bucket, no right, or there are no credentials."""


class ClusterError(InputError):
    """The cluster that the config names has workers that cannot do this run."""


class LimitError(InputError):
    """The plan would exceed the memory or the disk that it is given."""


class DamagedError(VqpipeError):
    """Something in the output is not what was written: it is named and never used."""


class LeaseError(VqpipeError):
    """The output is another run's: this one may not write there."""


class WorkerError(VqpipeError):
    """A task ends the worker that runs it: for want of memory, or by a crash."""


class StoreError(VqpipeError, OSError):
    """An object store cannot be reached or fails, though it was asked again and again: what a disk's OSError is."""


class StageError(VqpipeError):
    """A stage failed for a reason that is not the user's input.

    Parameters
    ----------
    stage : str
        The stage's name, as ``--until`` takes it.
    message : str
        What failed, where, and how to go on.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(stage, message)
        self.stage = stage

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"
