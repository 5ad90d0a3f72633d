"""What a path holds: an output, a codebook, codes, or a source."""

from __future__ import annotations

from typing import Any

import numpy as np

from vqpipe.errors import SourceError
from vqpipe.kmeans.state import TrainState
from vqpipe.pipeline.generation import CURRENT_FILE, Generation, current_name, list_generations
from vqpipe.pipeline.record import RUN_FILE
from vqpipe.pipeline.sweep import FIGURES_FILE, PAGE_FILE
from vqpipe.pipeline.train import CHECKPOINT_FILE
from vqpipe.pipeline.trial import SWEEP_FOLDER
from vqpipe.sources import VectorArray, find_benchmark, open_source, open_table
from vqpipe.sources.hdf5 import BENCHMARK_QUERIES, BENCHMARK_TRUTH
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.vectors import VECTORS_NAME, find_vectors
from vqpipe.urls import absolute


def inspect_path(path: str) -> dict[str, Any]:
    """Return what a path holds, as plain values; ``what`` names it.

    Raises
    ------
    InputError
        If it holds nothing that is known.
    """
    folder = Folder(absolute(path))
    if (
        folder.has(RUN_FILE)
        or folder.has(CURRENT_FILE)
        or (folder / SWEEP_FOLDER).has(FIGURES_FILE)
    ):
        return _output(folder)
    if folder.has("centroids"):
        return _codebook(folder.path)
    if folder.has("shards"):
        codes = find_codes(folder.path)
        if codes is not None:
            return {"what": "codes", "path": folder.path, **_codes(codes)}
    if folder.has("train_rows"):
        raise SourceError(
            f"{path}: is a sample; to read one of its sets as vectors, name it: {path}/train"
        )
    source = open_source(path)
    return {
        "what": "source",
        "path": path,
        "format": source.format,
        "rows": source.rows,
        "dim": source.dim,
        "dtype": source.dtype,
        "bytes": source.rows * source.row_bytes,
        "chunk_rows": source.chunk_rows,
        "files": len(source.parts),
        **_inside(source, path),
    }


def _inside(source: VectorArray, path: str) -> dict[str, Any]:
    """Return which array of a file was taken and, of ann-benchmarks' files, what else is for use."""
    key = source.parts[0].key
    found: dict[str, Any] = {} if key is None else {"key": key}
    benchmark = find_benchmark(path) if source.format == "hdf5" else None
    if benchmark is not None:
        queries = open_source(path, key=BENCHMARK_QUERIES)
        truth = open_table(path, key=BENCHMARK_TRUTH)
        found["queries"] = f"{BENCHMARK_QUERIES}, {queries.rows:,} rows"
        found["truth"] = f"{BENCHMARK_TRUTH}, the {truth.dim} nearest rows of each"
        found["metric"] = benchmark.metric
    return found


def _output(folder: Folder) -> dict[str, Any]:
    last = folder.read_json(RUN_FILE) if folder.has(RUN_FILE) else {}
    generations = []
    for generation in list_generations(folder):
        stages = {name: record["state"] for name, record in generation.facts["stages"].items()}
        codes = find_codes(generation.codes_path)
        generations.append(
            {
                "name": generation.name,
                "codebook": generation.facts["settings"]["train"]["codebook"],
                "stages": stages,
                **_training(generation),
                **({} if codes is None else _codes(codes)),
            }
        )
    return {
        "what": "output",
        "path": folder.path,
        "current": current_name(folder),
        "last_run": {
            key: last.get(key) for key in ("status", "generation", "began", "ended", "error")
        },
        **_converted(folder),
        **_swept(folder / SWEEP_FOLDER),
        "generations": generations,
    }


def _converted(folder: Folder) -> dict[str, Any]:
    """Return how far the conversion of the source is, where there is one."""
    vectors = find_vectors(folder.file(VECTORS_NAME))
    if vectors is None:
        return {}
    sizes = vectors.records().stored_bytes
    found = {"rows": vectors.rows, "shards": len(sizes), "shards_done": int((sizes >= 0).sum())}
    return {"vectors": found}


def _swept(folder: Folder) -> dict[str, Any]:
    """Return what the last sweep compared and what it advised, where there was one."""
    if not folder.has(FIGURES_FILE):
        return {}
    figures = folder.read_json(FIGURES_FILE)
    compared = figures.get("codebooks")
    listed = compared if isinstance(compared, list) else []
    names = [one.get("codebook") for one in listed if isinstance(one, dict)]
    return {
        "sweep": {
            "codebooks": ", ".join(map(str, names)),
            "advice": str(figures.get("advice")),
            "page": folder.file(PAGE_FILE),
        }
    }


def _training(generation: Generation) -> dict[str, Any]:
    """Return how far an unfinished training was at its last checkpoint."""
    if not generation.folder.has(CHECKPOINT_FILE):
        return {}
    try:
        with generation.folder.reading(CHECKPOINT_FILE) as file:
            state = TrainState.read(file)
    except (OSError, ValueError):
        return {"training": "its checkpoint cannot be read"}
    heldout = [record.heldout for record in state.history if record.heldout is not None]
    found = {"phase": state.phase, "round": state.round}
    return {"training": {**found, "heldout_distortion": heldout[-1] if heldout else None}}


def _codebook(path: str) -> dict[str, Any]:
    file = read_codebook(path)
    codebook = file.quantizer.codebook
    return {
        "what": "codebook",
        "path": path,
        "codebook": str(codebook.spec),
        "metric": codebook.metric,
        "dim": codebook.dim,
        "digest": codebook.digest,
        "route": file.quantizer.route.name,
        "rounds": len(file.history),
    }


def _codes(codes: CodeArray) -> dict[str, Any]:
    records = codes.records()
    return {
        "rows": codes.rows,
        "columns": codes.columns,
        "dtype": codes.dtype,
        "shards": len(records.squared_error),
        "shards_done": int(np.isfinite(records.squared_error).sum()),
        "bytes_codes": int(records.stored_bytes.sum()),
    }
