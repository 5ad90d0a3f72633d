"""Faults of storage that pass by themselves: what met one is tried again, after a pause that grows, a few times."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

# A file server that is started anew, or a busy one, is back after some seconds; who waits longer hides a fault.
ATTEMPTS = 6
FIRST_SECONDS = 0.5
MOST_SECONDS = 10.0

# A cluster that does not start so many times has a cause that stays.
STARTS = 3

# What network file systems answer while they are away. A full or write-protected disk stays so.
PASSING = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ESTALE,
        errno.ENOLCK,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETRESET,
    }
)

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

_log = logging.getLogger(__name__)


def is_passing(error: BaseException) -> bool:
    """Say whether an error may be gone in a moment.

    Examples
    --------
    >>> is_passing(OSError(errno.ESTALE, "stale file handle")), is_passing(OSError(errno.ENOSPC, "disk full"))
    (True, False)
    """
    return isinstance(error, TimeoutError | ConnectionError) or (
        isinstance(error, OSError) and error.errno in PASSING
    )


def try_again(
    call: Callable[Parameters, Returned], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Returned:
    """Call something that may be called twice, again while what it raises is passing.

    Raises
    ------
    Exception
        What it raised last.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop_after_attempt(ATTEMPTS),
        # At random below a bound that doubles: workers that failed together do not come back together.
        wait=wait_random_exponential(multiplier=FIRST_SECONDS, max=MOST_SECONDS),
        before_sleep=before_sleep_log(_log, logging.INFO),
        reraise=True,
    )
    return retrying(call, *args, **kwargs)


def start_again(
    call: Callable[Parameters, Returned], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Returned:
    """Start a cluster, again where that failed: a worker that is killed while it starts takes all with it.

    Raises
    ------
    Exception
        What it raised last.
    """
    starting = Retrying(
        retry=retry_if_exception_type(RuntimeError), stop=stop_after_attempt(STARTS), reraise=True
    )
    return starting(call, *args, **kwargs)
