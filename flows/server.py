"""The Prefect server that a flow without one starts for itself."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import Future
from contextvars import copy_context

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from vqpipe.engines.keyboard import deaf_to_keyboard


def start_server() -> None:
    """Reach the Prefect server; without one, start a temporary one, which Ctrl-C ends with this process, not before."""
    if PREFECT_API_URL.value():
        return
    started: Future[None] = Future()

    def start() -> None:
        try:
            _start_alone()
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(None)

    # A thread of its own: whoever waits for the server is not deaf meanwhile.
    work = threading.Thread(target=copy_context().run, args=(start,), daemon=True)
    with deaf_to_keyboard():
        work.start()
    started.result()


def _start_alone() -> None:
    """Start a server, one process at a time: two on a fresh home race in the database's first migration."""
    home = str(PREFECT_HOME.value())
    os.makedirs(home, exist_ok=True)
    with open(os.path.join(home, "vqpipe-start.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with get_client(sync_client=True) as client:
            client.api_healthcheck()
