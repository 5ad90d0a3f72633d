"""A codebook that exists already: ours, or a FAISS index's."""

from __future__ import annotations

from vqpipe.codebook import Codebook, CodebookSpec, Metric
from vqpipe.errors import CodebookError
from vqpipe.quantizer import Quantizer
from vqpipe.quantizer.faiss_codebook import read_index_codebook
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.place import place_of


def read_given(path: str) -> Quantizer:
    """Read a ``codebook.zarr``, or the codebook in a FAISS PQ, OPQ or RQ index.

    Raises
    ------
    CodebookError
        If there is none, or it cannot be used.
    """
    place = place_of(path)
    if not place.exists(path):
        raise CodebookError(
            f"codebook {path}: there is no such file or folder; give a codebook.zarr or a FAISS index"
        )
    if place.is_folder(path):
        return read_codebook(path).quantizer
    with place.local_copy(path) as local:
        return read_index_codebook(local)


def read_initial(path: str, spec: CodebookSpec, dim: int, metric: Metric) -> Codebook:
    """Read the codebook that training is to start from.

    Raises
    ------
    CodebookError
        If it is not of the kind, size and space that is to be learnt.
    """
    codebook = read_given(path).codebook
    if (codebook.spec, codebook.dim, codebook.metric) != (spec, dim, metric):
        raise CodebookError(
            f"train.init {path}: is a {codebook.spec} codebook of dim = {codebook.dim} and metric "
            f"{codebook.metric}; to start from it, it must be {spec} of dim = {dim} and metric {metric}"
        )
    if any(codebook.surplus):
        raise CodebookError(
            f"train.init {path}: has codewords that stand for nothing; leave train.init out"
        )
    return codebook
