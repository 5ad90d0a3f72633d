"""Whether a run works in an output, as its lease says."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from vqpipe.errors import StageError
from vqpipe.storage.folder import Folder

LEASE_FILE = "lease"


def who_works(output: Folder) -> str | None:
    """Return in words which run works in an output, by its lease; None if none does.

    A holder on this host whose process has ended works no more; one on another host cannot be seen and is
    taken to work.
    """
    try:
        lease: Any = json.loads(output.read_bytes(LEASE_FILE))
        host, process, run = lease["host"], int(lease["pid"]), lease["run"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        # Half a lease is one that is being taken.
        return f"a run whose {LEASE_FILE} cannot be read"
    if host == socket.gethostname() and not _is_alive(process):
        return None
    return f"run {run} (host {host}, process {process})"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def refuse_if_worked_on(output: Folder, what: str) -> None:
    """Refuse to change an output in which a run works.

    Raises
    ------
    StageError
    """
    holder = who_works(output)
    if holder is not None:
        raise StageError(
            what, f"{output.path}: {holder} works in it; wait until it has ended, then run again"
        )
