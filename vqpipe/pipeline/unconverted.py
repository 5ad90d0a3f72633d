"""Which shards of ``vectors.zarr`` must be converted: told by their records, their sizes and the source's files."""

from __future__ import annotations

from vqpipe.errors import DamagedError
from vqpipe.pipeline.run import Run
from vqpipe.shards import Shard
from vqpipe.sources.conversion import made_from
from vqpipe.storage.objects.view import viewing
from vqpipe.storage.vectors import find_vectors


def find_unconverted(run: Run) -> tuple[Shard, ...]:
    """Return the shards that have no record, are damaged, or were made from files that changed. Reads no row.

    None of a source that is read in place. What was found is kept until the stage has run.
    """
    if run.unconverted is None:
        run.unconverted = _look(run)
    return run.unconverted


@viewing()
def _look(run: Run) -> tuple[Shard, ...]:
    source, vectors = run.source.original, run.source.converted
    if vectors is None:
        return ()
    there = find_vectors(vectors.path, made_from(source))
    if there is None or "ingest" in run.redo:
        return tuple(vectors.shards)
    try:
        records, sizes = vectors.records(), vectors.stored_sizes()
    except DamagedError:
        return tuple(vectors.shards)
    return tuple(
        shard
        for shard in vectors.shards
        if not records.is_done(shard.index)
        or sizes[shard.index] != records.stored_bytes[shard.index]
        or records.stamp(shard.index) != source.stamp(shard.start, shard.stop)
    )
