"""The sample stage: a seeded uniform draw, written as shuffled arrays."""

from __future__ import annotations

import numpy as np

from vqpipe.permutation import Permutation
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.shards import Shard, ceil_div, plan_shards
from vqpipe.storage.folder import Folder
from vqpipe.storage.samples import (
    SETS,
    SetName,
    create_sample,
    finish_sample,
    target_shard_rows,
)
from vqpipe.tasks.draw import (
    Draw,
    GatherJob,
    Moments,
    Scattered,
    ScatterJob,
    Target,
    gather_rows,
    scatter_rows,
)
from vqpipe.urls import split

MOST_TASKS = 256

# Of the folder where scatter tasks leave their rows, beside the sample.
SCRATCH = ".scratch"

# A scatter task that reads less than this is all overhead.
SCATTER_BYTES = 64 << 20


def need(run: Run) -> Need:
    """Say whether a sample must be drawn."""
    if run.given is not None:
        return Need("done", "the codebook is given, so nothing is learnt")
    sample = run.sample()
    if sample is not None and "sample" not in run.redo:
        return Need("done", f"{sample.rows['train']:,} training rows were drawn before")
    if Folder(_scratch(run)).names() and "sample" not in run.redo:
        return Need("partial", "a draw was interrupted")
    return Need("to do", run.news or "no sample was drawn")


def execute(run: Run) -> str:
    """Draw the sample: scatter, then gather."""
    output, path = run.output / "samples", run.sample_path
    output.create()
    scratch = Folder(_scratch(run))
    if "sample" in run.redo:
        output.remove(split(path)[1])
        output.remove(split(scratch.path)[1])
    scratch.create()
    draws = plan_draws(run)
    tasks = scatter_shards(run)
    run.progress.begin("sample", run.rows_at_begin, "rows")
    scattered: list[Scattered] = []
    scatter_job = ScatterJob(run.source, run.config.source.metric, draws, scratch.path)
    for outcome in run.runner.map(scatter_rows, tasks, scatter_job):
        scattered.append(outcome.value())
        run.progress.advance(outcome.item.rows)
    rows, targets = plan_targets(draws, scattered)
    run.may_write()
    create_sample(path, rows, run.source.dim, run.source.dtype)
    gather_job = GatherJob(scratch.path, len(tasks), path, run.config.source.metric)
    sums: dict[Target, Moments] = {}
    run.progress.begin("sample", sum(rows.values()), "drawn rows")
    for gathered in run.runner.map(gather_rows, targets, gather_job):
        sums[gathered.item] = gathered.value()
        run.progress.advance(gathered.item.stop - gathered.item.start)
    total = np.zeros(run.source.dim)
    for target in targets:
        if target.name == "train":
            total += sums[target].total
    mean = (total / max(1, rows["train"])).astype(np.float32)
    invalid_rows = sum(part.invalid_rows for part in scattered)
    run.may_write()
    finish_sample(path, rows, invalid_rows, mean)
    output.remove(split(scratch.path)[1])
    left_out = f", {invalid_rows:,} invalid ones left out" if invalid_rows else ""
    run.rows_done["sample"] = run.rows_at_begin
    run.generation.mark_done("sample", run.sample_fingerprint, path=f"samples/{split(path)[1]}")
    return f"{rows['train']:,} training and {rows['heldout']:,} held-out rows drawn{left_out}"


def _scratch(run: Run) -> str:
    return f"{run.sample_path}{SCRATCH}"


def plan_draws(run: Run) -> tuple[Draw, ...]:
    """Return which places of which permutation make each set.

    Held-out and training rows are places of one permutation, so they are disjoint; the database is
    drawn by another.
    """
    rows, sizes = run.rows_at_begin, run.sizes
    learning = Permutation(rows, run.config.seed, "learning")
    searching = Permutation(rows, run.config.seed, "searching")
    spans: dict[SetName, tuple[Permutation, int, int]] = {
        "train": (learning, sizes.heldout, sizes.heldout + sizes.train),
        "heldout": (learning, 0, sizes.heldout),
        "database": (searching, 0, sizes.database),
    }
    return tuple(
        Draw(name, *spans[name], target_shard_rows(spans[name][2], run.source.row_bytes)[1])
        for name in SETS
    )


def scatter_shards(run: Run) -> list[Shard]:
    """Cut the source into at most 256 stretches of whole units."""
    rows, unit = run.rows_at_begin, run.source.unit_rows
    wanted = max(ceil_div(rows, MOST_TASKS), SCATTER_BYTES // run.source.row_bytes, 1)
    return list(plan_shards(rows, ceil_div(wanted, unit) * unit))


def plan_targets(
    draws: tuple[Draw, ...], scattered: list[Scattered]
) -> tuple[dict[SetName, int], list[Target]]:
    """Return the rows of each set once invalid ones are left out, and the shards to gather.

    Rows move up to fill the gaps, so a target shard holds the usable rows of its own places and
    perhaps of some after them.
    """
    rows: dict[SetName, int] = {}
    targets: list[Target] = []
    for draw in draws:
        valid = np.zeros(draw.shard_count + 1, dtype=np.int64)
        for part in scattered:
            valid[1:] += np.array(part.valid[draw.name], dtype=np.int64)
        ends = np.cumsum(valid)
        rows[draw.name] = int(ends[-1])
        for shard in plan_shards(rows[draw.name], draw.shard_rows):
            first = int(np.searchsorted(ends, shard.start, side="right")) - 1
            last = int(np.searchsorted(ends, shard.stop, side="left"))
            targets.append(
                Target(
                    draw.name,
                    shard.start,
                    shard.stop,
                    first * draw.shard_rows,
                    last * draw.shard_rows,
                    shard.start - int(ends[first]),
                )
            )
    return rows, targets


def kept(run: Run) -> str:
    """Say what an interrupted draw leaves."""
    return "what was drawn stays"


STAGE = Stage("sample", need, execute, kept=kept)
