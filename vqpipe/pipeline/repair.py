"""Repairing an output: what is damaged is set pending, so that the next run makes it again, and only it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vqpipe.errors import DamagedError
from vqpipe.pipeline.generation import Generation, find_generations
from vqpipe.storage.codes import find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.vectors import VECTORS_NAME, find_vectors


def repair_output(output: Folder, findings: Sequence[Mapping[str, Any]]) -> None:
    """Set pending what a verification found.

    Shards lose their records, so that they are encoded again; what has no parts is removed, or its stage
    is taken as never done.

    Parameters
    ----------
    output : Folder
    findings : sequence of mappings
        With ``what``, ``path`` (relative to the output) and, of a shard, its number ``shard``.
    """
    shards: dict[str, list[int]] = {}
    converted: list[int] = []
    for finding in findings:
        what, path = finding["what"], str(finding["path"])
        name, _, rest = path.partition("/")
        if what == "shard":
            shards.setdefault(path, []).append(finding["shard"])
        elif what == "vectors" and finding["shard"] is not None:
            converted.append(finding["shard"])
        elif what in ("codebook", "evaluation"):
            _undo(output, name, {"codebook": "train", "evaluation": "evaluate"}[what])
            if what == "codebook":
                (output / name).remove(rest)
        else:
            output.remove(path)
    vectors = find_vectors(output.file(VECTORS_NAME)) if converted else None
    if vectors is not None:
        vectors.forget(converted)
    for path, indexes in shards.items():
        try:
            codes = find_codes(output.file(path))
            if codes is not None:
                codes.forget(indexes)
        except DamagedError:
            output.remove(path)


def _undo(output: Folder, name: str, stage: str) -> None:
    """Take a stage of a generation as never done."""
    generations: list[Generation] = [one for one in find_generations(output)[0] if one.name == name]
    for generation in generations:
        generation.facts["stages"].pop(stage, None)
        generation.save()
