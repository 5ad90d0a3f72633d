"""What killed processes leave in an output: half-written files, and scratch that nobody goes on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from vqpipe.errors import DamagedError
from vqpipe.pipeline.generation import list_generations
from vqpipe.pipeline.record import read_run_file
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sample import SCRATCH
from vqpipe.storage.disk import PARTIAL
from vqpipe.storage.folder import Folder
from vqpipe.storage.place import place_of
from vqpipe.storage.samples import find_sample
from vqpipe.storage.vectors import VECTORS_NAME
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

    def remove(self, output: Folder) -> None:
        """Remove it from the output."""
        output.remove(self.path)


def find_leftovers(output: Folder, generations: Iterable[str]) -> Iterator[Removal]:
    """Yield what nobody writes or reads any more, while no run works in the output.

    Parameters
    ----------
    output : Folder
    generations : iterable of str
        Names of the generations to look into.
    """
    samples = output / "samples"
    for name in samples.names():
        # Where the sample is not finished, the next run goes on with its scratch.
        if name.endswith(SCRATCH) and _is_finished(samples.file(name.removesuffix(SCRATCH))):
            path = f"samples/{name}"
            size = (output / path).size_bytes()
            yield Removal(path, size, "scratch space of a sample that is finished")
    if is_url(output.path):
        # What a store has not got whole it does not show.
        return
    for folder in ("", "samples", VECTORS_NAME, *sorted(generations)):
        for path, size in _partials(output / folder if folder else output, deep=bool(folder)):
            inside = f"{folder}/{path}" if folder else path
            yield Removal(inside, size, "half-written by a killed run")


def _is_finished(sample: str) -> bool:
    try:
        return find_sample(sample) is not None
    except DamagedError:
        return False


def _partials(folder: Folder, *, deep: bool) -> Iterator[tuple[str, int]]:
    """Yield half-written files and their sizes: in the output's own folder, nothing of other folders is ours."""
    if deep:
        yield from (file for file in folder.files() if file[0].endswith(PARTIAL))
        return
    for name in folder.names():
        path = folder.file(name)
        # A run that works may finish one meanwhile; whoever only looks may meet it.
        with suppress(FileNotFoundError, IsADirectoryError):
            if name.endswith(PARTIAL):
                yield name, place_of(path).size(path)


def was_cut_short(output: Folder) -> bool:
    """Say whether the last run did not come to its end, so that there may be leftovers.

    To look at all names takes seconds where shards are many: a rerun with nothing to do is spared it.
    """
    return read_run_file(output).get("status") != "done"


def sweep(run: Run) -> int:
    """Remove the leftovers of killed processes, under the lease, and return how many there were."""
    names = [generation.name for generation in list_generations(run.output)]
    found = list(find_leftovers(run.output, names))
    for removal in found:
        run.may_write(1.0)
        try:
            removal.remove(run.output)
        except OSError as error:
            run.warn(f"{removal.path}, {removal.why}, cannot be removed: {error}")
    return len(found)
