"""The route of ``encode.assign: fast``: a search over codewords with a bounded loss."""

from __future__ import annotations

from dataclasses import asdict

from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sizes import MOST_HELDOUT_ROWS
from vqpipe.quantizer import choose_search, probes_to_judge
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.codebook_file import write_route
from vqpipe.tasks.search import SearchesJob, judge_searches

# The config's word promises at most so much more distortion.
MOST_FAST_LOSS = 0.002

# Where there is no sample, rows of the source judge: so many stretches of so many rows, read whole.
_STRETCHES, _STRETCH_ROWS = 8, 1000

# Each task puts the codewords into groups anew, so there are few.
_SLICE_ROWS = 2500


def settle_route(run: Run) -> None:
    """Choose the route by which rows are encoded, once a generation, and store it with the codebook.

    Under ``assign: fast`` that is the search through the fewest groups of codewords that leaves at most 0.2%
    more distortion, by what a sample of rows can tell; where none does, or codewords are few, all of them are
    compared.
    """
    searches = [choose_search(probes) for probes in probes_to_judge(run.spec)]
    wanted = run.config.encode.assign == "fast" and searches
    if not wanted or "encode_route" in run.generation.facts:
        return
    sample = run.sample()
    judges = sample if sample is not None and sample.rows["heldout"] else run.source
    job = SearchesJob(judges, run.generation.codebook_path, run.route, tuple(searches))
    losses = run.runner.fold(judge_searches, _slices(run, heldout=judges is sample), job)
    chosen, loss = run.route, 0.0
    for route, fraction, bound in zip(searches, losses.fractions, losses.bounds, strict=True):
        if bound <= MOST_FAST_LOSS:
            chosen, loss = route, fraction
            break
    write_route(run.generation.codebook_path, chosen)
    run.generation.facts.update(encode_route=asdict(chosen), search_loss=loss)
    run.generation.save()


def _slices(run: Run, *, heldout: bool) -> list[Shard]:
    """Return the rows that judge, in slices of which each is one piece of work."""
    sample = run.sample()
    if heldout and sample is not None:
        rows = min(sample.rows["heldout"], MOST_HELDOUT_ROWS)
        return list(plan_shards(rows, _SLICE_ROWS))
    step = max(_STRETCH_ROWS, run.source.rows // _STRETCHES)
    return [
        Shard(index, start, min(start + _STRETCH_ROWS, run.source.rows))
        for index, start in enumerate(range(0, run.source.rows, step))
    ]
