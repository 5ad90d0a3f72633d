"""A bucket as Zarr wants it, with our errors, whole puts and the driver's view."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Self, TypeVar

import obstore
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from vqpipe.storage.objects.bucket import MOST_RETRIES, BrokenOffError, asked, bucket_of
from vqpipe.storage.objects.view import Meta, View, current_view
from vqpipe.urls import bucket_and_key, join, stored_key

# What Zarr reads again for every array that is opened.
_METADATA = "zarr.json"

_Answer = TypeVar("_Answer")


def zarr_store(url: str, *, read_only: bool) -> PrefixStore:
    """Return a store for Zarr whose root is a URL."""
    return PrefixStore(url, read_only=read_only)


class PrefixStore(ObjectStore[Any]):
    """Zarr's store over obstore, of what lies under a prefix.

    Zarr writes a group's metadata into everything above it, up to the store's root: so the root is the group.

    Parameters
    ----------
    root : str
        URL of the prefix.
    read_only : bool
    """

    def __init__(self, root: str, *, read_only: bool = False) -> None:
        super().__init__(bucket_of(bucket_and_key(root)[0]), read_only=read_only)
        self._prefix = stored_key(root)
        self._root = root
        # Zarr asks from a thread of its own, which has no view.
        self._view: View | None = current_view()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the URL alone: who opens it has credentials of his own."""
        return _reopened, (self._root, self.read_only)

    def __eq__(self, other: object) -> bool:
        """Say whether both are of the same prefix."""
        mine = (type(self), self._root, self.read_only)
        return isinstance(other, PrefixStore) and mine == (
            type(other),
            other._root,
            other.read_only,
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self._root

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store of the same prefix."""
        return type(self)(self._root, read_only=read_only)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object's bytes, or a range of them; None where there is none."""
        url = join(self._root, key)
        view = self._view if byte_range is None and key.endswith(_METADATA) else None
        if view is not None and url in view.contents:
            known = view.contents[url]
            return None if known is None else prototype.buffer.from_bytes(known)
        ask, whole = super().get, self._whole(key)
        found = await _persistently(url, lambda: ask(whole, prototype, byte_range))
        if view is not None:
            view.contents[url] = None if found is None else found.to_bytes()
        return found

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return ranges of objects."""
        ask, ranges = super().get_partial_values, [(self._whole(key), at) for key, at in key_ranges]
        return await _persistently(self._root, lambda: ask(prototype, ranges))

    async def exists(self, key: str) -> bool:
        """Say whether there is an object."""
        ask, whole = super().exists, self._whole(key)
        return await _persistently(join(self._root, key), lambda: ask(whole))

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object in one request, which can be sent again, unlike the last of many."""
        self._check_writable()
        url, data = join(self._root, key), value.as_buffer_like()
        found = await _persistently(
            url,
            lambda: obstore.put_async(self.store, self._whole(key), data, use_multipart=False),
        )
        if self._view is not None:
            self._view.wrote(url, Meta(len(value), found["e_tag"] or ""))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object unless there is one."""
        ask, whole, url = super().set_if_not_exists, self._whole(key), join(self._root, key)
        await _persistently(url, lambda: ask(whole, value))
        if self._view is not None:
            self._view.removed(url)

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        ask, whole, url = super().delete, self._whole(key), join(self._root, key)
        await _persistently(url, lambda: ask(whole))
        if self._view is not None:
            self._view.removed(url)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects under a prefix, a thousand a request."""
        self._check_writable()
        url = join(self._root, prefix.rstrip("/"))

        async def ask() -> None:
            metas = await obstore.list(self.store, self._whole(prefix)).collect_async()
            if metas:
                await obstore.delete_async(self.store, [meta["path"] for meta in metas])

        await _persistently(url, ask)
        if self._view is not None:
            self._view.removed(url)

    def list(self) -> AsyncGenerator[str, None]:
        """Yield the keys of all objects."""
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the keys of the objects under a prefix."""
        with asked(self._root):
            async for path in super().list_prefix(self._whole(prefix)):
                yield path[len(self._prefix) + 1 :] if self._prefix else path

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the names directly under a prefix."""
        with asked(self._root):
            async for name in super().list_dir(self._whole(prefix)):
                yield name

    async def getsize(self, key: str) -> int:
        """Return an object's bytes."""
        ask, whole = super().getsize, self._whole(key)
        return await _persistently(join(self._root, key), lambda: ask(whole))

    def _whole(self, key: str) -> str:
        return "/".join(filter(None, (self._prefix, key.rstrip("/"))))


async def _persistently(url: str, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Do what `requests.persistently` does, from Zarr's event loop."""
    for _ in range(MOST_RETRIES):
        with suppress(BrokenOffError), asked(url):
            return await call()
    with asked(url):
        return await call()


def _reopened(root: str, read_only: bool) -> PrefixStore:
    return PrefixStore(root, read_only=read_only)
