"""Where training starts: the first codewords, drawn or taken from an earlier codebook, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vqpipe.codebook import SURPLUS, Codebook
from vqpipe.dtypes import Float32
from vqpipe.errors import CodebookError
from vqpipe.evaluation.health import name_columns
from vqpipe.kmeans.schedule import memory_rows
from vqpipe.kmeans.seeding import first_distinct
from vqpipe.kmeans.state import TrainState
from vqpipe.pipeline.given import read_initial
from vqpipe.pipeline.run import Run
from vqpipe.quantizer import Quantizer, choose_search, first_probes
from vqpipe.rows import prepare_rows
from vqpipe.runner import Item, Job, Result
from vqpipe.storage.samples import Sample
from vqpipe.tasks.train import SeedJob, seed_codewords

_SEEDING_ROWS = 65_536
# Where rows must be placed, or encoded by the stages before, to draw codewords: no more of them than it takes.
_PLACED_SEEDING_ROWS = 4_096


def begin_training(run: Run, sample: Sample) -> TrainState:
    """Return the state before the first round, its codewords drawn or taken from ``train.init``.

    Raises
    ------
    CodebookError
        If a KM codebook wants more codewords than there are distinct rows.
    """
    metric, spec = run.config.source.metric, run.spec
    offset = np.zeros(run.source.dim, dtype=np.float32)
    if metric == "l2":
        offset = np.array(sample.mean, dtype=np.float32)
    if run.config.train.init is not None:
        # Its own offset is where the rows were that it was learnt from: far from there products cancel.
        initial = replace(initial_codebook(run).first_stages(1), offset=offset)
        return _begin_known(run, sample, initial)
    pieces = (prepare_rows(piece, metric)[0] for piece in sample.pieces("train", _SEEDING_ROWS))
    centroids, distinct = first_distinct(pieces, spec.m, spec.k)
    if spec.kind == "KM" and distinct[0] < spec.k:
        raise CodebookError(
            f"codebook {spec}: {spec.k:,} codewords are wanted but the {sample.rows['train']:,} training rows hold "
            f"only {distinct[0]:,} distinct ones; take at most KM{distinct[0]} or give more rows"
        )
    if spec.kind == "OPQ":
        # Which columns have surplus codewords is known once the rotation is.
        straight = np.eye(run.source.dim, dtype=np.float32)
        codebook = Codebook(spec.kind, metric, offset, centroids[None], straight)
        return replace(TrainState.begin(codebook), phase="turning")
    warn_of_surplus(run, distinct)
    state = TrainState.begin(Codebook(spec.kind, metric, offset, centroids[None]))
    # A few surplus codewords are far from every group.
    return replace(state, probes=first_probes(spec) if min(distinct) == spec.k else 0)


def begin_next_stage(run: Run, sample: Sample, state: TrainState) -> TrainState:
    """Return the state before the first round of the next residual stage."""
    before, stage = state.codebook, state.codebook.stages
    if run.config.train.init is not None:
        known = initial_codebook(run).centroids[stage]
        codebook = replace(before, centroids=np.concatenate([before.centroids, known[None]]))
        return _begin_known(run, sample, codebook).after(state)
    seeds, distinct = draw_placed(run, sample, before, first=False)
    warn_of_surplus(run, [run.spec.k] * stage + distinct)
    codebook = replace(before, centroids=np.concatenate([before.centroids, seeds[None]]))
    return TrainState.begin(codebook).after(state)


def draw_placed(
    run: Run, sample: Sample, codebook: Codebook, *, first: bool
) -> tuple[Float32, list[int]]:
    """Return codewords drawn from rows as they are placed, or as the codebook leaves them.

    Returns
    -------
    centroids : float32 array of shape (m, k, dim / m)
        To be compared with them: offset subtracted.
    distinct : list of int
        As `first_distinct` counts them.
    """
    job = SeedJob(sample, Quantizer(codebook, choose_search(0)), first)
    return run_one(run, seed_codewords, max(_PLACED_SEEDING_ROWS, run.spec.k), job)


def initial_codebook(run: Run) -> Codebook:
    """Return the codebook that ``train.init`` names."""
    path, metric = str(run.config.train.init), run.config.source.metric
    return read_initial(path, run.spec, run.source.dim, metric)


def warn_of_surplus(run: Run, distinct: list[int]) -> None:
    """Say which columns have fewer distinct sub-vectors than codewords."""
    short = [column for column, count in enumerate(distinct) if count < run.spec.k]
    if short:
        run.warn(
            f"codebook {run.spec}: column {name_columns(short)} has fewer distinct sub-vectors ({min(distinct)} the "
            f"fewest) than its {run.spec.k} codewords; the surplus stays unused"
        )


def count_distinct(codebook: Codebook) -> list[int]:
    """Return how many codewords of each column are not surplus."""
    far = (codebook.centroids == SURPLUS).all(axis=3)
    return [int(count) for count in (~far).sum(axis=2).ravel()]


def run_one(run: Run, task: Callable[[Item, Job], Result], item: Item, job: Job) -> Result:
    """Run one task where tasks run, and return its result."""
    (outcome,) = run.runner.map(task, [item], job)
    return outcome.value()


def _begin_known(run: Run, sample: Sample, codebook: Codebook) -> TrainState:
    """Return the state that goes on from codewords that are known."""
    spec, rows = run.spec, sample.rows["train"]
    return replace(
        TrainState.begin(codebook, memory_rows(spec.k, rows) / spec.k), probes=first_probes(spec)
    )
