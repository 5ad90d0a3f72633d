"""The schedule of a training: how many rows a round takes, what is remembered, and when it ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.codebook import Codebook, CodebookSpec
from vqpipe.kmeans.schedule import Schedule, memory_rows, plan_schedule
from vqpipe.kmeans.state import RoundRecord, TrainState
from vqpipe.kmeans.stopping import next_phase


def walk(schedule: Schedule, stop: float, heldout: list[float]) -> list[str]:
    """Return the phase that each round belonged to, with these held-out distortions in turn."""
    centroids = np.zeros((1, 1, 1, 1), dtype=np.float32)
    state = TrainState.begin(Codebook("KM", "l2", np.zeros(1, np.float32), centroids))
    looks = iter(heldout)
    phases: list[str] = []
    while state.phase != "finished":
        if state.round and schedule.looks_after(state.round):
            state = state.looked(next(looks, heldout[-1]), None)
            state = next_phase(state, schedule, stop)
        phases.append(state.phase)
        taken = state.round + 1
        record = RoundRecord(taken, schedule.starts[taken], 1.0, None, 0, 0)
        state = TrainState(
            state.codebook, state.sums, state.weights, state.errors, taken, state.phase,
            state.averaging_from, 0, (*state.history, record),
        )  # fmt: skip
        state = next_phase(state, schedule, stop)
    return phases


def even(rows: int, batch: int, rounds: int) -> Schedule:
    """Return a schedule of equal batches."""
    return Schedule(rows, 1, (batch,) * rounds)


@settings(deadline=None, max_examples=50)
@given(rounds=st.integers(1, 300), rows=st.integers(1, 10**6), batch=st.integers(1, 10**5))
def test_without_a_stop_rule_every_planned_round_is_taken(
    rounds: int, rows: int, batch: int
) -> None:
    schedule = even(rows, min(batch, rows), rounds)
    phases = walk(schedule, 0.0, [1.0])
    assert len(phases) == rounds
    assert phases.count("forgetting") == schedule.forgetting_rounds
    # Averaging follows forgetting and nothing follows averaging.
    assert phases == sorted(phases, reverse=True)


def test_a_flat_heldout_curve_ends_training_early_but_not_before_a_whole_pass() -> None:
    phases = walk(even(10_000, 1000, 200), 0.001, [1.0])
    assert 10 <= phases.count("forgetting") < 20
    # A quarter as many rows again, so that averaging is a fifth of all.
    assert phases.count("averaging") == pytest.approx(phases.count("forgetting") / 4, abs=1)


def test_a_falling_heldout_curve_takes_every_planned_round() -> None:
    falling = [0.99**look for look in range(1000)]
    assert len(walk(even(10_000, 1000, 200), 0.001, falling)) == 200


def test_the_stop_rule_compares_whole_passes() -> None:
    """A curve that falls by less than the threshold a pass ends; by more, it goes on."""
    schedule = even(8000, 1000, 1000)
    looks_a_pass = sum(schedule.looks_after(taken) for taken in range(101, 109))
    assert looks_a_pass == 2
    for share, goes_on in ((0.5, False), (2.0, True)):
        step = (1 - 0.01 * share) ** (1 / looks_a_pass)
        curve = [step**look for look in range(3000)]
        assert (len(walk(schedule, 0.01, curve)) == 1000) == goes_on


@settings(deadline=None, max_examples=60)
@given(
    k=st.integers(1, 1 << 20),
    rows=st.integers(1, 10**9),
    batch_rows=st.none() | st.integers(10**3, 10**7),
    rounds=st.none() | st.integers(1, 500),
    known=st.sampled_from([0, 10**6]),
)
def test_a_schedule_keeps_what_the_config_says_and_its_own_promises(
    k: int, rows: int, batch_rows: int | None, rounds: int | None, known: int
) -> None:
    if batch_rows is not None and rounds is None:
        rows = min(rows, 200 * batch_rows)
    schedule = plan_schedule(CodebookSpec("KM", 1, k), rows, batch_rows, rounds, known)
    assert all(1 <= batch <= rows for batch in schedule.batches)
    assert 1 <= schedule.forgetting_rounds <= schedule.rounds
    if batch_rows is not None:
        assert set(schedule.batches[:-1]) <= {min(batch_rows, rows)}
    if rounds is not None:
        assert schedule.rounds == rounds
    else:
        least = min(rows, max(8192, 4 * k))
        assert schedule.starts[-1] == max(-(-36 * rows // 10), 24 * least)
    for taken in range(schedule.rounds):
        decay, averaging = schedule.decay(taken), schedule.averaging_decay(taken)
        assert 0 <= decay < 1
        # Nothing older than a pass is remembered; less is remembered while forgetting.
        assert decay <= averaging + 1e-12
        if schedule.batches[taken] == rows:
            assert decay == averaging == 0


@pytest.mark.parametrize(
    ("spec", "rows", "heldout"),
    [
        (CodebookSpec("KM", 1, 1024), 190_000, 10_000),
        (CodebookSpec("PQ", 16, 256), 190_000, 10_000),
        (CodebookSpec("KM", 1, 16_384), 990_000, 10_000),
        (CodebookSpec("KM", 1, 1024), 1_024_000, 10_000),
    ],
)
def test_training_and_its_looks_make_no_more_than_four_passes(
    spec: CodebookSpec, rows: int, heldout: int
) -> None:
    schedule = plan_schedule(spec, rows)
    looks = sum(schedule.looks_after(taken) for taken in range(1, schedule.rounds + 1))
    assert schedule.starts[-1] + looks * heldout <= 4 * (rows + heldout)


@given(k=st.integers(1, 1 << 20), seen=st.integers(0, 10**10))
def test_memory_grows_with_the_root_of_the_rows_seen(k: int, seen: int) -> None:
    memory = memory_rows(k, seen) / k
    assert memory == pytest.approx(max(10.0, 2 * (seen / k) ** 0.5))
    assert memory_rows(k, seen + 1) >= memory_rows(k, seen)


def test_growing_batches_are_a_fixed_share_of_what_is_remembered() -> None:
    schedule = plan_schedule(CodebookSpec("KM", 1, 4096), 4_000_000)
    decays = [schedule.decay(taken) for taken in range(schedule.rounds - 1)]
    assert decays == pytest.approx([0.6] * len(decays), abs=1e-4)
    assert schedule.largest_batch > 3 * schedule.batches[0]
