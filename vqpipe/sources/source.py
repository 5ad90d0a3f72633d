"""Opening a source: find its files, check each by its header, join them along rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.sources.array import VectorArray
from vqpipe.sources.formats import CONVERTED, FORMATS, check_format, format_of, must_convert
from vqpipe.sources.location import expand_folders, find_paths
from vqpipe.sources.mixture import lasting_uri
from vqpipe.sources.part import Part, check_shape, wrapped_errors
from vqpipe.storage.place import place_of
from vqpipe.urls import is_url


class Description(NamedTuple):
    """What was found in an object that holds one array: format, size and ETag, shape, dtype and key."""

    name: str
    size: int
    etag: str
    rows: int
    dim: int
    dtype: str
    key: str


VECTOR_DTYPES = ("float32", "float16", "uint8", "int8")


def open_source(
    uri: str | Sequence[str],
    format: str = "auto",
    key: str | None = None,
    rows: int | None = None,
    known: Sequence[str] = (),
    described: Mapping[str, Description] | None = None,
    ids: str | None = None,
) -> VectorArray:
    """Describe the vectors at a URI. Reads headers and sizes only.

    Parameters
    ----------
    uri : str or sequence of str
        A path, a pattern, a ``file://`` URL, a name of synthetic vectors
        (``synthetic:mixture?rows=1e9&dim=96&seed=0``), a folder of Parquet files, or a list of them, joined along
        rows in this order; the matches of a pattern, and files of a folder, by name, numbers in it by value.
    format : str
        ``auto`` goes by each name's ending, or by ``synthetic:`` at its beginning.
    key : str, optional
        Array inside a Zarr group, HDF5 or npz file, or column of Parquet files.
    rows : int, optional
        Only the first so many rows.
    known : sequence of str, optional
        Paths whose order is fixed already, since their rows have numbers: they come first, and new files
        after them, whatever their names.
    described : mapping of str to Description, optional
        What was found in objects before, by URL: those that have not changed since are not read again.
    ids : str, optional
        The column of each row's id, to be carried along.

    Returns
    -------
    VectorArray
        float32, float16, uint8 or int8, of shape (rows, dim).

    Raises
    ------
    SourceError
        If anything is missing, damaged, or does not fit together.
    """
    source = _cut(_join(uri, format, key, _check_vectors, known, described or {}), rows)
    return source if ids is None else replace(source, ids=ids, ids_dtype=_find_ids(source, ids))


def open_table(
    uri: str | Sequence[str], format: str = "auto", key: str | None = None
) -> VectorArray:
    """Describe a table of row numbers, such as the nearest rows of each query.

    Parameters
    ----------
    uri, format, key
        As for `open_source`.

    Returns
    -------
    VectorArray
        Of any integer dtype, of shape (rows, columns).

    Raises
    ------
    SourceError
        As `open_source` does, and for a table of floats.
    """
    return _join(uri, format, key, _check_numbers)


def _join(
    uri: str | Sequence[str],
    format: str,
    key: str | None,
    check: Callable[[Part], None],
    known: Sequence[str] = (),
    described: Mapping[str, Description] | None = None,
) -> VectorArray:
    check_format(format)
    paths = _keep_order(expand_folders(find_paths(uri), format), known)
    parts = [_describe(path, format, key, (described or {}).get(path)) for path in paths]
    for part in parts:
        check(part)
        _check_alike(parts[0], part)
    formats = {part.format for part in parts}
    return VectorArray(
        uri=lasting_uri(uri) if isinstance(uri, str) else tuple(map(lasting_uri, uri)),
        format=formats.pop() if len(formats) == 1 else "mixed",
        key=key,
        parts=tuple(parts),
        rows=sum(part.rows for part in parts),
        dim=parts[0].dim,
        dtype=str(parts[0].native_dtype),
    )


def _find_ids(source: VectorArray, ids: str) -> str:
    """Return the dtype of a column of ids, which all parts must have."""
    found: dict[str, str] = {}
    for part in source.parts:
        if not must_convert(part):
            raise SourceError(
                f"source.ids {ids!r}: ids are a column beside the vectors, which parquet files have; "
                f"{part.path} is of format {part.format}: leave out source.ids, as row numbers there are the file's own"
            )
        with wrapped_errors(f"{part}: its ids cannot be found"):
            found.setdefault(CONVERTED[part.format].ids_dtype(part, ids), part.path)
    if len(found) > 1:
        named = " and ".join(f"{dtype} in {path}" for dtype, path in found.items())
        raise SourceError(
            f"source.ids {ids!r}: is {named}; all files must have ids of one type: cast them"
        )
    return next(iter(found))


def describe_objects(source: VectorArray) -> dict[str, list[Any]]:
    """Return the descriptions of a source's objects that hold one array each, plain enough for JSON."""
    found: dict[str, list[Any]] = {}
    for part in source.parts:
        if is_url(part.path) and FORMATS[part.format].is_shared(part):
            state = place_of(part.path).stamp(part.path)
            found[part.path] = [
                part.format,
                *state,
                part.rows,
                part.dim,
                part.dtype,
                part.key or "",
            ]
    return found


def parse_descriptions(plain: object) -> dict[str, Description]:
    """Return what `describe_objects` wrote; what is anything else is left out, and read from the objects."""
    found: dict[str, Description] = {}
    for path, values in plain.items() if isinstance(plain, dict) else ():
        kinds = [type(value) for value in values] if isinstance(values, list) else []
        if kinds == [str, int, str, int, int, str, str]:
            # What was tampered with is read anew.
            with suppress(SourceError, TypeError):
                check_shape((values[3], values[4]), np.dtype(values[5]), path)
                found[path] = Description(*values)
    return found


def _keep_order(paths: list[str], known: Sequence[str]) -> list[str]:
    """Return the known ones among the paths in their old order, then the new ones."""
    new = Counter(paths)
    old = []
    for path in known:
        if new[path]:
            new[path] -= 1
            old.append(path)
    # Of a file that is named more often than before, the last places are the new ones.
    added = []
    for path in reversed(paths):
        if new[path]:
            new[path] -= 1
            added.append(path)
    return [*old, *reversed(added)]


def _describe(path: str, format: str, key: str | None, before: Description | None) -> Part:
    name = format_of(path) if format == "auto" else format
    with wrapped_errors(f"source {path}: cannot be opened as {name}"):
        same = before is not None and before.name == name and key in (None, before.key)
        if before is not None and same and is_url(path):
            size, etag = place_of(path).stamp(path)
            if (size, etag) == (before.size, before.etag):
                return Part(
                    name, path, before.key or None, before.rows, before.dim, before.dtype, 1, 1
                )
        return FORMATS[name].describe(path, name, key)


def _check_vectors(part: Part) -> None:
    name = str(part.native_dtype)
    if name not in VECTOR_DTYPES:
        advice = (
            "an ivecs file holds row numbers, the truth of queries, not vectors"
            if part.format == "ivecs"
            else "convert it to float32, as numpy's astype does: more digits change no code"
        )
        raise SourceError(
            f"{part}: its dtype is {name}; vectors are {', '.join(VECTOR_DTYPES)}: {advice}"
        )


def _check_numbers(part: Part) -> None:
    if not np.issubdtype(part.native_dtype, np.integer):
        raise SourceError(
            f"{part}: its dtype is {part.native_dtype}, but row numbers are integers; is this a "
            "file of vectors or distances?"
        )


def _check_alike(first: Part, other: Part) -> None:
    if (first.dim, first.native_dtype) != (other.dim, other.native_dtype):
        raise SourceError(
            f"{other}: has dim {other.dim} of {other.native_dtype}, but {first} has dim "
            f"{first.dim} of {first.native_dtype}; all files of a source must have one dim and one "
            "dtype: convert them or leave some out"
        )


def _cut(source: VectorArray, rows: int | None) -> VectorArray:
    if rows is None:
        return source
    if not 1 <= rows <= source.rows:
        raise SourceError(
            f"source {source.uri}: rows {rows} were asked for, but it has {source.rows}; ask for "
            f"1 to {source.rows}, or leave out `rows` to take all"
        )
    ends = np.cumsum([part.rows for part in source.parts])
    needed = int(np.searchsorted(ends, rows)) + 1
    return VectorArray(
        uri=source.uri,
        format=source.format,
        key=source.key,
        parts=source.parts[:needed],
        rows=rows,
        dim=source.dim,
        dtype=source.dtype,
    )
