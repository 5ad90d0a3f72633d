"""What killed processes leave in an output: half-written files, and scratch that nobody goes on with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vqpipe.errors import DamagedError
from vqpipe.pipeline.generation import list_generations
from vqpipe.pipeline.record import read_run_file
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sample import SCRATCH
from vqpipe.storage.folder import PARTIAL, Folder
from vqpipe.storage.samples import find_sample


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
        (output / os.path.dirname(self.path)).remove(os.path.basename(self.path))


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
    for folder in ("", "samples", *sorted(generations)):
        for path in _partials(output / folder if folder else output, deep=bool(folder)):
            try:
                size = os.path.getsize(path)
            except FileNotFoundError:
                # A run that works has finished it; whoever only looks may meet one.
                continue
            relative = os.path.relpath(path, output.path)
            yield Removal(relative, size, "half-written by a killed run")


def _is_finished(sample: str) -> bool:
    try:
        return find_sample(sample) is not None
    except DamagedError:
        return False


def _partials(folder: Folder, *, deep: bool) -> Iterator[str]:
    """Yield half-written files: in the output's own folder, nothing of other folders is ours."""
    for root, _, names in os.walk(folder.path):
        for name in sorted(names):
            if name.endswith(PARTIAL):
                yield os.path.join(root, name)
        if not deep:
            return


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
