"""What a finished output holds for those who use it: codes, and the codebook that made them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqpipe.codebook import Codebook
from vqpipe.errors import DamagedError, OutputError
from vqpipe.pipeline.generation import Generation, current_name, list_generations
from vqpipe.pipeline.pending import name_shards
from vqpipe.storage.codebook_file import cached_quantizer
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.folder import Folder


@dataclass(frozen=True, slots=True)
class Finished:
    """The current generation of an output, its codes seen to be all there.

    Attributes
    ----------
    output : Folder
    generation : Generation
    codes : CodeArray
    codebook : Codebook
    """

    output: Folder
    generation: Generation
    codes: CodeArray
    codebook: Codebook

    @property
    def digest(self) -> str:
        """Of the codebook."""
        return self.codebook.digest


def find_finished(output: Folder) -> Finished:
    """Return what readers of an output should use.

    Raises
    ------
    OutputError
        If no generation is complete.
    DamagedError
        If codes are lost or set pending, or belong to another codebook: they would be taken for other codes.
    """
    generations = list_generations(output)
    name = current_name(output)
    generation = next((one for one in generations if one.name == name), None)
    if generation is None:
        why = (
            "no generation is complete yet; run its config to the end"
            if generations
            else "there is no generation of a run in it; name the folder that a config calls output"
        )
        raise OutputError(f"output {output.path}: {why}")
    codes = find_codes(generation.codes_path)
    if codes is None:
        raise OutputError(
            f"{generation.codes_path}: there are no codes; run the config again, and what is missing is made anew"
        )
    digest = str(codes.codebook_digest())
    codebook = cached_quantizer(generation.codebook_path, digest).codebook
    if codebook.columns != codes.columns:
        raise DamagedError(
            f"{codes.path}: has {codes.columns} columns and its codebook has {codebook.columns}; `vqpipe verify "
            f"{output.path} --repair` finds all that is damaged"
        )
    _check_shards(output, codes)
    return Finished(output, generation, codes, codebook)


def _check_shards(output: Folder, codes: CodeArray) -> None:
    """Refuse codes that are lost: Zarr would give code 0 in their place."""
    records, sizes = codes.records(), codes.stored_sizes()
    count = codes.shard_count
    lost = np.isnan(records.squared_error[:count]) | (records.stored_bytes[:count] != sizes)
    if lost.any():
        named = [shard for shard in codes.shards if lost[shard.index]]
        raise DamagedError(
            f"{codes.path}: the codes of {name_shards(named)} are not there as they were recorded; run the config "
            f"again (after `vqpipe verify {output.path} --repair`, which finds all that is damaged), and they are made "
            "anew"
        )
