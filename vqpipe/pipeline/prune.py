"""Pruning an output: generations that nobody needs any more, and what killed runs left behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from vqpipe.errors import OutputError
from vqpipe.pipeline.generation import Generation, current_name, find_generations, list_generations
from vqpipe.pipeline.leftovers import Removal, find_leftovers
from vqpipe.pipeline.record import read_run_file
from vqpipe.pipeline.sample import SCRATCH
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import PATIENCE, Patience, take_lease
from vqpipe.storage.vectors import VECTORS_NAME
from vqpipe.urls import is_url

_log = logging.getLogger(__name__)


def prune_output(
    output: Folder, keep: int | None = None, *, remove: bool, patience: Patience = PATIENCE
) -> dict[str, Any]:
    """Find, and remove if asked to, what an output no longer needs.

    Never the current generation, nor the one that the last run worked on.

    Parameters
    ----------
    output : Folder
    keep : int, optional
        Newest generations to keep; by default what the last run's config says.
    remove : bool
        Under the lease on the output; a dry run needs none.
    patience : Patience
        How long another run's lease is watched.

    Returns
    -------
    dict
        ``output``, ``removed`` (whether this was no dry run), ``kept`` (names of generations), ``bytes`` and
        ``removals`` (each ``path, bytes, why``).

    Raises
    ------
    OutputError
        If there is no output of a run.
    LeaseError
        If something is to be removed while a run works in it.
    """
    if not list_generations(output):
        raise OutputError(
            f"output {output.path}: there is no generation of a run in it; name the folder that a config calls output"
        )
    with take_lease(output, _log.warning, patience) if remove else nullcontext():
        return _prune(output, keep, remove=remove)


def _prune(output: Folder, keep: int | None, *, remove: bool) -> dict[str, Any]:
    last = read_run_file(output)
    wanted = keep or int(last.get("config", {}).get("keep_generations", 2))
    generations, _ = find_generations(output)
    named = {current_name(output), last.get("generation")}
    kept = [
        generation
        for place, generation in enumerate(generations)
        if place < wanted or generation.name in named
    ]
    found = _removals(output, generations, kept)
    removals = [removal for removal in found if _is_there(output, removal)]
    if remove:
        for removal in removals:
            removal.remove(output)
    return {
        "output": output.path,
        "removed": remove,
        "kept": [generation.name for generation in kept],
        "bytes": sum(removal.bytes for removal in removals),
        "removals": [asdict(removal) for removal in removals],
    }


def _removals(
    output: Folder, generations: list[Generation], kept: list[Generation]
) -> Iterator[Removal]:
    names = {generation.name for generation in kept}
    for generation in generations:
        if generation.name not in names:
            yield _removal(output, generation.name, "a generation beyond keep_generations")
    for name in output.names():
        if name[:1] == "v" and name[1:].isdigit() and not (output / name).has("stages.json"):
            yield _removal(output, name, "a generation that a killed run never began")
    converted = any(generation.facts["source"].get("converted") for generation in kept)
    if output.has(VECTORS_NAME) and not converted:
        yield _removal(output, VECTORS_NAME, "vectors of a source that no generation is made from")
    samples = list(_sample_removals(output, kept))
    yield from samples
    known = {removal.path for removal in samples}
    yield from (found for found in find_leftovers(output, names) if found.path not in known)


def _sample_removals(output: Folder, kept: list[Generation]) -> Iterator[Removal]:
    samples = output / "samples"
    needed = {generation.facts["fingerprints"]["sample"][:12] for generation in kept}
    for name in samples.names():
        sample = name.removesuffix(SCRATCH)
        if sample.endswith(".zarr") and sample.removesuffix(".zarr") not in needed:
            yield _removal(output, f"samples/{name}", "a sample that no generation refers to")


def _removal(output: Folder, path: str, why: str) -> Removal:
    return Removal(path, (output / path).size_bytes(), why)


def _is_there(output: Folder, removal: Removal) -> bool:
    """Say whether there is anything to remove: some stores list prefixes that nothing is left under."""
    return not is_url(output.path) or any(True for _ in (output / removal.path).files())
