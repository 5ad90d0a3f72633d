"""The ingest stage: sources that workers cannot read by row range are converted, once, to ``vectors.zarr``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from vqpipe.errors import StageError
from vqpipe.pipeline.pending import name_shards
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.pipeline.unconverted import find_unconverted
from vqpipe.runner import Outcome
from vqpipe.shards import Shard
from vqpipe.sources.conversion import made_from, starting_rows
from vqpipe.storage.vectors import VECTORS_NAME, Vectors, find_vectors
from vqpipe.tasks.convert import ConvertJob, Stretch, convert_stretch

# Stretches go out after a look at the lease that is at most this old.
LOOK_SECONDS = 1.0

# A stretch begins inside a row group, whose first rows it decodes in vain: with so many shards that is little.
_SHARDS_PER_STRETCH = 8

# With fewer stretches than so many a worker, some workers would wait for others.
_STRETCHES_PER_WORKER = 4


def need(run: Run) -> Need:
    """Say whether rows must be converted."""
    vectors = run.source.converted
    if vectors is None:
        return Need("done", f"{run.source.format} is read in place")
    pending = find_unconverted(run)
    if "ingest" in run.redo:
        return Need("to do", "forced")
    there = find_vectors(vectors.path, made_from(run.source))
    if there is None:
        return Need("to do", f"{run.source.format} is converted to {VECTORS_NAME} first")
    if pending:
        new = max(0, run.source.rows - there.rows)
        grown = f", {new:,} rows are new" if new else ""
        return Need(
            "partial" if len(pending) < vectors.shard_count else "to do",
            f"{len(pending)} of {vectors.shard_count} shards of {VECTORS_NAME} are new, changed or unfinished{grown}",
        )
    if there.rows != run.source.rows:
        return Need("partial", "all shards are converted but not yet published")
    return Need("done", f"all {vectors.shard_count} shards were converted before")


def execute(run: Run) -> str:
    """Convert the pending shards, then show readers rows that are new."""
    vectors, pending = run.source.converted, find_unconverted(run)
    if vectors is None:
        return f"{run.source.format} is read in place"
    if "ingest" in run.redo:
        run.output.remove(VECTORS_NAME)
    vectors.prepare(made_from(run.source))
    run.progress.begin("ingest", sum(shard.rows for shard in pending), "rows")
    stretches = plan_stretches(run, pending)
    job = ConvertJob(run.source.original, vectors)
    failed: list[Outcome[Stretch, Any]] = []
    null_rows = rows = 0
    for outcome in run.runner.map(convert_stretch, _sent(run, stretches), job):
        if outcome.error is not None:
            failed.append(outcome)
            continue
        null_rows += outcome.value().null_rows
        rows += outcome.value().rows
        run.progress.advance(outcome.item.rows)
    # Of a stretch that failed some shards may be done.
    run.unconverted = None
    if failed:
        raise _failure(failed, vectors)
    run.may_write()
    vectors.publish_rows()
    run.unconverted = ()
    run.rows_done["ingest"] = rows
    nulls = f", {null_rows:,} of them null" if null_rows else ""
    kept = vectors.shard_count - len(pending)
    there = f"; {kept} shards were there" if kept else ""
    return f"{rows:,} rows converted in {len(pending)} shards{nulls}{there}"


def plan_stretches(run: Run, shards: Sequence[Shard]) -> list[Stretch]:
    """Put shards together so that few rows are decoded twice, and all workers have something to do."""
    if not shards:
        return []
    starts = starting_rows(run.source.original, shards[0].start, shards[-1].stop)
    even = len(shards) // (_STRETCHES_PER_WORKER * max(1, run.runner.workers))
    return cut_stretches(shards, starts, max(1, min(_SHARDS_PER_STRETCH, even)))


def cut_stretches(shards: Sequence[Shard], starts: Sequence[int], wanted: int) -> list[Stretch]:
    """Cut shards into stretches of at least ``wanted`` of them, where reading can begin between two.

    Parameters
    ----------
    shards : sequence of Shard
        In order.
    starts : sequence of int
        Rows where reading forward can begin, ascending.
    wanted : int

    Examples
    --------
    >>> shards = [Shard(i, 10 * i, 10 * i + 10) for i in range(4)]
    >>> [len(stretch.shards) for stretch in cut_stretches(shards, [0, 25], 1)]
    [3, 1]
    """
    found: list[list[Shard]] = []
    for shard in shards:
        begins = bisect_right(starts, shard.start)
        if found and (
            len(found[-1]) < wanted or bisect_right(starts, found[-1][-1].start) == begins
        ):
            found[-1].append(shard)
        else:
            found.append([shard])
    return [Stretch(tuple(stretch)) for stretch in found]


def _sent(run: Run, stretches: Sequence[Stretch]) -> Iterator[Stretch]:
    """Yield stretches in order, as long as this run may write them."""
    for stretch in stretches:
        run.may_write(LOOK_SECONDS)
        yield stretch


def _failure(failed: list[Outcome[Stretch, Any]], vectors: Vectors) -> Exception:
    """Return the error that says what failed: the user's files first, since only they can mend them."""
    failed.sort(key=lambda outcome: outcome.item.shards[0].index)
    errors = [outcome.error for outcome in failed if outcome.error is not None]
    theirs = [error for error in errors if getattr(error, "exit_status", 1) == 2]
    if theirs:
        return theirs[0]
    named = name_shards(failed[0].item.shards)
    error = StageError(
        "ingest",
        f"{len(failed)} stretches of {vectors.path} failed; the first one's ({named}) cause: "
        f"{type(errors[0]).__name__}: {errors[0]}; shards that are converted stay so: run again to go on",
    )
    error.__cause__ = errors[0]
    return error


STAGE = Stage("ingest", need, execute)
