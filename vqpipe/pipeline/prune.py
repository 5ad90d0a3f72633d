"""Pruning an output: generations that nobody needs any more, and what killed runs left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vqpipe.errors import OutputError
from vqpipe.pipeline.generation import Generation, current_name, find_generations, list_generations
from vqpipe.pipeline.record import read_run_file
from vqpipe.pipeline.sample import SCRATCH
from vqpipe.pipeline.working import refuse_if_worked_on
from vqpipe.storage.disk import PARTIAL
from vqpipe.storage.folder import Folder
from vqpipe.storage.place import place_of
from vqpipe.storage.samples import find_sample
from vqpipe.urls import is_url


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that is not needed any more.

    Attributes
    ----------
    path : str
        Relative to the output.
    bytes : int
    why : str
    """

    path: str
    bytes: int
    why: str


def prune_output(output: Folder, keep: int | None = None, *, remove: bool) -> dict[str, Any]:
    """Find, and remove if asked to, what an output no longer needs.

    Never the current generation, nor the one that the last run worked on.

    Parameters
    ----------
    output : Folder
    keep : int, optional
        Newest generations to keep; by default what the last run's config says.
    remove : bool

    Returns
    -------
    dict
        ``output``, ``removed`` (whether this was no dry run), ``kept`` (names of generations), ``bytes`` and
        ``removals`` (each ``path, bytes, why``).

    Raises
    ------
    OutputError
        If there is no output of a run.
    StageError
        If a run works in it.
    """
    if not list_generations(output):
        raise OutputError(
            f"output {output.path}: there is no generation of a run in it; name the folder that a config calls output"
        )
    refuse_if_worked_on(output, "prune")
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
            output.remove(removal.path)
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
    yield from _sample_removals(output, kept)
    for folder in ("", "samples", *sorted(names)):
        for path, size in _partials(output / folder if folder else output, deep=bool(folder)):
            inside = f"{folder}/{path}" if folder else path
            yield Removal(inside, size, "half-written by a killed run")


def _sample_removals(output: Folder, kept: list[Generation]) -> Iterator[Removal]:
    samples = output / "samples"
    needed = {generation.facts["fingerprints"]["sample"][:12] for generation in kept}
    for name in samples.names():
        scratch = name.endswith(SCRATCH)
        fingerprint = name.removesuffix(SCRATCH).removesuffix(".zarr")
        if fingerprint not in needed:
            if scratch or name.endswith(".zarr"):
                yield _removal(output, f"samples/{name}", "a sample that no generation refers to")
        elif scratch and find_sample(samples.file(f"{fingerprint}.zarr")) is not None:
            # Where the sample is not finished, the next run goes on with its scratch.
            yield _removal(output, f"samples/{name}", "scratch space of a sample that is finished")


def _removal(output: Folder, path: str, why: str) -> Removal:
    return Removal(path, (output / path).size_bytes(), why)


def _is_there(output: Folder, removal: Removal) -> bool:
    """Say whether there is anything to remove: some stores list prefixes that nothing is left under."""
    return not is_url(output.path) or any(True for _ in (output / removal.path).files())


def _partials(folder: Folder, *, deep: bool) -> Iterator[tuple[str, int]]:
    """Yield half-written files and their sizes: in the output's own folder, nothing of other folders is ours."""
    if deep:
        yield from (file for file in folder.files() if file[0].endswith(PARTIAL))
        return
    for name in folder.names():
        path = folder.file(name)
        if name.endswith(PARTIAL) and not place_of(path).is_folder(path):
            yield name, place_of(path).size(path)
