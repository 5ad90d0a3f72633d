"""Single requests to object stores: asked again where that is safe, and once where a view remembers."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import ObjectStore

from vqpipe.errors import StoreError
from vqpipe.storage.objects.bucket import (
    MOST_RETRIES,
    BrokenOffError,
    asked,
    bucket_of,
    impatient_bucket_of,
)
from vqpipe.storage.objects.view import Listing, Meta, current_view
from vqpipe.urls import bucket_and_key, split, stored_key

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult

# A request waits tens of milliseconds for its answer: so many at once keep a core busy with answers.
REQUESTS_AT_ONCE = 32

# What is read or written as a file is kept in memory up to this size, else in a temporary file.
BUFFER_BYTES = 8 << 20

# Above it an object is sent in parts: a request that breaks off sends one part again.
_PART_BYTES = 64 << 20

# What this process read or wrote last of objects that are contended for: to replace one it need not be read again. A
# version that is no longer there is refused by the store.
_VERSIONS: dict[str, tuple[str, bytes]] = {}
_MOST_VERSIONS, _MOST_VERSION_BYTES = 64, 4096

_Answer = TypeVar("_Answer")


def open_key(url: str) -> tuple[ObjectStore, str]:
    """Return the bucket of a URL, open, and the key inside."""
    return bucket_of(bucket_and_key(url)[0]), stored_key(url)


def persistently(url: str, call: Callable[[], _Answer]) -> _Answer:
    """Ask a store for something that can be asked for twice; its errors are said as `asked` says them.

    Beside obstore's own tries, which leave out bodies that break off and requests that it takes for unsafe.
    """
    for _ in range(MOST_RETRIES):
        with suppress(BrokenOffError), asked(url):
            return call()
    with asked(url):
        return call()


def meta_of(found: ObjectMeta) -> Meta:
    """Return what tells an object's state."""
    return Meta(found["size"], found["e_tag"] or found["last_modified"].isoformat())


def list_tree(url: str) -> dict[str, Meta]:
    """Return every object below a prefix, by its path there: one request a thousand."""
    store, key = open_key(url)
    begin = len(key) + 1 if key else 0

    def ask() -> dict[str, Meta]:
        metas = (meta for batch in obstore.list(store, key or None) for meta in batch)
        # Some stores list the prefix itself, as an empty object.
        return {meta["path"][begin:]: meta_of(meta) for meta in metas if meta["path"] != key}

    return persistently(url, ask)


def tree(url: str) -> dict[str, Meta]:
    """Return every object below a prefix, as `list_tree` does, through the view."""
    view = current_view()
    if view is None:
        return list_tree(url)
    if url not in view.trees:
        view.trees[url] = list_tree(url)
    return view.trees[url]


def list_here(url: str) -> Listing:
    """Return what lies directly under a prefix."""
    store, key = open_key(url)
    found = persistently(url, lambda: obstore.list_with_delimiter(store, key or None))
    folders = {prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"]}
    objects = {
        meta["path"].rpartition("/")[2]: meta_of(meta)
        for meta in found["objects"]
        if meta["path"] != key
    }
    return Listing(folders, objects)


def listing(url: str) -> Listing:
    """Return what lies directly under a prefix, through the view."""
    view = current_view()
    if view is None:
        return list_here(url)
    if url not in view.listings:
        view.listings[url] = list_here(url)
    return view.listings[url]


def head(url: str) -> Meta | None:
    """Return what tells an object's state; None where there is none."""
    if current_view() is not None:
        folder, name = split(url)
        return listing(folder).objects.get(name)
    return ask_head(url)


def ask_head(url: str) -> Meta | None:
    """Return what tells an object's state, from the object itself; None where there is none."""
    store, key = open_key(url)
    try:
        return meta_of(persistently(url, lambda: obstore.head(store, key)))
    except FileNotFoundError:
        return None


def get(url: str) -> bytes | None:
    """Return an object's bytes; None where there is none."""
    store, key = open_key(url)
    try:
        return persistently(url, lambda: bytes(obstore.get(store, key).bytes()))
    except FileNotFoundError:
        return None


def recall(url: str) -> bytes | None:
    """Return an object's bytes, through the view."""
    view = current_view()
    if view is None:
        return get(url)
    folder, name = split(url)
    if folder in view.listings and name not in view.listings[folder].objects:
        return None
    if url not in view.contents:
        view.contents[url] = get(url)
    return view.contents[url]


def get_many(urls: Sequence[str]) -> Iterator[bytes | None]:
    """Yield what objects hold, in order, many asked for at once."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        yield from pool.map(get, urls)


def head_many(urls: Sequence[str]) -> Iterator[Meta | None]:
    """Yield what tells objects' states, in order, many asked for at once."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        yield from pool.map(ask_head, urls)


def download(url: str, file: BinaryIO) -> None:
    """Write an object's bytes into an empty file."""
    store, key = open_key(url)
    persistently(url, lambda: _download(store, key, file))
    file.seek(0)


def _download(store: ObjectStore, key: str, file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    file.writelines(obstore.get(store, key).stream())


def upload(url: str, file: BinaryIO) -> None:
    """Write an object, whole, from a file."""
    store, key = open_key(url)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    data = file.read() if size <= _PART_BYTES else None

    def put() -> PutResult:
        if data is not None:
            return obstore.put(store, key, data, use_multipart=False)
        file.seek(0)
        return obstore.put(store, key, file, chunk_size=_PART_BYTES // 4, max_concurrency=4)

    found = persistently(url, put)
    view = current_view()
    if view is not None:
        small = data if size <= BUFFER_BYTES else None
        view.wrote(url, Meta(size, found["e_tag"] or ""), small)


def delete(url: str) -> None:
    """Remove an object, if it is there."""
    store, key = open_key(url)
    # Some stores say so where there is none.
    with suppress(FileNotFoundError):
        persistently(url, lambda: obstore.delete(store, key))
    view = current_view()
    if view is not None:
        view.removed(url)


def read_version(url: str) -> bytes | None:
    """Return an object's bytes, as `get` does, and remember which version they are of."""
    store, key = open_key(url)

    def ask() -> tuple[str | None, bytes]:
        found = obstore.get(store, key)
        return found.meta["e_tag"], bytes(found.bytes())

    try:
        etag, data = persistently(url, ask)
    except FileNotFoundError:
        return None
    _remember(url, etag, data)
    return data


def _remember(url: str, etag: str | None, data: bytes) -> None:
    _VERSIONS.pop(url, None)
    if etag and len(data) <= _MOST_VERSION_BYTES:
        _VERSIONS[url] = etag, data
    while len(_VERSIONS) > _MOST_VERSIONS:
        _VERSIONS.pop(next(iter(_VERSIONS)), None)


def _version_of(url: str, expected: bytes, *, remembered: bool) -> str | None:
    """Return the ETag of an object that holds what is expected; None where something else is there."""
    known = _VERSIONS.get(url) if remembered else None
    if known is None or known[1] != expected:
        known = _VERSIONS.get(url) if read_version(url) == expected else None
    return None if known is None else known[0]


def put_once(url: str, data: bytes, expected: bytes | None) -> bool:
    """Put an object in place of what is expected, or of nothing; say whether this call wrote it.

    A try whose answer was lost may have written it, and then the next is refused: what lies there tells. So data that
    callers contend with must be their own.

    Parameters
    ----------
    url : str
    data : bytes
    expected : bytes or None
    """
    bucket, key = bucket_and_key(url)
    store, in_doubt = impatient_bucket_of(bucket), False
    for tried in range(MOST_RETRIES + 1):
        mode: Any = "create"
        if expected is not None:
            etag = _version_of(url, expected, remembered=not in_doubt)
            if etag is None:
                return in_doubt and get(url) == data
            mode = {"e_tag": etag}
        try:
            with asked(url):
                found = obstore.put(store, key, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return in_doubt and get(url) == data
        except StoreError:
            if tried == MOST_RETRIES:
                raise
            in_doubt = True
            # Spread, so that those who were refused together do not come back together.
            time.sleep(random.uniform(0.05, 0.1) * 2 ** min(tried, 6))  # noqa: S311
        else:
            _remember(url, found["e_tag"], data)
            return True
    return False
