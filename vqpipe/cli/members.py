"""``vqpipe members``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import typer

from vqpipe.cli.display import Display
from vqpipe.cli.table import lines_of
from vqpipe.engines.choose import make_runner_for
from vqpipe.pipeline.answers import Shape, choose_answers_target, write_answers
from vqpipe.pipeline.finished import Finished, find_finished
from vqpipe.pipeline.members import find_output_members, members_seconds
from vqpipe.pipeline.recorded import recorded_config
from vqpipe.pipeline.search import Answers
from vqpipe.storage.folder import Folder
from vqpipe.storage.picked_rows import has_ids, pick_ids
from vqpipe.tasks.members import Members
from vqpipe.urls import absolute


def execute(
    output: str, *, codeword: int, limit: int, to: str | None, overwrite: bool, as_json: bool
) -> None:
    """Find the rows that a codeword stands for and print them, or write them."""
    found = find_finished(Folder(absolute(output)))
    config = recorded_config(found.output)
    id_dtype = has_ids(found.codes)
    target = None
    if to is not None:
        target = choose_answers_target(to, id_dtype, overwrite=overwrite)
    with Display() as display:
        with make_runner_for(config, members_seconds(found)) as runner:
            members = find_output_members(found, codeword, limit, config, runner, display)
        if members.stale:
            display.warn(
                f"the source was written since {members.stale} of the shards were encoded: distances are of the rows "
                "as they are now"
            )
    answers = _answers(found, codeword, members)
    said: dict[str, Any] = {
        "output": found.output.path,
        "generation": found.generation.name,
        "codeword": codeword,
        "count": members.count,
    }
    if target is not None:
        shape = Shape((answers.rows.shape[1],), "codeword", id_dtype)
        said["files"] = write_answers(target, [answers], shape)
    else:
        said["rows"] = answers.rows[0].tolist()
        said["distances"] = [float(str(value)) for value in answers.distances[0]]
        if answers.ids is not None:
            said["ids"] = answers.ids[0].tolist()
    typer.echo(json.dumps(said, allow_nan=False) if as_json else "\n".join(_lines(said, answers)))


def _answers(found: Finished, codeword: int, members: Members) -> Answers:
    listed = min(members.count, members.nearest.rows.shape[1])
    rows = members.nearest.rows[:, :listed]
    distances = members.nearest.distances[:, :listed].astype(np.float32)
    return Answers(codeword, rows, distances, pick_ids(found.codes, rows))


def _lines(said: dict[str, Any], answers: Answers) -> list[str]:
    count, listed = said["count"], answers.rows.shape[1]
    of = f"codeword {said['codeword']}: {count:,} rows"
    if listed < count:
        of += f", the nearest {listed:,} of them"
    if "files" in said:
        return [f"{', '.join(said['files'])}: {of}"]
    columns = [said["rows"], *([said["ids"]] if "ids" in said else [])]
    distances = [f"{value:.6g}" for value in said["distances"]]
    heads = ["row", *(["id"] if "ids" in said else []), "distance"]
    table = [list(line) for line in zip(*columns, distances, strict=True)]
    return [of, *(lines_of(heads, table) if listed else [])]
