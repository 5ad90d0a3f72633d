"""The members of a cluster: the rows that a codeword stands for."""

from __future__ import annotations

from vqpipe.config import Config
from vqpipe.errors import OutputError
from vqpipe.evaluation.neighbours import Neighbours
from vqpipe.pipeline.finished import Finished
from vqpipe.pipeline.recorded import recorded_source
from vqpipe.progress import Progress
from vqpipe.runner import Runner
from vqpipe.shards import ceil_div, plan_shards
from vqpipe.sources import VectorArray
from vqpipe.tasks.members import Members, MembersJob, find_members

MOST_TASKS = 256

# About what one core reads and compares.
ROWS_PER_SECOND = 2e7


def members_seconds(found: Finished) -> float:
    """Return about how long it takes on one core to look for members."""
    return found.codes.rows / ROWS_PER_SECOND


def find_output_members(
    found: Finished,
    codeword: int,
    limit: int,
    config: Config | None,
    runner: Runner,
    progress: Progress,
) -> Members:
    """Return the members of a codeword of a KM codebook: how many there are, and the nearest.

    Parameters
    ----------
    found : Finished
    codeword : int
    limit : int
        Rows that are listed at most: what is held is bounded by this.
    config : Config or None
        Of the last run, which names the source that rows are read from where their errors were not kept.
    runner : Runner
    progress : Progress

    Raises
    ------
    OutputError
        For another kind of codebook, a codeword that there is not, or rows that cannot be measured.
    """
    codebook, codes = found.codebook, found.codes
    if codebook.kind != "KM":
        raise OutputError(
            f"output {found.output.path}: its codebook is {codebook.spec}, of which a row has {codebook.columns} "
            "codes, each for a part of it, so no codeword stands for a set of rows; members are of KM codebooks. "
            "The rows near to a vector are found by `vqpipe search`"
        )
    if not 0 <= codeword < codebook.k:
        raise OutputError(
            f"--codeword {codeword}: the codebook {codebook.spec} has codewords 0 to {codebook.k - 1:,}"
        )
    source = None if codes.store_error else _source(found, config)
    job = MembersJob(
        codes,
        codes.records(),
        found.generation.codebook_path,
        found.digest,
        codeword,
        min(limit, codes.rows),
        source,
    )
    progress.begin("members", codes.rows, "rows")
    stretch = codes.shard_rows * ceil_div(codes.shard_count, MOST_TASKS)
    members = Members(0, Neighbours.none(1, job.limit), 0)
    for outcome in runner.map(find_members, plan_shards(codes.rows, stretch), job):
        members += outcome.value()
        progress.advance(outcome.item.rows)
    return members


def _source(found: Finished, config: Config | None) -> VectorArray:
    """Return the source to measure rows by.

    Raises
    ------
    OutputError
    """
    source: VectorArray | None = None
    why = "its config is not known"
    if config is not None:
        source, why = recorded_source(config, found.generation)
    if source is not None and source.rows < found.codes.rows:
        why = f"it has {source.rows:,} rows now, and there are {found.codes.rows:,} codes"
    if source is None or why:
        raise OutputError(
            f"output {found.output.path}: keeps no distances (encode.store_error: true would), and its source cannot "
            f"be read to take them: {why}"
        )
    return source
