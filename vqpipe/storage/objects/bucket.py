"""A bucket: how it is reached, and what its store's errors mean.

Endpoint, region and credentials come from the environment and the providers' own chains, which each process
reads for itself: no setting of ours holds them, nothing pickles them, and no message repeats what a store answered.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, HTTPStore, MemoryStore, ObjectStore, S3Store

from vqpipe.errors import AccessError, StoreError, VqpipeError
from vqpipe.urls import bucket_and_key, is_web

# With one request in twenty failing, one in 10^10 fails so many times; the waits add up to about half a minute.
MOST_RETRIES = 8
_FIRST_WAIT, _LONGEST_WAIT = timedelta(milliseconds=100), timedelta(seconds=8)
_LONGEST_TRIES = timedelta(seconds=180)

# A connection on which nothing arrives for so long is given up and tried again; what arrives slowly is waited for.
_SILENCE, _LONGEST_REQUEST = "60s", "600s"

# Of a request that obstore has tried again.
_RETRIED = re.compile(r"after [1-9][0-9]* retries")

_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
_CODE = re.compile(r"<Code>([A-Za-z]{1,40})</Code>")
# Where credentials are asked for when nothing else holds any: the machine's own role.
_LAST_RESORT = re.compile(r"performing [A-Z]+ http://(169\.254\.|metadata\.google\.)")
_KIND = re.compile(r"kind: ([A-Za-z]{1,20})\b")

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, where it is not Amazon's, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


class BrokenOffError(StoreError):
    """A request failed that obstore did not try again: an answer that broke off, or one that it takes for unsafe."""


@lru_cache(maxsize=64)
def bucket_of(url: str) -> ObjectStore:
    """Return the open bucket of a URL such as ``s3://bucket``, one a process: it keeps its connections."""
    return _open(url, MOST_RETRIES)


@lru_cache(maxsize=64)
def impatient_bucket_of(url: str) -> ObjectStore:
    """Return a bucket that tries once: for puts with a condition, which may be met by the try before."""
    # What is in memory is in one store.
    return bucket_of(url) if url.startswith("memory:") else _open(url, 0)


def _open(url: str, retries: int) -> ObjectStore:
    scheme, _, name = url.partition("://")
    options: dict[str, Any] = {
        "client_options": {
            "timeout": _LONGEST_REQUEST,
            "read_timeout": _SILENCE,
            # Options that are given hide those of the environment.
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"),
        },
        "retry_config": {
            "max_retries": retries,
            "retry_timeout": _LONGEST_TRIES,
            "backoff": {"init_backoff": _FIRST_WAIT, "max_backoff": _LONGEST_WAIT, "base": 2},
        },
    }
    if scheme == "memory":
        return MemoryStore()
    if is_web(url):
        # Whoever writes http means it; from https nothing leads back to it.
        options["client_options"]["allow_http"] = scheme == "http"
        return HTTPStore.from_url(url, **options)
    try:
        if scheme == "gs":
            return GCSStore(name, **options)
        return AzureStore(name, **options) if scheme == "az" else S3Store(name, **options)
    except (BaseError, OSError, ValueError):
        # A file of credentials that cannot be read, an account without a name.
        raise _no_credentials(url) from None


def _no_credentials(url: str) -> AccessError:
    wanted = _CREDENTIALS.get(url.partition("://")[0], "those of the store")
    return AccessError(
        f"{url}: there are no credentials, or they cannot be read; set {wanted} in the environment of the driver "
        "and of the workers"
    )


@contextmanager
def asked(url: str) -> Iterator[None]:
    """Turn what a store answers about a URL into errors that say what to do, without the answer itself.

    Raises
    ------
    FileNotFoundError
        If there is no such object.
    EOFError
        If the object ends before the bytes that were asked for.
    AccessError
        If there is no such bucket, no right, or no credentials.
    AlreadyExistsError, PreconditionError
        As they come: the caller has set a condition.
    StoreError
        If the store cannot be reached or fails, though it was asked again and again.
    """
    try:
        yield
    except (VqpipeError, MemoryError, AlreadyExistsError, PreconditionError):
        raise
    # Bodies that break off come as other errors than requests do.
    except (BaseError, OSError, ValueError) as error:
        told = _told(url, error)
    else:
        return
    # A chain would carry the store's answer, which may name the access key, into logs.
    raise told from None


def _told(url: str, error: Exception) -> Exception:
    text = str(error)
    code, status, kind = _CODE.search(text), _STATUS.search(text), _KIND.search(text)
    said = ", ".join(found[1].strip() for found in (status, code) if found is not None) or (
        f"connection: {kind[1]}" if kind else type(error).__name__
    )
    scheme = url.partition("://")[0]
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        bucket = bucket_and_key(url)[0]
        return AccessError(
            f"{bucket}: there is no such bucket at the endpoint in use; check its name and the endpoint, or make it"
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object", url)
    if is_web(url):
        return _told_by_web(url, error, said, status[1][:3] if status else "")
    if status is not None and status[1].startswith("416"):
        return EOFError(f"{url}: ends before the bytes that were asked for")
    if _LAST_RESORT.search(text):
        return _no_credentials(url)
    refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
    if refused or (status is not None and status[1][:3] in ("401", "403")):
        return AccessError(
            f"{url}: the object store refuses access ({said}); check that the credentials in the environment of the "
            f"driver and of the workers ({_CREDENTIALS.get(scheme, 'of the store')}) are right and may do this"
        )
    if "BadScheme" in text:
        return AccessError(
            f"{url}: the endpoint is plain http, which anyone on the way can read; use https, or set "
            "AWS_ALLOW_HTTP=true in the environment of the driver and of the workers"
        )
    if isinstance(error, ValueError) and status is None:
        return ValueError(f"{url}: is no name that an object can have")
    kind_of_error = StoreError if _RETRIED.search(text) else BrokenOffError
    return kind_of_error(
        f"{url}: the object store cannot be reached or does not answer ({said}), after {MOST_RETRIES} more tries; "
        "check the endpoint (AWS_ENDPOINT_URL where it is not Amazon's) and the network, then run again: what is done "
        "stays"
    )


def _told_by_web(url: str, error: Exception, said: str, status: str) -> Exception:
    if status == "416":
        return EOFError(f"{url}: ends before the bytes that were asked for")
    if status in ("401", "403"):
        return AccessError(
            f"{url}: the web server refuses access ({said}); only what it gives to everyone is read: check the "
            "address, or copy the data to a folder or an object store"
        )
    if isinstance(error, NotSupportedError):
        return AccessError(
            f"{url}: the web server sends whole files only and no ranges of them, which rows are read by; copy the "
            "file to a folder or an object store, or use a server that answers Range requests"
        )
    if isinstance(error, ValueError) and not status:
        return ValueError(f"{url}: is no name that a file can have")
    kind_of_error = StoreError if _RETRIED.search(str(error)) else BrokenOffError
    return kind_of_error(
        f"{url}: the web server cannot be reached or does not answer ({said}), after {MOST_RETRIES} more tries; check "
        "the address and the network, then run again: what is done stays"
    )
