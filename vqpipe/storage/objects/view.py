"""A view of object stores: what a driver has asked already while it only looks, so that it asks once.

A rerun with nothing to do reads the same few objects for every stage, and each request costs money and tens of
milliseconds. Within `viewing`, listings and small objects are remembered; this process's own writes are seen.
What other processes write is not: whoever lets workers write, or waits for another process, looks without a view.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from vqpipe.urls import split


class Meta(NamedTuple):
    """What a listing says of an object: its bytes, and a text that changes with them."""

    size: int
    etag: str


@dataclass
class Listing:
    """What lies directly under a prefix."""

    folders: set[str] = field(default_factory=set)
    objects: dict[str, Meta] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        """Say whether something of this name is there."""
        return name in self.folders or name in self.objects


@dataclass
class View:
    """What was seen.

    Attributes
    ----------
    contents : dict of str to bytes or None
        By URL; None where there is no such object.
    listings : dict of str to Listing
        By the prefix's URL.
    trees : dict of str to dict of str to Meta
        By the prefix's URL: every object below it, by its path there.
    """

    contents: dict[str, bytes | None] = field(default_factory=dict)
    listings: dict[str, Listing] = field(default_factory=dict)
    trees: dict[str, dict[str, Meta]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget everything."""
        self.contents.clear()
        self.listings.clear()
        self.trees.clear()

    def wrote(self, url: str, meta: Meta, data: bytes | None = None) -> None:
        """Take note of an object that this process has written."""
        self.contents.pop(url, None)
        if data is not None:
            self.contents[url] = data
        self._forget_trees(url)
        folder, name = split(url)
        if folder in self.listings:
            self.listings[folder].objects[name] = meta
        # It may be the first thing in its folder, and that in its own.
        while name and folder not in self.listings:
            folder, name = split(folder)
        if name and folder in self.listings and url != f"{folder}/{name}":
            self.listings[folder].folders.add(name)

    def removed(self, url: str) -> None:
        """Forget an object, or a folder and all in it, and what holds it."""
        for kept in (self.contents, self.listings):
            for known in [known for known in kept if _inside(known, url)]:
                del kept[known]
        self._forget_trees(url)
        folder, name = split(url)
        while name:
            self.listings.pop(folder, None)
            folder, name = split(folder)

    def _forget_trees(self, url: str) -> None:
        for known in [known for known in self.trees if _inside(url, known) or _inside(known, url)]:
            del self.trees[known]


def _inside(url: str, folder: str) -> bool:
    return url == folder or url.startswith(f"{folder}/")


_VIEW: ContextVar[View | None] = ContextVar("view", default=None)


def current_view() -> View | None:
    """Return the view that this thread looks through, if it does."""
    return _VIEW.get()


@contextmanager
def viewing(view: View | None = None) -> Iterator[View]:
    """Look through a view: the one given, else the one in use, else a new one that is dropped at the end."""
    chosen = view or _VIEW.get() or View()
    token = _VIEW.set(chosen)
    try:
        yield chosen
    finally:
        _VIEW.reset(token)


@contextmanager
def looking_anew(view: View) -> Iterator[None]:
    """Look without a view while others may write, and forget what was seen before."""
    view.clear()
    token = _VIEW.set(None)
    try:
        yield
    finally:
        _VIEW.reset(token)
        view.clear()
