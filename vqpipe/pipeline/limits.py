"""What a run may take: memory and disk, checked against the plan before any work."""

from __future__ import annotations

import numpy as np

from vqpipe.config import FileConfig
from vqpipe.memory import (
    Sizes,
    check_chunk,
    check_disk,
    check_memory,
    codebook_bytes,
    worker_bytes,
)
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sample import plan_draws, scatter_shards
from vqpipe.pipeline.unconverted import find_unconverted
from vqpipe.quantizer.beam import BEAM, beam_bytes
from vqpipe.quantizer.faiss_index import packed_row_bytes
from vqpipe.shards import ceil_div
from vqpipe.storage.ids import TEXT, chunk_bytes
from vqpipe.tasks.encode import window_rows

# Room for the codebook's history, the records, the report and the checkpoint.
OTHER_BYTES = 16 << 20

# A file of queries is not opened to plan: as many queries as the default.
QUERIES_OF_A_FILE = 1000

# Of an id of text, such as a UUID or a short path.
GUESSED_ID_BYTES = 40


def plan_memory(run: Run) -> dict[str, int]:
    """Return the peak memory of a worker, in bytes, per stage."""
    queries = run.config.evaluate.queries
    source, codes = run.source, run.codes()
    scatter_rows, sample_shard_rows, batch_rows, listed_rows = 0, 0, 0, 0
    if run.given is None:
        batch_rows = run.schedule.largest_batch
        draws = plan_draws(run)
        drawn = sum(draw.stop - draw.start for draw in draws)
        listed_rows = sum(draw.listed_rows for draw in draws)
        tasks = len(scatter_shards(run))
        # Draws are uniform: a task's share is even but for a little luck.
        scatter_rows = min(ceil_div(drawn, tasks) * 11 // 10 + 1000, drawn)
        sample_shard_rows = max(min(draw.shard_rows, draw.stop - draw.start) for draw in draws)
    count = QUERIES_OF_A_FILE if isinstance(queries, FileConfig) else queries
    sizes = Sizes(
        dim=source.dim,
        row_bytes=source.row_bytes,
        chunk_bytes=source.chunk_bytes,
        spec=run.spec,
        shard_rows=min(codes.shard_rows, source.rows),
        batch_rows=batch_rows,
        slice_rows=run.slice_rows(batch_rows) if batch_rows else 0,
        window_rows=window_rows(source.dim, run.encode_route.block_rows),
        sample_shard_rows=sample_shard_rows,
        scatter_rows=scatter_rows,
        listed_rows=listed_rows,
        queries=0 if run.spec.kind == "KM" else count,
        places=max(run.config.evaluate.recall_at),
        beam_bytes=beam_bytes(run.spec.stages, run.spec.k),
        beam=BEAM,
        converted_shard_bytes=_converted_shard_bytes(run),
        ids_bytes=0 if source.ids_dtype is None else chunk_bytes(source.ids_dtype),
    )
    needed = worker_bytes(sizes)
    return {
        name: needed[name]
        for name in needed
        if (run.given is None or name not in ("sample", "train"))
        and (source.converted is not None or name != "ingest")
    }


def _converted_shard_bytes(run: Run) -> int:
    vectors = run.source.converted
    return 0 if vectors is None else vectors.shard_rows * vectors.row_bytes


def plan_disk(run: Run) -> dict[str, int]:
    """Return the most bytes that each stage writes; the sample's scratch space counts."""
    codes = run.codes()
    rows = run.source.rows
    # A checkpoint holds codewords in float32 and their sums in float64, and stays until the next one is whole.
    planned = {"train": 2 * 3 * codebook_bytes(run.spec, run.source.dim) + OTHER_BYTES}
    if run.given is None:
        drawn = run.sizes.train + run.sizes.heldout + run.sizes.database
        planned["sample"] = 2 * drawn * (run.source.row_bytes + 16)
    ids_bytes = _id_bytes(run.source.ids_dtype)
    if run.source.converted is not None:
        new = sum(shard.rows for shard in find_unconverted(run))
        planned["ingest"] = new * (run.source.row_bytes + ids_bytes)
    row_bytes = run.spec.row_code_bytes + codes.masked + 4 * codes.store_error + ids_bytes
    planned["encode"] = rows * row_bytes
    exports = {
        "faiss": packed_row_bytes(run.spec.columns, run.spec.k),
        "npy": run.spec.row_code_bytes,
    }
    planned["export"] = rows * sum(exports[name] for name in set(run.config.export))
    return planned


def _id_bytes(dtype: str | None) -> int:
    """Return the bytes that an id takes, about: how long text is nobody knows before it is read."""
    if dtype is None:
        return 0
    return GUESSED_ID_BYTES if dtype == TEXT else np.dtype(dtype).itemsize


def check_limits(run: Run) -> None:
    """Refuse what cannot fit, with both numbers.

    Raises
    ------
    LimitError
    """
    allowed = int(run.config.memory_per_worker)
    check_chunk(str(run.source.uri), run.source.chunk_bytes, run.source.chunk_rows, allowed)
    check_memory(plan_memory(run), allowed)
    # What is there already needs no room again; a finished output must not be refused for want of it.
    there = run.generation.folder
    planned = plan_disk(run)
    left = sum(
        size for name, size in planned.items() if run.generation.stage(name).get("state") != "done"
    )
    if run.sample() is not None:
        left -= planned.get("sample", 0)
    free = run.output.free_bytes()
    if free is not None:
        check_disk(max(0, left - there.size_bytes()), free, run.output.path)
