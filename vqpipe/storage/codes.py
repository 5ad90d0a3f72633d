"""``codes.zarr``: the codes, and for every shard the record that says it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from vqpipe.dtypes import Codes, Float64, Mask
from vqpipe.shards import Shard, ceil_div, plan_shards
from vqpipe.storage.arrays import (
    divisor_at_most,
    make_floats,
    make_group,
    make_integers,
    make_records,
    open_group,
    with_rows,
    write_array,
)

SIGNATURE_BYTES = 16

# Rows that decode together: a reader of few rows decodes no more than this.
CHUNK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Records:
    """What is known of every shard.

    Attributes
    ----------
    source_signature : uint8 array of shape (shards, 16)
    stored_bytes : int64 array of shape (shards,)
    squared_error : float64 array of shape (shards,)
        Summed over the shard's rows; NaN until the shard is done.
    """

    source_signature: NDArray[np.uint8]
    stored_bytes: NDArray[np.int64]
    squared_error: Float64

    def done(self, index: int, signature: bytes) -> bool:
        """Say whether a shard was written from rows of this signature."""
        return (
            index < len(self.squared_error)
            and not np.isnan(self.squared_error[index])
            and self.source_signature[index].tobytes() == signature
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all records: what follows from the codes follows from this."""
        sha = hashlib.sha256(self.source_signature.tobytes())
        sha.update(self.stored_bytes.astype("<i8").tobytes())
        sha.update(self.squared_error.astype("<f8").tobytes())
        return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class CodeArray:
    """A description of ``codes.zarr``, opened where it is used.

    Attributes
    ----------
    path : str
    rows : int
        Rows that there are to be; more than are stored while a source's new rows are encoded.
    columns : int
    dtype : str
        Of the codes.
    shard_rows : int
    masked : bool
        Whether `valid` is kept.
    store_error : bool
        Whether `sq_error` is kept.
    """

    path: str
    rows: int
    columns: int
    dtype: str
    shard_rows: int
    masked: bool
    store_error: bool

    @property
    def shards(self) -> Iterator[Shard]:
        """All shards, in order."""
        return plan_shards(self.rows, self.shard_rows)

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return ceil_div(self.rows, self.shard_rows)

    def prepare(self, attributes: dict[str, Any]) -> None:
        """Write the metadata once, before any task writes a shard.

        What is there already stays: shards that are done keep their codes and records.
        """
        if find_codes(self.path) is None:
            group = make_group(self.path)
            for name in self._row_arrays():
                self._make(group, name)
            count = self.shard_count
            make_records(group, "shards/source_signature", (count, SIGNATURE_BYTES), "uint8", 0)
            make_records(group, "shards/stored_bytes", (count,), "int64", 0)
            make_records(group, "shards/squared_error", (count,), "float64", np.nan)
            group.attrs.update({**attributes, "shard_rows": self.shard_rows})
            return
        group = open_group(self.path, writable=True)
        if self.masked and "valid" not in group:
            # Shards that were done without a mask held no invalid row, and true is what is not stored.
            self._make(group, "valid")
        for name in ("source_signature", "stored_bytes", "squared_error"):
            records = _array(group, f"shards/{name}")
            if records.shape[0] < self.shard_count:
                records.resize((self.shard_count, *records.shape[1:]))

    def _row_arrays(self) -> list[str]:
        optional = [("valid", self.masked), ("sq_error", self.store_error)]
        return ["codes", *(name for name, wanted in optional if wanted)]

    def _make(self, group: zarr.Group, name: str) -> None:
        chunk = divisor_at_most(self.shard_rows, CHUNK_ROWS)
        if chunk < CHUNK_ROWS // 64:
            chunk = self.shard_rows
        if name == "codes":
            shape = (self.rows, self.columns)
            make_integers(group, name, shape, self.dtype, chunk, self.shard_rows)
        elif name == "valid":
            make_integers(group, name, (self.rows,), "bool", chunk, self.shard_rows, fill_value=1)
        else:
            make_floats(group, name, (self.rows,), "float32", chunk, self.shard_rows)

    def write(
        self,
        shard: Shard,
        codes: Codes,
        valid: Mask,
        sq_error: Float64,
        signature: bytes,
    ) -> int:
        """Write one whole shard, its record last, and return the bytes that its codes take.

        A shard that is written again is first marked not done.
        """
        group = open_group(self.path, writable=True)
        squared_error = _array(group, "shards/squared_error")
        squared_error[shard.index] = np.nan
        rows = slice(shard.start, shard.stop)
        codes_array = with_rows(_array(group, "codes"), self.rows)
        codes_array[rows] = codes
        if self.masked:
            with_rows(_array(group, "valid"), self.rows)[rows] = valid
        if self.store_error:
            with_rows(_array(group, "sq_error"), self.rows)[rows] = sq_error.astype(np.float32)
        stored_bytes = _stored_bytes(codes_array, shard.index)
        _array(group, "shards/source_signature")[shard.index] = np.frombuffer(signature, np.uint8)
        _array(group, "shards/stored_bytes")[shard.index] = stored_bytes
        squared_error[shard.index] = float(sq_error.sum())
        return stored_bytes

    def publish_rows(self) -> None:
        """Store the larger shape, after all new shards are written."""
        group = open_group(self.path, writable=True)
        for name in self._row_arrays():
            array = _array(group, name)
            if array.shape[0] < self.rows:
                array.resize((self.rows, *array.shape[1:]))

    def records(self) -> Records:
        """Return the records of all shards."""
        group = open_group(self.path)
        return Records(
            np.asarray(_array(group, "shards/source_signature")[...]),
            np.asarray(_array(group, "shards/stored_bytes")[...]),
            np.asarray(_array(group, "shards/squared_error")[...]),
        )

    def read(self, shard: Shard) -> tuple[Codes, Mask]:
        """Return the codes of a shard's rows and which of them are valid."""
        group = open_group(self.path)
        codes: Codes = np.asarray(_array(group, "codes")[shard.start : shard.stop])
        return codes, self.read_valid(shard)

    def read_valid(self, shard: Shard) -> Mask:
        """Return which of a shard's rows are valid; where they are masked, its codes are not read."""
        group = open_group(self.path)
        if "valid" not in group:
            return np.ones(shard.rows, dtype=bool)
        return np.asarray(_array(group, "valid")[shard.start : shard.stop])

    def write_use(self, counts: NDArray[np.int64]) -> None:
        """Keep how many rows use each codeword, int64 of shape (columns, k), beside the codes."""
        write_array(open_group(self.path, writable=True), "code_counts", counts)

    def read_use(self) -> NDArray[np.int64]:
        """Return what `write_use` kept."""
        return np.asarray(_array(open_group(self.path), "code_counts")[...])


def find_codes(path: str) -> CodeArray | None:
    """Return the description of the ``codes.zarr`` at a path, or None if there is none."""
    try:
        group = open_group(path)
    except FileNotFoundError:
        return None
    facts: Any = dict(group.attrs)
    if "shard_rows" not in facts:
        return None
    codes = _array(group, "codes")
    return CodeArray(
        path,
        rows=codes.shape[0],
        columns=codes.shape[1],
        dtype=codes.dtype.name,
        shard_rows=facts["shard_rows"],
        masked="valid" in group,
        store_error="sq_error" in group,
    )


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return array


def _stored_bytes(array: zarr.Array[Any], shard_index: int) -> int:
    key = array.metadata.encode_chunk_key((shard_index, 0))
    return int(sync((array.store_path / key).store.getsize(f"{array.path}/{key}")))
