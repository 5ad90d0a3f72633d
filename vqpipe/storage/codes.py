"""``codes.zarr``: the codes, and for every shard the record that says it is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from vqpipe.dtypes import Codes, Float64, Mask
from vqpipe.shards import Shard, ceil_div, plan_shards
from vqpipe.storage.arrays import (
    array_in,
    divisor_at_most,
    found_whole,
    make_floats,
    make_group,
    make_integers,
    open_group,
    with_rows,
    write_shards,
)
from vqpipe.storage.code_ids import extend_id_records, make_id_records, write_code_ids
from vqpipe.storage.ids import Ids, chunk_rows_in, dtype_of, make_ids
from vqpipe.storage.place import place_of
from vqpipe.storage.records import (
    MOST_SHARDS,
    RECORD_ARRAYS,
    Origin,
    Records,
    create_records,
    extend_records,
    read_records,
    record_array,
)
from vqpipe.storage.summary import drop_summary, read_summary
from vqpipe.urls import join

# What decodes together: a reader of few rows decodes no more than this. In chunks of a few 10 KB the block that
# Blosc leaves unshuffled at the end cost up to 19% of the codes' bits; in these it costs under half a percent.
CHUNK_BYTES = 1 << 20


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
    ids : str or None
        Dtype of `ids`, where they are kept: numpy's name of an integer, or ``string``.
    """

    path: str
    rows: int
    columns: int
    dtype: str
    shard_rows: int
    masked: bool
    store_error: bool
    ids: str | None = None

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

        What is there already stays: shards that are done keep their codes and records. Codes of another
        codebook do not: they would say other vectors.
        """
        there = find_codes(self.path)
        if there is None or self.codebook_digest() != attributes.get("codebook_digest"):
            group = make_group(self.path)
            for name in self._row_arrays():
                self._make(group, name)
            create_records(group, self.shard_count)
            if self.ids is not None:
                make_id_records(group, self.shard_count)
            group.attrs.update({**attributes, "shard_rows": self.shard_rows})
            return
        group = open_group(self.path, writable=True)
        if self.masked and "valid" not in group:
            # Shards that were done without a mask held no invalid row, and true is what is not stored.
            self._make(group, "valid")
        extend_records(group, self.shard_count)
        if self.ids is not None:
            extend_id_records(group, self.shard_count)

    def _row_arrays(self) -> list[str]:
        optional = [
            ("valid", self.masked),
            ("sq_error", self.store_error),
            ("ids", self.ids is not None),
        ]
        return ["codes", *(name for name, wanted in optional if wanted)]

    def _make(self, group: zarr.Group, name: str) -> None:
        most = max(1, CHUNK_BYTES // (self.columns * np.dtype(self.dtype).itemsize))
        chunk = divisor_at_most(self.shard_rows, most)
        if chunk < most // 64:
            chunk = self.shard_rows
        if name == "codes":
            shape = (self.rows, self.columns)
            make_integers(group, name, shape, self.dtype, chunk, self.shard_rows)
        elif name == "ids" and self.ids is not None:
            make_ids(group, name, self.rows, self.ids, chunk_rows_in(self.shard_rows))
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
        origin: Origin,
        ids: Iterable[tuple[int, Ids]] = (),
    ) -> int:
        """Write one whole shard, its record last, and return the bytes that its codes take.

        A shard that is written again is first marked not done. Ids come in pieces, each with its first row.
        """
        group = open_group(self.path, writable=True)
        squared_error = record_array(group, "squared_error")
        squared_error[shard.index] = np.nan
        row_values = {"codes": codes, "valid": valid, "sq_error": sq_error.astype(np.float32)}
        for name in self._row_arrays():
            if name in row_values:
                array = with_rows(array_in(group, name), self.rows)
                write_shards(array, shard.start, shard.stop, row_values[name])
        if self.ids is not None:
            write_code_ids(group, self.rows, shard.index, ids)
        stored_bytes = self.stored_size(shard.index)
        for name, value in (
            ("source_signature", np.frombuffer(origin.signature, np.uint8)),
            ("source_stamp", np.frombuffer(origin.stamp, np.uint8)),
            ("stored_bytes", stored_bytes),
        ):
            record_array(group, name)[shard.index] = value
        squared_error[shard.index] = float(sq_error.sum())
        return stored_bytes

    def write_stamp(self, index: int, stamp: bytes) -> None:
        """Record that the objects behind a shard hold the rows that it was made from, as they are now."""
        group = open_group(self.path, writable=True)
        record_array(group, "source_stamp")[index] = np.frombuffer(stamp, np.uint8)

    def publish_rows(self) -> None:
        """Store the larger shape, after all new shards are written; that of the codes last."""
        group = open_group(self.path, writable=True)
        for name in reversed(self._row_arrays()):
            array = array_in(group, name)
            if array.shape[0] < self.rows:
                array.resize((self.rows, *array.shape[1:]))

    def codebook_digest(self) -> str | None:
        """Return the digest of the codebook that the codes are of, as it is marked."""
        found = open_group(self.path).attrs.get("codebook_digest")
        return None if found is None else str(found)

    def unlike_written(self, attributes: dict[str, Any]) -> str:
        """Say what in the metadata is not what `prepare` writes for these attributes; empty if all is.

        Zarr takes the metadata at its word: a fill value or an attribute that was damaged gives other codes,
        or none, without an error.
        """
        with found_whole(self.path):
            stored, wanted = open_group(self.path), make_group(MemoryStore())
            marked = {**attributes, "shard_rows": self.shard_rows}
            for name, value in marked.items():
                if stored.attrs.get(name) != value:
                    return f"{name} is {stored.attrs.get(name)!r}, {value!r} was written"
            for name in self._row_arrays():
                self._make(wanted, name)
            create_records(wanted, self.shard_count)
            for name in [*self._row_arrays(), *RECORD_ARRAYS]:
                found, written = (
                    array_in(group, name).metadata.to_dict() for group in (stored, wanted)
                )
                if found.get("dimension_names") is None:
                    # Written before axes had names, which nothing here goes by.
                    written.pop("dimension_names", None)
                for key in written:
                    # Records may be there for rows that are not published yet.
                    if key != "shape" and repr(found.get(key)) != repr(written[key]):
                        return f"{name}: {key} is {found.get(key)!r}, {written[key]!r} was written"
        return ""

    def records(self) -> Records:
        """Return the records of all shards: from their summary, where there is one."""
        return read_summary(self.path) or self.stored_records()

    def stored_records(self) -> Records:
        """Return the records of all shards as they are stored with each."""
        with found_whole(f"{self.path}: the records"):
            return read_records(self.path, open_group(self.path))

    def stored_sizes(self) -> NDArray[np.int64]:
        """Return the bytes that each shard's codes take now, int64 of shape (shards,); -1 for none."""
        names = (f"{index}/0" for index in range(self.shard_count))
        folder = join(self.path, "codes", "c")
        stamps = place_of(folder).stamps(folder, names)
        return np.array([-1 if stamp is None else stamp[0] for stamp in stamps], dtype=np.int64)

    def stored_size(self, index: int) -> int:
        """Return the bytes that a shard's codes take now; -1 where there are none."""
        try:
            path = _shard_path(self.path, "codes", index)
            return place_of(path).size(path)
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def read(self, shard: Shard) -> tuple[Codes, Mask]:
        """Return the codes of a shard's rows and which of them are valid."""
        with found_whole(f"{self.path}: {_named(shard, self.shard_rows)}"):
            group = open_group(self.path)
            codes: Codes = np.asarray(array_in(group, "codes")[shard.start : shard.stop])
        return codes, self.read_valid(shard)

    def read_valid(self, shard: Shard) -> Mask:
        """Return which of a shard's rows are valid; where they are masked, its codes are not read."""
        with found_whole(f"{self.path}: {_named(shard, self.shard_rows)}"):
            group = open_group(self.path) if self.masked else None
            if group is None or "valid" not in group:
                return np.ones(shard.rows, dtype=bool)
            return np.asarray(array_in(group, "valid")[shard.start : shard.stop])

    def read_errors(self, shard: Shard) -> Float64 | None:
        """Return the squared errors of a shard's rows, where they are kept."""
        if not self.store_error:
            return None
        with found_whole(f"{self.path}: sq_error of rows {shard.start:,} to {shard.stop:,}"):
            group = open_group(self.path)
            return np.asarray(array_in(group, "sq_error")[shard.start : shard.stop], np.float64)

    def has_shard(self, name: str, index: int) -> bool:
        """Say whether a shard of ``codes``, ``valid`` or ``sq_error`` is stored."""
        path = _shard_path(self.path, name, index)
        return place_of(path).exists(path)

    def forget(self, indexes: Iterable[int]) -> None:
        """Set shards pending: their codes stay, but no record says that they are there."""
        drop_summary(self.path)
        with found_whole(f"{self.path}: the records"):
            squared_error = record_array(open_group(self.path, writable=True), "squared_error")
            for index in indexes:
                squared_error[index] = np.nan


def find_codes(path: str) -> CodeArray | None:
    """Return the description of the ``codes.zarr`` at a path, or None if there is none.

    Raises
    ------
    DamagedError
        If its metadata cannot be read.
    """
    place = place_of(path)
    with found_whole(path):
        try:
            group = open_group(path)
        except FileNotFoundError:
            return None
        facts: Any = dict(group.attrs)
        if "shard_rows" not in facts:
            return None
        codes = array_in(group, "codes")
        rows, columns = codes.shape
        shard_rows = int((codes.shards or codes.chunks)[0])
        if facts["shard_rows"] != shard_rows:
            raise ValueError(
                f"shard_rows is said to be {facts['shard_rows']} and the codes have {shard_rows}"
            )
        if codes.chunks[1] != columns or ceil_div(rows, shard_rows) > MOST_SHARDS:
            raise ValueError(f"codes are of shape {codes.shape}")
        return CodeArray(
            path,
            rows=rows,
            columns=columns,
            dtype=codes.dtype.name,
            shard_rows=shard_rows,
            masked=place.exists(join(path, "valid")),
            store_error=place.exists(join(path, "sq_error")),
            ids=dtype_of(array_in(group, "ids")) if place.exists(join(path, "ids")) else None,
        )


def _shard_path(path: str, name: str, index: int) -> str:
    return f"{path}/{name}/c/{index}" + ("/0" if name == "codes" else "")


def _named(shard: Shard, shard_rows: int) -> str:
    rows = f"rows {shard.start:,} to {shard.stop:,}"
    return f"shard {shard.start // shard_rows} (of {rows}, which are read)"
