"""The metadata of a Zarr hierarchy, read from a folder, an object store or a zip file by plain reads."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any, Protocol

from vqpipe.errors import SourceError
from vqpipe.sources.flat_file import missing
from vqpipe.sources.part import clean_key, shorten
from vqpipe.sources.zarr_metadata import Layout, parse_v2, parse_v3
from vqpipe.storage.place import place_of
from vqpipe.urls import is_url, is_web, join

# Consolidated metadata of a large hierarchy takes megabytes; more is not metadata.
_MAX_METADATA_BYTES = 64 << 20

METADATA_NAMES = ("zarr.json", ".zarray", ".zgroup")

# A message that lists more arrays than this is not read.
_MOST_LISTED = 10


class Tree(Protocol):
    """Where a hierarchy is stored."""

    def read(self, name: str) -> bytes | None:
        """Return a metadata file's bytes, or None where there is no such file."""

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""


class _FolderTree:
    def __init__(self, path: str) -> None:
        self._path = path
        self._place = place_of(path)

    def read(self, name: str) -> bytes | None:
        path = join(self._path, name)
        try:
            # In an object store a look at the size would be a request of its own; what is not there has none.
            if not is_url(path):
                _check_size(path, self._place.size(path))
            data = self._place.recall(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        _check_size(path, len(data))
        return data

    def folders(self, name: str) -> list[str]:
        # An array behind a link is reached by its key.
        return self._place.folders(join(self._path, name))


class _ZipTree:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = frozenset(archive.namelist())

    def read(self, name: str) -> bytes | None:
        if name not in self._names:
            return None
        with self._archive.open(name) as file:
            return _read_limited(file, self._archive.getinfo(name).file_size)

    def folders(self, name: str) -> list[str]:
        prefix = f"{name}/" if name else ""
        inside = (other[len(prefix) :] for other in self._names if other.startswith(prefix))
        return sorted({rest.split("/")[0] for rest in inside if "/" in rest} - {""})


def is_zarr_folder(path: str) -> bool:
    """Say whether a folder holds Zarr metadata."""
    names = place_of(path).names(path)
    return any(
        name in names and not place_of(path).is_folder(join(path, name)) for name in METADATA_NAMES
    )


def find_array(path: str, key: str | None) -> tuple[str, Layout]:
    """Find the array that is meant and check its metadata.

    Parameters
    ----------
    path : str
        A folder or a zip file.
    key : str or None
        The array, or a group that holds exactly one 2-D array.

    Returns
    -------
    str
        The array's place under ``path``; empty where ``path`` is the array.
    Layout

    Raises
    ------
    SourceError
        If there is no such array, or more than one could be meant, or its metadata is refused.
    """
    place = clean_key(path, key)
    with _open_tree(path) as archive:
        tree: Tree = _FolderTree(path) if archive is None else _ZipTree(archive)
        found = _read_node(tree, place, path)
        if not _is_array(found):
            if found is None and key is not None and _is_array(_read_node(tree, "", path)):
                raise SourceError(
                    f"source {path}: is one Zarr array and holds no array {key!r}: leave out `key`"
                )
            if is_url(path):
                _check_prefix(path)
            place, found = _find_only_array(tree, place, path)
            if is_web(path):
                # What a group says of its arrays is not what zarr would read of them.
                found = _read_node(tree, place, path)
        name, document = found or ("", {})
        where = f"source {path}" + (f", array {place!r}" if place else "")
        parse = parse_v3 if name == "zarr.json" else parse_v2
        return place, parse(document, where)


def _open_tree(path: str) -> AbstractContextManager[zipfile.ZipFile | None]:
    # In an object store the metadata itself is asked for: nothing else tells a folder.
    if is_url(path) or os.path.isdir(path):
        return nullcontext()
    if not os.path.exists(path):
        raise SourceError(f"source {path}: {missing(path, 'folder or file')}")
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise SourceError(
            f"source {path}: is neither a Zarr folder nor a zip file of one; set `format` to what "
            "it is"
        )
    return zipfile.ZipFile(path)


def _check_prefix(path: str) -> None:
    """Say what is wrong with a URL under which no metadata lies, where it is no prefix at all."""
    place = place_of(path)
    if place.is_folder(path):
        return
    if is_web(path):
        raise SourceError(
            f"source {path}: no Zarr metadata ({', '.join(METADATA_NAMES)}) lies under this address; check it, and "
            "that the server gives it to everyone; for a single file set `format`"
        )
    if not place.exists(path):
        raise SourceError(f"source {path}: {missing(path, 'folder or file')}")
    raise SourceError(
        f"source {path}: is one object; a Zarr array in an object store is a prefix with its chunks under it: "
        "unpack a zip file there, or set `format` to what it is"
    )


# The name of a metadata file and what it holds.
_Node = tuple[str, dict[str, Any]]


def _read_node(tree: Tree, place: str, path: str) -> _Node | None:
    """Return the metadata at a place; v3 where both versions lie there."""
    for name in METADATA_NAMES:
        where = f"{place}/{name}" if place else name
        text = tree.read(where)
        if text is None:
            continue
        return name, _parse_json(text, where, path)
    return None


def _parse_json(text: bytes, where: str, path: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"source {path}: {where} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise SourceError(f"source {path}: {where} holds {shorten(document)}, no metadata")
    return document


def _is_array(node: _Node | None) -> bool:
    return node is not None and (
        node[0] == ".zarray" or (node[0] == "zarr.json" and node[1].get("node_type") == "array")
    )


def _find_only_array(tree: Tree, place: str, path: str) -> tuple[str, _Node]:
    walk = _listed_arrays if is_web(path) else _walk_arrays
    arrays = dict(walk(tree, place, path))
    tables = [name for name, node in arrays.items() if _axes(node) == 2]
    if len(tables) == 1:
        return tables[0], arrays[tables[0]]
    group = f"source {path}" + (f", group {place!r}" if place else "")
    if not arrays:
        raise SourceError(
            f"{group}: holds no Zarr array (no folder with .zarray or zarr.json); check the path "
            "and `key`"
        )
    listed = [f"{name} {shorten(node[1].get('shape'))}" for name, node in sorted(arrays.items())]
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    raise SourceError(
        f"{group}: is a group with {len(tables)} 2-D arrays, so one must be named: set `key`. "
        f"It holds {', '.join(listed[:_MOST_LISTED])}{more}"
    )


def _walk_arrays(tree: Tree, place: str, path: str) -> Iterator[tuple[str, _Node]]:
    """Yield the arrays under a group, without entering arrays: they may have millions of chunks."""
    waiting = [place]
    while waiting:
        group = waiting.pop()
        try:
            names = tree.folders(group)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            inner = f"{group}/{name}" if group else name
            node = _read_node(tree, inner, path)
            if node is not None and _is_array(node):
                yield inner, node
            else:
                waiting.append(inner)


def _listed_arrays(tree: Tree, place: str, path: str) -> Iterator[tuple[str, _Node]]:
    """Yield the arrays under a group that the root's consolidated metadata names: a web server lists nothing."""
    root = _read_node(tree, "", path)
    listed: object = None
    if root is not None and root[0] == "zarr.json":
        listed = root[1].get("consolidated_metadata")
    elif (text := tree.read(".zmetadata")) is not None:
        listed = _parse_json(text, ".zmetadata", path)
    nodes = listed.get("metadata") if isinstance(listed, dict) else None
    if not isinstance(nodes, dict):
        raise SourceError(
            f"source {path}: is a group, and a web server does not list what is in it: set `key` to an array's place, "
            "or write consolidated metadata (zarr.consolidate_metadata)"
        )
    for name, document in nodes.items():
        v2 = name.endswith("/.zarray")
        inner = clean_key(path, name.removesuffix("/.zarray"))
        node = (".zarray" if v2 else "zarr.json", document)
        if (
            isinstance(document, dict)
            and _is_array(node)
            and f"{inner}/".startswith(f"{place}/" if place else "")
        ):
            yield inner, node


def _axes(node: _Node) -> int:
    shape = node[1].get("shape")
    return len(shape) if isinstance(shape, list) else 0


def _check_size(path: str, size: int) -> None:
    if size > _MAX_METADATA_BYTES:
        raise SourceError(
            f"{path}: has {size} bytes; Zarr metadata has at most {_MAX_METADATA_BYTES}: the "
            "file is damaged"
        )


def _read_limited(file: IO[bytes], size: int) -> bytes:
    _check_size(file.name, size)
    # What a zip file claims as the size need not be what it unpacks to.
    return file.read(size)
