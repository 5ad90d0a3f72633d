"""The pace of encoding: rows over time, in a size that does not grow with the shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import WORDS, config_of, run_here

from vqpipe.pipeline.pace import LEAST_PIECES, MOST_PIECES, Finish, measure_pace

TIMES = st.floats(0.001, 1e5)
FINISHES = st.lists(
    st.builds(Finish, st.integers(0, 10**6), st.integers(1, 10**7), TIMES, TIMES),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(FINISHES)
def test_all_rows_and_shards_are_in_it(finishes: list[Finish]) -> None:
    pace = measure_pace(finishes)
    assert pace is not None
    rows = sum(finish.rows for finish in finishes)
    assert pace["rows"] == rows
    assert pace["seconds"] == max(finish.ended for finish in finishes)
    pieces = len(pace["rows_per_second"])
    assert LEAST_PIECES <= pieces == len(pace["shards_ended"]) <= MOST_PIECES
    assert sum(pace["rows_per_second"]) * pace["seconds"] / pieces == pytest.approx(rows, rel=1e-4)
    assert sum(pace["shards_ended"]) == pace["shards"] == len(finishes)
    assert min(pace["rows_per_second"]) >= 0
    json.dumps(pace, allow_nan=False)


def test_ten_thousand_shards_take_no_more_room() -> None:
    finishes = [Finish(shard, 1 << 20, 2.0, 2.0 + shard / 4) for shard in range(10_000)]
    pace = measure_pace(finishes)
    assert pace is not None
    assert len(json.dumps(pace)) < 4_000
    # Eight at a time, each in two seconds.
    assert pace["rows_per_second"][50] == pytest.approx(4 * (1 << 20), rel=1e-3)
    assert measure_pace([]) is None


def test_a_rerun_tells_of_the_shards_that_it_encoded(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:2500].astype(np.float32)
    np.save(tmp_path / "rows.npy", vectors[:2000])
    keys = {"encode__shard_rows": 500, "train__rounds": 2, "evaluate__queries": 0, "export": []}
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM9", **keys)

    def pace() -> dict[str, object]:
        found = json.loads((tmp_path / "out/v1/stages.json").read_text())
        return dict(found["stages"]["encode"]["pace"])

    run_here(config)
    assert (pace()["shards"], pace()["rows"]) == (4, 2000)
    np.save(tmp_path / "rows.npy", vectors)
    run_here(config)
    assert (pace()["shards"], pace()["rows"], pace()["slowest"]) == (1, 500, 4)
