"""The Prefect server that a flow without one starts for itself."""

from __future__ import annotations

import fcntl
import os

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME


def start_server() -> None:
    """Reach the Prefect server; without one, start a temporary one, one process at a time.

    Two processes that start on a fresh home at once race in the database's first migration.
    """
    if PREFECT_API_URL.value():
        return
    home = str(PREFECT_HOME.value())
    os.makedirs(home, exist_ok=True)
    with open(os.path.join(home, "vqpipe-start.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with get_client(sync_client=True) as client:
            client.api_healthcheck()
