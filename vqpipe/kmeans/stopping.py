"""When forgetting ends, and when training does: decided by held-out rows."""

from __future__ import annotations

from dataclasses import replace

from vqpipe.kmeans.schedule import Schedule
from vqpipe.kmeans.state import TrainState


def next_phase(state: TrainState, schedule: Schedule, stop: float) -> TrainState:
    """Return the state in the phase that the next round belongs to.

    Forgetting ends at its planned share of the rows, or sooner when a whole pass no longer lowers
    held-out distortion by ``stop``. Averaging then takes a quarter as many rows again.

    Parameters
    ----------
    state : TrainState
    schedule : Schedule
    stop : float
        Fraction of the held-out distortion per pass; 0 to take every planned round.
    """
    if state.phase == "forgetting" and (
        state.round >= schedule.forgetting_rounds or _has_settled(state, schedule, stop)
    ):
        state = replace(state, phase="averaging", averaging_from=state.round)
    if state.phase == "averaging" and state.round >= schedule.averaging_ends(state.averaging_from):
        state = replace(state, phase="finished")
    return state


def _has_settled(state: TrainState, schedule: Schedule, stop: float) -> bool:
    """Say whether the last pass lowered held-out distortion by less than ``stop``."""
    if stop == 0 or not state.leg:
        return False
    now = state.leg[-1]
    if now.heldout is None:
        return False
    pass_ago = now.rows_seen - schedule.rows
    earlier = [
        record.heldout
        for record in state.leg
        if record.heldout is not None and record.rows_seen <= pass_ago
    ]
    return bool(earlier) and now.heldout > earlier[-1] * (1 - stop)
