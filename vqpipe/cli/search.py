"""``vqpipe search``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from vqpipe.cli.display import Display
from vqpipe.cli.table import lines_of
from vqpipe.engines.choose import make_runner_for
from vqpipe.pipeline.answers import Shape, choose_answers_target, write_answers
from vqpipe.pipeline.finished import Finished, find_finished
from vqpipe.pipeline.recorded import recorded_config
from vqpipe.pipeline.search import Answers, check_queries, search_output, search_seconds
from vqpipe.sources import open_source
from vqpipe.storage.folder import Folder
from vqpipe.storage.picked_rows import has_ids
from vqpipe.storage.target import Target
from vqpipe.urls import absolute

# What is shown where the answers go nowhere else.
SHOWN_QUERIES = 3


def execute(
    output: str,
    *,
    queries: str,
    format: str,
    key: str | None,
    queries_rows: int | None,
    k: int,
    to: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Search the codes of an output and print the answers, or write them."""
    found = find_finished(Folder(absolute(output)))
    asked = open_source(queries, format, key)
    check_queries(found, asked)
    id_dtype = has_ids(found.codes)
    target = None
    if to is not None:
        target = choose_answers_target(to, id_dtype, overwrite=overwrite)
    whole = target is not None or as_json
    count = min(asked.rows, queries_rows or asked.rows)
    answered = count if whole else min(count, SHOWN_QUERIES)
    began = time.perf_counter()
    config = recorded_config(found.output)
    seconds = search_seconds(found, answered)
    with Display() as display, make_runner_for(config, seconds) as runner:
        answers = search_output(found, asked, k, runner, display, answered)
        said = _take(found, answers, target, Shape((answered, k), "query", id_dtype))
    said["seconds"] = round(time.perf_counter() - began, 3)
    if as_json:
        typer.echo(json.dumps(said, allow_nan=False))
    else:
        typer.echo("\n".join(_lines(said, count)))
        if target is not None and id_dtype == "string" and target.ending == ".npy":
            display.warn("ids are strings, which are written to Parquet and CSV alone")


def _take(
    found: Finished, answers: Iterable[Answers], target: Target | None, shape: Shape
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "output": found.output.path,
        "generation": found.generation.name,
        "rows": found.codes.rows,
        "queries": shape.shape[0],
        "k": shape.shape[1],
    }
    if target is not None:
        return {**said, "files": write_answers(target, answers, shape)}
    return {**said, "answers": [answer for some in answers for answer in _plain(some)]}


def _plain(some: Answers) -> Iterator[dict[str, Any]]:
    for number, rows in enumerate(some.rows):
        there = rows >= 0
        answer = {
            "query": some.first + number,
            "rows": rows[there].tolist(),
            "distances": [float(str(value)) for value in some.distances[number][there]],
        }
        if some.ids is not None:
            answer["ids"] = some.ids[number][there].tolist()
        yield answer


def _lines(said: dict[str, Any], count: int) -> list[str]:
    if "files" in said:
        size = f"{said['queries']:,} queries, {said['k']} rows each"
        return [f"{', '.join(said['files'])}: {size}, in {said['seconds']:.1f} s"]
    with_ids = any("ids" in answer for answer in said["answers"])
    table = [
        [
            answer["query"],
            rank + 1,
            row,
            *([answer["ids"][rank]] if with_ids else []),
            f"{answer['distances'][rank]:.6g}",
        ]
        for answer in said["answers"]
        for rank, row in enumerate(answer["rows"])
    ]
    lines = lines_of(["query", "rank", "row", *(["id"] if with_ids else []), "distance"], table)
    if count > said["queries"]:
        lines.append(f"{said['queries']} of {count:,} queries; all with --to FILE or --json")
    return lines
