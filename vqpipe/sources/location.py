"""Where a source lies: a path, a URL, a pattern or a list of them, made into whole paths."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Sequence

from vqpipe.config import SYNTHETIC_SCHEME
from vqpipe.errors import ConfigError, SourceError
from vqpipe.sources.parquet import ENDINGS
from vqpipe.sources.zarr_tree import is_zarr_folder
from vqpipe.storage.place import place_of
from vqpipe.urls import absolute, bucket_and_key, is_url, is_web, join

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DIGITS = re.compile(r"([0-9]+)")


def find_paths(uri: str | Sequence[str]) -> list[str]:
    """Return the absolute paths, or URLs, that a URI means.

    Parameters
    ----------
    uri : str or sequence of str
        A path or URL, a pattern of them (``*``, ``?``, ``[...]``, ``**``), a name of synthetic
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


def expand_folders(paths: list[str], format: str) -> list[str]:
    """Return the paths, those of folders of Parquet files replaced by the files in and below them, by name.

    Names that begin with a dot or an underscore are passed over: engines leave their marks and checksums there.
    """
    if format not in ("auto", "parquet"):
        return paths
    return [file for path in paths for file in _expand_folder(path, format)]


def _expand_folder(path: str, format: str) -> list[str]:
    ending = os.path.splitext(path)[1].lower()
    # Spark gives folders the ending of files.
    other = format == "auto" and ending and ending not in ENDINGS
    if path.startswith(SYNTHETIC_SCHEME) or other:
        return [path]
    place = place_of(path)
    if not place.is_folder(path) or (format == "auto" and is_zarr_folder(path)):
        return [path]
    found = [
        join(path, name)
        for name, _ in place.walk(path)
        if name.lower().endswith(ENDINGS) and not re.search(r"(^|/)[._]", name)
    ]
    return sorted(found, key=natural_key) or [path]


def _expand(uri: str) -> list[str]:
    if "\0" in uri or not uri:
        raise SourceError(f"source {uri!r}: is no path")
    if uri.startswith(SYNTHETIC_SCHEME):
        return [uri]
    scheme = _SCHEME.match(uri)
    if is_url(uri):
        return _expand_url(uri)
    if scheme is not None:
        return [_absolute(uri)]
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


def _absolute(uri: str) -> str:
    try:
        return absolute(uri)
    except ConfigError as error:
        raise SourceError(f"source {error}") from None


def _expand_url(uri: str) -> list[str]:
    url = _absolute(uri)
    # A host's number may stand in brackets.
    if not glob.has_magic(bucket_and_key(url)[1]):
        return [url]
    if is_web(url):
        raise SourceError(
            f"source {uri}: is a pattern, and a web server lists nothing that could match it; write a list of "
            "addresses (a [ in a name as %5B)"
        )
    bucket, key = bucket_and_key(url)
    found = sorted(find_matches(bucket, key.split("/")), key=natural_key)
    if found:
        return found
    # An object may be named like a pattern.
    if place_of(url).exists(url):
        return [url]
    raise SourceError(
        f"source {uri}: no object matches this pattern; check the bucket and the prefix"
    )


def find_matches(folder: str, pattern: list[str]) -> set[str]:
    """Return what matches a pattern under a prefix, as `glob` matches files: names with a dot in front are hidden.

    Parameters
    ----------
    folder : str
        URL of the prefix.
    pattern : list of str
        One name, or pattern of names, for each level.
    """
    name, rest = pattern[0], pattern[1:]
    if name == "**":
        below = [part for part in place_of(folder).folders(folder) if part[0] != "."]
        deeper = (find_matches(join(folder, part), pattern) for part in below)
        here = find_matches(folder, rest or ["*"])
        return here.union(*deeper)
    if not glob.has_magic(name):
        # Before the first level with a pattern nothing need be asked.
        found = join(folder, name)
        if rest:
            return find_matches(found, rest)
        return {found} if place_of(found).exists(found) else set()
    names = [
        part
        for part in place_of(folder).names(folder)
        if fnmatch.fnmatchcase(part, name) and (part[0] != "." or name[0] == ".")
    ]
    if not rest:
        return {join(folder, part) for part in names}
    return set().union(*(find_matches(join(folder, part), rest) for part in names))


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
