"""The lease on an output folder: one run at a time works in it, and a dead one's place is taken over."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from vqpipe.errors import LeaseError, OutputError
from vqpipe.retries import try_again
from vqpipe.storage.folder import Folder

LEASE_FILE = "lease.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a holder shows that it lives, and how long a contender waits for that.

    Attributes
    ----------
    beat_seconds : float
        After which the holder raises its counter.
    watch_seconds : float
        For which the counter must have stood still before another run takes the lease over: several beats, since a
        disk or a process may be slow.
    poll_seconds : float
        Between two looks of a contender.
    """

    beat_seconds: float = 20.0
    watch_seconds: float = 120.0
    poll_seconds: float = 1.0


PATIENCE = Patience()


class Lease:
    """A lease that this process holds. Use as a context: it is given back at the end, whatever happened.

    A thread raises its counter. Nobody can be kept from taking over the lease of a process that was stopped for
    long, so `check` is called before everything that readers or later runs rely on.

    Parameters
    ----------
    folder : Folder
    record : dict
        What ``lease.json`` says.
    beat_seconds : float
    """

    def __init__(self, folder: Folder, record: dict[str, Any], beat_seconds: float) -> None:
        self._folder = folder
        self._record = record
        self._beat_seconds = beat_seconds
        self._written = _as_bytes(record)
        self._is_lost = False
        self._seen = time.monotonic()
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="vqpipe-lease", daemon=True)

    def __enter__(self) -> Self:
        """Begin to raise the counter."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the lease back, if it is still this process's."""
        self._ended.set()
        self._thread.join()
        try:
            self._folder.remove_bytes(LEASE_FILE, self._written)
        except OSError as error:
            # The next run sees that this process has ended.
            _log.warning("%s could not be removed: %s", self._folder.file(LEASE_FILE), error)

    @property
    def run(self) -> str:
        """What tells the run that holds it."""
        return str(self._record["run"])

    def holds(self, seconds: float = 0.0) -> bool:
        """Say whether the lease is still this process's, by a look that is at most so many seconds old."""
        with self._mutex:
            if not self._is_lost and time.monotonic() - self._seen >= seconds:
                self._is_lost = _read(self._folder) != self._written
                self._seen = time.monotonic()
            return not self._is_lost

    def check(self, seconds: float = 0.0) -> None:
        """Stop whoever is about to write, if the lease is no longer this process's.

        Raises
        ------
        LeaseError
        """
        if not self.holds(seconds):
            found = _read(self._folder)
            whose = f"{describe(found)} works in it now" if found else "its lease is gone"
            raise LeaseError(
                f"output {self._folder.path}: is no longer this run's: {whose}. This process stood still, or could not "
                f"reach the folder, for too long; it stops and leaves all as it is"
            )

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            try:
                with self._mutex:
                    self._raise_counter()
            except OSError as error:
                # A full disk or a lost mount is told by whoever writes; the next beat may pass.
                _log.warning("%s cannot be written: %s", self._folder.file(LEASE_FILE), error)

    def _raise_counter(self) -> None:
        if self._is_lost:
            return
        raised = {**self._record, "counter": self._record["counter"] + 1}
        if not self._folder.replace_bytes(LEASE_FILE, _as_bytes(raised), self._written):
            self._is_lost = True
            return
        self._record, self._written = raised, _as_bytes(raised)
        self._seen = time.monotonic()


def take_lease(folder: Folder, say: Callable[[str], None], patience: Patience = PATIENCE) -> Lease:
    """Take the lease on a folder that exists, or refuse to, since another run works in it.

    What a holder whose process has ended on this machine left is taken over at once; that of any other when its
    counter has stood still, by this process's own clock.

    Parameters
    ----------
    folder : Folder
    say : callable
        Told, in words, when the lease of another is watched or taken over.
    patience : Patience

    Raises
    ------
    LeaseError
        If another run works in the folder, or the disk refuses the lease.
    OutputError
        If nothing may be written there.
    """
    try:
        return _take(folder, say, patience)
    except OSError as error:
        kind = OutputError if isinstance(error, PermissionError) else LeaseError
        raise kind(
            f"output {folder.path}: {LEASE_FILE} cannot be written ({error.strerror or error}), which every run begins "
            "with; mend that, or name another output"
        ) from error


def _take(folder: Folder, say: Callable[[str], None], patience: Patience) -> Lease:
    record = _new_record()
    mine = _as_bytes(record)
    said = False
    while True:
        found = _read(folder)
        if found == mine:
            # It was written, though storage said that it failed.
            return Lease(folder, record, patience.beat_seconds)
        # An object store that cannot remove by condition leaves an empty object.
        if not found and _put(folder, mine, found):
            return Lease(folder, record, patience.beat_seconds)
        if not found:
            continue
        if not _has_ended(found):
            if not said:
                say(
                    f"{describe(found)} may be at work in {folder.path}: its lease is watched for "
                    f"{patience.watch_seconds:.0f} s at most"
                )
                said = True
            seen = _watch(folder, found, patience)
            if seen != found:
                if seen:
                    raise LeaseError(
                        f"output {folder.path}: {describe(seen)} works in it; wait until it has ended, then run again"
                    )
                continue
        if _put(folder, mine, found):
            say(f"{folder.path}: the lease of {describe(found)} is taken over: it works no more")
            return Lease(folder, record, patience.beat_seconds)


def _put(folder: Folder, mine: bytes, found: bytes | None) -> bool:
    if found is None:
        return try_again(folder.create_bytes, LEASE_FILE, mine)
    return try_again(folder.replace_bytes, LEASE_FILE, mine, found)


def _watch(folder: Folder, found: bytes, patience: Patience) -> bytes | None:
    """Return what the lease says as soon as it says anything else, or what it has said all the time."""
    began = time.monotonic()
    while time.monotonic() - began < patience.watch_seconds:
        time.sleep(patience.poll_seconds)
        seen = _read(folder)
        if seen != found:
            return seen
    return found


def _read(folder: Folder) -> bytes | None:
    try:
        return try_again(folder.read_bytes, LEASE_FILE)
    except FileNotFoundError:
        return None


def _as_bytes(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def holder_of(folder: Folder) -> str | None:
    """Return what tells the run that holds a folder's lease; None where there is none."""
    found = _read(folder)
    return None if found is None else _parse(found).get("run")


def _parse(lease: bytes) -> dict[str, Any]:
    try:
        record = json.loads(lease)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def describe(lease: bytes) -> str:
    """Return in words who holds a lease.

    Examples
    --------
    >>> describe(b'{"run": "5f", "host": "n1", "pid": 7, "since": "2026-01-01T00:00:00+00:00"}')
    'run 5f (host n1, process 7, since 2026-01-01T00:00:00+00:00)'
    """
    record = _parse(lease)
    if not {"run", "host", "pid", "since"} <= set(record):
        return f"a run whose {LEASE_FILE} cannot be read"
    return f"run {record['run']} (host {record['host']}, process {record['pid']}, since {record['since']})"


def _new_record() -> dict[str, Any]:
    return {
        "run": uuid.uuid4().hex[:12],
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "counter": 0,
        "machine": _machine(),
        "started": _start_of(os.getpid()),
    }


def _has_ended(lease: bytes) -> bool:
    """Say whether the holder is known to have ended: a process of this machine that is not there any more."""
    record = _parse(lease)
    pid, machine, started = (record.get(key) for key in ("pid", "machine", "started"))
    if type(pid) is not int or pid < 1 or machine is None or machine != _machine():
        return False
    now = _start_of(pid)
    # Numbers of processes are used again: the same number with another start is another process.
    return now is None or bool(now and started and now != started)


def _machine() -> str | None:
    """Return what tells this boot of this machine, and this container, from others of the same host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks after the boot; None where there is none, 0 where it is hidden."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0 if _is_there(pid) else None
    # The name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
