"""What a Zarr array's metadata may say, checked before any Zarr library sees it.

Zarr runs the codecs that the metadata names. Some of them run code that the data holds (``pickle``;
up to numcodecs 0.16.5 a crafted array ran a shell command on its first read), so only codecs that
turn numbers into numbers and bytes into bytes are let through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.shards import ceil_div
from vqpipe.sources.part import MAX_BYTES, check_shape, parse_dtype, shorten

COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
FILTERS = frozenset(
    {
        "adler32",
        "bitround",
        "crc32",
        "crc32c",
        "delta",
        "fixedscaleoffset",
        "fletcher32",
        "quantize",
        "shuffle",
    }
)
SHARDING = "sharding_indexed"

# Of a crc32c behind a chunk, or behind the index of a shard.
CHECKSUM_BYTES = 4

# The index of a shard takes 16 bytes a chunk, twice over while it is read.
MOST_SHARD_CHUNKS = 1 << 22
V3_CODECS = frozenset(
    {"blosc", "bytes", "crc32c", "gzip", "transpose", "zstd", SHARDING}
    | {f"numcodecs.{name}" for name in COMPRESSORS | FILTERS}
)

# Zarr v3 spells dtypes out.
_V3_DTYPES = {
    f"{kind}{8 * size}": f"<{letter}{size}"
    for kind, letter, sizes in (
        ("int", "i", (1, 2, 4, 8)),
        ("uint", "u", (1, 2, 4, 8)),
        ("float", "f", (2, 4, 8)),
    )
    for size in sizes
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a 2-D Zarr array lies in its store.

    Attributes
    ----------
    zarr_format : int
        2 or 3.
    shape : tuple of int
        Rows and dim.
    dtype : numpy.dtype
        As stored.
    unit : tuple of int
        Rows and columns of one stored object: a shard, or else a chunk.
    chunk : tuple of int
        Rows and columns that decode together.
    prefix, separator : str
        Of the stored objects' names.
    document : dict
        The metadata that was checked: what is stored may be another by the next read.
    sharded : bool
        Whether the chunks of a stored object are found by an index behind them.
    plain : str
        ``bare`` where a stored chunk is its rows as they are in memory, ``checked`` where a crc32c is behind
        them; empty where it is anything else.
    """

    zarr_format: Literal[2, 3]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    unit: tuple[int, int]
    chunk: tuple[int, int]
    prefix: str
    separator: str
    document: dict[str, Any] = field(repr=False, compare=False)
    sharded: bool = False
    plain: Literal["", "bare", "checked"] = ""

    def object_names(self, start: int, stop: int) -> Iterator[str]:
        """Yield the names, under the array, of the objects that hold rows ``start:stop``."""
        for row in range(start // self.unit[0], ceil_div(stop, self.unit[0])):
            for column in range(ceil_div(self.shape[1], self.unit[1])):
                yield f"{self.prefix}{row}{self.separator}{column}"


def parse_v2(document: dict[str, Any], where: str) -> Layout:
    """Check the content of a ``.zarray`` file.

    Raises
    ------
    SourceError
        For a codec outside the allow-list, a dtype that is no number, an impossible shape.
    """
    filters = document.get("filters") or []
    if not isinstance(filters, list):
        raise _bad(where, "filters", filters)
    for filter_ in filters:
        _check_codec(filter_, "id", FILTERS | COMPRESSORS, where)
    if document.get("compressor") is not None:
        _check_codec(document["compressor"], "id", COMPRESSORS, where)
    dtype = parse_dtype(document.get("dtype"), where)
    shape = check_shape(_counts(document, "shape", where), dtype, where)
    chunk = _chunk_shape(document, "chunks", dtype, where)
    separator = document.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise _bad(where, "dimension_separator", separator)
    as_it_is = not filters and document.get("compressor") is None and document.get("order") == "C"
    plain = _plain([("bytes", {"endian": "little"})] if as_it_is else [], shape, chunk, dtype)
    return Layout(2, shape, dtype, chunk, chunk, "", separator, document, plain=plain)


def parse_v3(document: dict[str, Any], where: str) -> Layout:
    """Check the content of an array's ``zarr.json`` file.

    Raises
    ------
    SourceError
        For a codec outside the allow-list, a dtype that is no number, an impossible shape.
    """
    codecs = _codecs(document, "codecs", where)
    if document.get("storage_transformers"):
        raise _bad(where, "storage_transformers", document["storage_transformers"])
    data_type = document.get("data_type")
    named = _V3_DTYPES.get(data_type) if isinstance(data_type, str) else None
    dtype = parse_dtype(named or {"data_type": data_type}, where)
    shape = check_shape(_counts(document, "shape", where), dtype, where)
    name, grid = _extension(document, "chunk_grid", where)
    if name != "regular":
        raise _bad(where, "chunk_grid", document["chunk_grid"])
    unit = _chunk_shape(grid, "chunk_shape", dtype, where)
    chunk = unit
    # Only bare shards are decoded chunk by chunk: with a codec around them the whole shard is.
    sharded = len(codecs) == 1 and codecs[0][0] == SHARDING
    inside = codecs
    if sharded:
        chunk = _chunk_shape(codecs[0][1], "chunk_shape", dtype, where)
        inside = _codecs(codecs[0][1], "codecs", where) if _usual_index(codecs[0][1], where) else []
    _check_shards(codecs, unit, where)
    prefix, separator = _chunk_keys(document, where)
    plain = _plain(inside, shape, chunk, dtype) if not unit[0] % chunk[0] else ""
    return Layout(3, shape, dtype, unit, chunk, prefix, separator, document, sharded, plain)


def _plain(
    codecs: list[tuple[str, dict[str, Any]]],
    shape: tuple[int, int],
    chunk: tuple[int, int],
    dtype: np.dtype[Any],
) -> Literal["", "bare", "checked"]:
    """Say whether chunks are stored as whole rows, as they are in memory, and with a checksum."""
    names = [name for name, _ in codecs]
    if chunk[1] != shape[1] or names not in (["bytes"], ["bytes", "crc32c"]):
        return ""
    if dtype.itemsize > 1 and codecs[0][1].get("endian") != "little":
        return ""
    # Version 2 has it in the dtype; and the machine may be a big-endian one.
    if dtype != dtype.newbyteorder("=") or dtype.newbyteorder("<") != dtype:
        return ""
    return "bare" if len(names) == 1 else "checked"


def _usual_index(configuration: dict[str, Any], where: str) -> bool:
    """Say whether a shard's index is behind its chunks, with a checksum, as zarr and others write it."""
    if "index_codecs" not in configuration or configuration.get("index_location", "end") != "end":
        return False
    found = _codecs(configuration, "index_codecs", where)
    return found == [("bytes", {"endian": "little"}), ("crc32c", {})]


def _check_shards(
    codecs: list[tuple[str, dict[str, Any]]], outer: tuple[int, ...], where: str
) -> None:
    """Refuse more chunks in a shard than an index of them may take: Zarr holds it before it reads any."""
    for name, configuration in codecs:
        if name != SHARDING:
            continue
        inner = _counts(configuration, "chunk_shape", where)
        if len(inner) != len(outer) or min(inner) < 1:
            raise _bad(where, "chunk_shape", inner)
        chunks = math.prod(ceil_div(more, less) for more, less in zip(outer, inner, strict=True))
        if chunks > MOST_SHARD_CHUNKS:
            raise SourceError(
                f"{where}: has {chunks} chunks in a shard, and at most {MOST_SHARD_CHUNKS} can be indexed; the "
                "metadata is damaged, or write the array again with larger chunks"
            )
        _check_shards(_codecs(configuration, "codecs", where), inner, where)


def _chunk_keys(document: dict[str, Any], where: str) -> tuple[str, str]:
    name, configuration = _extension(document, "chunk_key_encoding", where)
    separator = configuration.get("separator", "/" if name == "default" else ".")
    if name not in ("default", "v2") or separator not in (".", "/"):
        raise _bad(where, "chunk_key_encoding", document["chunk_key_encoding"])
    return (f"c{separator}" if name == "default" else ""), separator


def _codecs(holder: dict[str, Any], field: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Check a list of v3 codecs, and those inside a sharding codec; return names and settings."""
    codecs = holder.get(field)
    if not isinstance(codecs, list):
        raise _bad(where, field, codecs)
    found = []
    for codec in codecs:
        # The 3.1 specification lets a codec without settings be its bare name.
        settings: Any = {"name": codec} if isinstance(codec, str) else codec
        name = _check_codec(settings, "name", V3_CODECS, where)
        configuration = settings.get("configuration", {})
        # numcodecs would go by this one instead of the name.
        if "id" in configuration:
            raise _bad(where, f"codec {name}", settings)
        if name == SHARDING:
            _codecs(configuration, "codecs", where)
            if "index_codecs" in configuration:
                _codecs(configuration, "index_codecs", where)
        found.append((name, configuration))
    return found


def _check_codec(codec: object, field: str, allowed: frozenset[str], where: str) -> str:
    name = codec.get(field) if isinstance(codec, dict) else None
    if not isinstance(codec, dict) or not isinstance(name, str):
        raise _bad(where, "codec", codec)
    if name not in allowed:
        raise SourceError(
            f"{where}: uses the codec {shorten(name)}; reading it could run code that the file "
            f"holds, or needs a library that is not here. Write the array again with one of "
            f"{', '.join(sorted(allowed))}"
        )
    settings = codec.get("configuration", {})
    if not isinstance(settings, dict):
        raise _bad(where, f"the settings of codec {name}", settings)
    for key, value in (codec | settings).items():
        if key.endswith(("dtype", "astype")) and value is not None:
            parse_dtype(_V3_DTYPES.get(value, value) if isinstance(value, str) else value, where)
    return name


def _extension(document: dict[str, Any], field: str, where: str) -> tuple[str, dict[str, Any]]:
    """Return name and configuration of a v3 extension point, which may be a bare name."""
    value = document.get(field)
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _bad(where, field, value)
    configuration = value.get("configuration", {})
    if not isinstance(configuration, dict):
        raise _bad(where, field, value)
    return value["name"], configuration


def _chunk_shape(
    holder: dict[str, Any], field: str, dtype: np.dtype[Any], where: str
) -> tuple[int, int]:
    counts = _counts(holder, field, where)
    if len(counts) != 2 or min(counts) < 1 or counts[0] * counts[1] * dtype.itemsize > MAX_BYTES:
        raise _bad(where, field, counts)
    return counts[0], counts[1]


def _counts(holder: dict[str, Any], field: str, where: str) -> tuple[int, ...]:
    counts = holder.get(field)
    # JSON's true is an int to Python.
    if not isinstance(counts, list) or any(type(count) is not int for count in counts):
        raise _bad(where, field, counts)
    return tuple(counts)


def _bad(where: str, field: str, value: object) -> SourceError:
    return SourceError(
        f"{where}: its Zarr metadata gives {field} as {shorten(value)}, which is invalid or not "
        "known here; write the array again"
    )
