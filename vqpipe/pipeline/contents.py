"""What lies in an output: every file under one name, with its size and what it is."""

from __future__ import annotations

from vqpipe.pipeline.drift import BASELINE_FILE
from vqpipe.pipeline.generation import EVALUATION_FILE, STAGES_FILE
from vqpipe.pipeline.run import Run
from vqpipe.storage.folder import Folder
from vqpipe.urls import split

# What is written again when this run ends, so that no size of now would last.
REPORT_FILE = "report.html"
_REWRITTEN = (STAGES_FILE, REPORT_FILE)

_IN_GENERATION = (
    ("codebook.zarr", "the codebook: centroids, offset, training history"),
    ("codes.zarr/codes", "the codes, an array of rows and columns"),
    ("codes.zarr/valid", "which rows have a codeword"),
    ("codes.zarr/sq_error", "every row's squared error"),
    ("codes.zarr/code_counts", "rows per codeword"),
    ("codes.zarr/shards", "a record for every shard"),
    ("codes.zarr", "their metadata"),
    ("index.faiss", "a FAISS index of all rows"),
    ("index", "FAISS indexes of parts of the rows"),
    ("codes.npy", "the codes as one plain array"),
    (EVALUATION_FILE, "the figures of this page"),
    (BASELINE_FILE, "what the drift of later rows is measured from"),
    (STAGES_FILE, "fingerprints and states of the stages"),
    (REPORT_FILE, "this page"),
)


def list_contents(run: Run) -> list[tuple[str, int | None, str]]:
    """Return path, bytes (None of what this run writes again) and meaning of all that belongs to the generation.

    Paths are relative to the output. What else lies in it belongs to other generations.
    """
    found: list[tuple[str, int | None, str]] = [
        ("run.json", None, "the last run: config, source, versions, times")
    ]
    if run.output.has("vectors.zarr"):
        size = (run.output / "vectors.zarr").size_bytes()
        found.append(
            ("vectors.zarr", size, "the vectors, converted so that they can be read in parts")
        )
    parent, name = split(run.sample_path)
    if Folder(parent).has(name):
        size = Folder(run.sample_path).size_bytes()
        what = "the rows that were drawn, shuffled; generations share them"
        found.append((f"samples/{name}", size, what))
    sizes = _sizes(run.generation.folder)
    found += [
        (
            f"{run.generation.name}/{name}",
            None if name in _REWRITTEN else sizes.get(name, 0),
            what,
        )
        for name, what in _IN_GENERATION
        if name in sizes or name in _REWRITTEN
    ]
    return found


def _sizes(folder: Folder) -> dict[str, int]:
    """Return the bytes under each name of a generation, in one pass over its files."""
    names = [name for name, _ in _IN_GENERATION]
    sizes: dict[str, int] = {}
    for path, size in folder.files():
        for name in names:
            if path == name or path.startswith(f"{name}/"):
                sizes[name] = sizes.get(name, 0) + size
                break
    return sizes
