"""Looks at the rows that judge a training: which they are, and what they say of the codewords."""

from __future__ import annotations

from dataclasses import replace

from vqpipe.kmeans.state import TrainState
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sizes import MOST_HELDOUT_ROWS
from vqpipe.quantizer import more_probes
from vqpipe.shards import plan_shards
from vqpipe.storage.samples import Sample, SetName
from vqpipe.tasks.train import Look, Slice

# Where codewords are searched and not all compared, the codewords found for held-out rows may be this fraction
# farther than the nearest ones; else more groups are searched. Half a percent of misled rows moves the means of
# the others by far less.
MOST_SEARCH_LOSS = 0.005


def look_slices(run: Run, sample: Sample, state: TrainState) -> list[Slice]:
    """Return the slices of the held-out rows; of training rows where there are none and a search is judged."""
    name: SetName = "heldout" if sample.rows["heldout"] else "train"
    rows = min(sample.rows[name], MOST_HELDOUT_ROWS if name == "train" else sample.rows[name])
    if name == "train" and not state.probes:
        return []
    return [Slice(name, shard, look=True) for shard in plan_shards(rows, run.slice_rows(rows))]


def looked(run: Run, sample: Sample, state: TrainState, look: Look) -> TrainState:
    """Keep what the held-out rows say, and search in more groups where too much is missed."""
    heldout = look.distortion if sample.rows["heldout"] else None
    state = state.looked(heldout, look.search_loss if state.probes else None)
    if state.probes and look.search_loss > MOST_SEARCH_LOSS:
        state = replace(state, probes=more_probes(run.spec, state.probes))
    return state
