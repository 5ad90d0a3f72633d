"""The answers of a search as files: ``.npy``, Parquet and CSV, written batch by batch."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vqpipe.pipeline.search import Answers
from vqpipe.storage.npy_file import write_npy_header
from vqpipe.storage.parquet_file import Column, check_parquet, write_parquet
from vqpipe.storage.place import place_of
from vqpipe.storage.target import Target, check_free, choose_target

ENDINGS = (".npy", ".parquet", ".csv")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file of answers is like.

    Attributes
    ----------
    shape : tuple of int
        Of the arrays: queries and rows of each; of one asker, its rows alone.
    asker : str
        What rows are found for: ``query`` or ``codeword``.
    id_dtype : str or None
        An integer's, ``string``, or None where there are no ids.
    """

    shape: tuple[int, ...]
    asker: str
    id_dtype: str | None


def choose_answers_target(place: str, id_dtype: str | None, *, overwrite: bool) -> Target:
    """Return where to write answers, or refuse to, before anything is searched.

    Raises
    ------
    OutputError
        As `choose_target` does; for Parquet without pyarrow.
    """
    target = choose_target(place, ENDINGS, overwrite=overwrite)
    if target.ending == ".parquet":
        check_parquet()
    for path in _paths(target, id_dtype)[1:]:
        check_free(path, overwrite=overwrite)
    return target


def write_answers(target: Target, answers: Iterable[Answers], shape: Shape) -> list[str]:
    """Write answers and return the paths of the files.

    Parameters
    ----------
    target : Target
    answers : iterable of Answers
        In the order of the queries; consumed as they are written.
    shape : Shape
    """
    write = {".npy": _write_npy, ".parquet": _write_parquet, ".csv": _write_csv}[target.ending]
    paths = _paths(target, shape.id_dtype)
    with ExitStack() as stack:
        files = [stack.enter_context(place_of(path).writing(path)) for path in paths]
        write(files, answers, shape)
    return paths


def _paths(target: Target, id_dtype: str | None) -> list[str]:
    if target.ending != ".npy":
        return [target.path]
    # A plain array of strings needs the longest of them before the first is written.
    ids = [] if id_dtype in (None, "string") else [target.beside("ids")]
    return [target.path, target.beside("distances"), *ids]


def _write_npy(files: list[BinaryIO], answers: Iterable[Answers], shape: Shape) -> None:
    kinds: list[tuple[str, Callable[[Answers], Any]]] = [
        ("<i8", lambda some: some.rows),
        ("<f4", lambda some: some.distances),
        (shape.id_dtype or "", lambda some: some.ids),
    ]
    for file, (dtype, _values) in zip(files, kinds, strict=False):
        write_npy_header(file, dtype, shape.shape)
    for some in answers:
        for file, (dtype, values) in zip(files, kinds, strict=False):
            file.write(np.ascontiguousarray(values(some), dtype=dtype).data)


def _columns(shape: Shape) -> list[Column]:
    ids = [Column("id", shape.id_dtype)] if shape.id_dtype else []
    plain = [Column(shape.asker, "int64"), Column("rank", "int32"), Column("row", "int64")]
    return [*plain, *ids, Column("distance", "float32")]


def _tables(answers: Iterable[Answers], shape: Shape) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield answers with a line for each row that was found; ranks count from 1."""
    for some in answers:
        query, place = np.nonzero(some.rows >= 0)
        table: dict[str, NDArray[Any]] = {
            shape.asker: query + some.first,
            "rank": (place + 1).astype(np.int32),
            "row": some.rows[query, place],
            "distance": some.distances[query, place],
        }
        if some.ids is not None:
            table["id"] = some.ids[query, place]
        yield table


def _write_parquet(files: list[BinaryIO], answers: Iterable[Answers], shape: Shape) -> None:
    write_parquet(files[0], _columns(shape), _tables(answers, shape), {})


def _write_csv(files: list[BinaryIO], answers: Iterable[Answers], shape: Shape) -> None:
    names = [column.name for column in _columns(shape)]
    for number, table in enumerate(_tables(answers, shape)):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not number:
            writer.writerow(names)
        # The shortest digits that give the same float32 again.
        shown = {**table, "distance": np.array([str(value) for value in table["distance"]])}
        writer.writerows(zip(*(shown[name].tolist() for name in names), strict=True))
        files[0].write(text.getvalue().encode())
