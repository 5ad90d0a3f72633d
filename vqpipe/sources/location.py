"""Where a source lies: a path, a pattern, a file URL or a list of them, made into paths."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from vqpipe.config import SYNTHETIC_SCHEME
from vqpipe.errors import SourceError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DIGITS = re.compile(r"([0-9]+)")


def find_paths(uri: str | Sequence[str]) -> list[str]:
    """Return the absolute paths that a URI means.

    Parameters
    ----------
    uri : str or sequence of str
        A path, a pattern (``*``, ``?``, ``[...]``, ``**``), a ``file://`` URL, a name of synthetic
        vectors, or several of them.

    Returns
    -------
    list of str
        In the given order; the matches of a pattern by name, numbers in it by value. Synthetic vectors
        lie nowhere: their name stands for them.

    Raises
    ------
    SourceError
        For another scheme, a pattern without a match, an empty list.
    """
    uris = [uri] if isinstance(uri, str) else list(uri)
    if not uris:
        raise SourceError("source: the list of URIs is empty; name at least one file")
    return [path for one in uris for path in _expand(one)]


def _expand(uri: str) -> list[str]:
    if "\0" in uri or not uri:
        raise SourceError(f"source {uri!r}: is no path")
    if uri.startswith(SYNTHETIC_SCHEME):
        return [uri]
    scheme = _SCHEME.match(uri)
    if scheme is not None:
        return [_file_url_path(uri, scheme[1].lower())]
    path = os.path.abspath(os.path.expanduser(uri))
    # A file may be named like a pattern.
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True), key=natural_key)
    if not found:
        raise SourceError(
            f"source {uri}: no file matches this pattern; check the folder, and that this machine "
            "mounts it"
        )
    return found


def _file_url_path(uri: str, scheme: str) -> str:
    if scheme != "file":
        raise SourceError(
            f"source {uri}: object stores ({scheme}://) are not built yet; copy the files to a "
            "path that all workers can open"
        )
    url = urlsplit(uri)
    if url.netloc not in ("", "localhost"):
        raise SourceError(
            f"source {uri}: names the host {url.netloc!r}; a file URL has three slashes: "
            "file:///folder/file"
        )
    return os.path.abspath(unquote(url.path))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key under which ``part2`` comes before ``part10``.

    Examples
    --------
    >>> sorted(["b10", "b9", "a"], key=natural_key)
    ['a', 'b9', 'b10']
    """
    pieces = _DIGITS.split(name)
    ranks = [(int(piece), "") if index % 2 else (0, piece) for index, piece in enumerate(pieces)]
    # The whole name tells "1" from "01".
    return ranks, name
