"""When forgetting ends, and when training does: decided by held-out rows."""

from __future__ import annotations

from vqpipe.kmeans.schedule import Schedule
from vqpipe.kmeans.state import Phase, TrainState


def next_phase(state: TrainState, schedule: Schedule, stop: float) -> Phase:
    """Return the phase that the next round belongs to.

    Forgetting ends at its planned share of the rounds, or sooner when a whole pass no longer lowers
    held-out distortion by ``stop``. Averaging then takes as many rounds, in proportion to those that
    forgot, as it was planned to, or fewer by the same rule.

    Parameters
    ----------
    state : TrainState
    schedule : Schedule
    stop : float
        Fraction of the held-out distortion per pass; 0 to take every planned round.
    """
    if state.round >= schedule.rounds:
        return "finished"
    settled = _has_settled(state, schedule, stop)
    if state.phase == "forgetting":
        return "averaging" if settled or state.round >= schedule.forgetting_rounds else "forgetting"
    if state.phase == "averaging":
        planned = schedule.averaging_rounds * state.averaging_from / schedule.forgetting_rounds
        taken = state.round - state.averaging_from
        return "finished" if settled or taken >= max(1, round(planned)) else "averaging"
    return "finished"


def _has_settled(state: TrainState, schedule: Schedule, stop: float) -> bool:
    """Say whether the last pass of this phase lowered held-out distortion by less than ``stop``."""
    if stop == 0 or not state.history:
        return False
    now = state.history[-1]
    if now.heldout is None:
        return False
    pass_ago = now.rows_seen - max(schedule.rows, schedule.check_rounds * schedule.batch_rows)
    earlier = [
        record.heldout
        for record in state.history
        if record.heldout is not None
        and record.rows_seen <= pass_ago
        and record.round > state.averaging_from
    ]
    return bool(earlier) and now.heldout > earlier[-1] * (1 - stop)
