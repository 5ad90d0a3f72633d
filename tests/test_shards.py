"""Shards and slices: every row once, in whole units, whatever the sizes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.shards import (
    MAX_SHARDS,
    TARGET_SHARD_ROWS,
    batch_slices,
    choose_shard_rows,
    choose_slice_rows,
    plan_shards,
)

SIZE = st.integers(1, 300)


@settings(deadline=None)
@given(rows=st.integers(0, 2000), shard_rows=SIZE)
def test_shards_hold_every_row_once_in_order(rows: int, shard_rows: int) -> None:
    shards = list(plan_shards(rows, shard_rows))
    covered = [row for shard in shards for row in range(shard.start, shard.stop)]
    assert covered == list(range(rows))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.rows == shard_rows for shard in shards[:-1])
    assert all(0 < shard.rows <= shard_rows for shard in shards)


@settings(deadline=None)
@given(
    rows=st.integers(1, 10**11),
    unit_rows=st.integers(1, 10**7),
    row_code_bytes=st.integers(1, 4096),
    memory_bytes=st.integers(1 << 26, 1 << 38),
)
def test_shard_rows_are_whole_units_that_fit_an_eighth_of_memory(
    rows: int, unit_rows: int, row_code_bytes: int, memory_bytes: int
) -> None:
    chosen = choose_shard_rows(rows, unit_rows, row_code_bytes, memory_bytes)
    assert chosen > 0
    assert chosen % unit_rows == 0
    # One unit is the least that a task can own; whether it fits is checked elsewhere.
    assert chosen == unit_rows or chosen * row_code_bytes <= memory_bytes // 8


@settings(deadline=None)
@given(
    rows=st.integers(1, MAX_SHARDS * TARGET_SHARD_ROWS),
    unit_rows=st.integers(1, 3 * TARGET_SHARD_ROWS),
)
def test_shard_rows_are_the_multiple_nearest_to_the_target(rows: int, unit_rows: int) -> None:
    chosen = choose_shard_rows(rows, unit_rows, row_code_bytes=1, memory_bytes=1 << 40)
    near = [max(unit_rows, chosen + step * unit_rows) for step in (-1, 0, 1)]
    assert abs(chosen - TARGET_SHARD_ROWS) == min(abs(other - TARGET_SHARD_ROWS) for other in near)


@settings(deadline=None)
@given(rows=st.integers(10**10, 10**12), unit_rows=st.integers(1, 10**5))
def test_a_huge_source_has_about_ten_thousand_shards(rows: int, unit_rows: int) -> None:
    chosen = choose_shard_rows(rows, unit_rows, row_code_bytes=1, memory_bytes=1 << 50)
    # Rounding to a whole unit may add up to half a unit's share of shards.
    assert rows / chosen <= MAX_SHARDS * 1.1


@settings(deadline=None)
@given(
    batch_rows=st.integers(1, 10**6), block_rows=st.integers(1, 20_000), most=st.integers(1, 100)
)
def test_a_slice_is_the_fewest_whole_blocks_that_make_few_enough_slices(
    batch_rows: int, block_rows: int, most: int
) -> None:
    chosen = choose_slice_rows(batch_rows, block_rows, most)
    assert chosen % block_rows == 0
    assert chosen * most >= batch_rows
    assert (chosen - block_rows) * most < batch_rows


@settings(deadline=None)
@given(
    batches=st.integers(1, 8),
    batch_rows=SIZE,
    slice_rows=SIZE,
    rows=SIZE,
)
def test_batches_walk_through_the_rows_over_and_over_without_a_gap(
    batches: int, batch_rows: int, slice_rows: int, rows: int
) -> None:
    walked: list[int] = []
    for batch in range(batches):
        slices = batch_slices(batch * batch_rows, batch_rows, slice_rows, rows)
        assert [piece.index for piece in slices] == list(range(len(slices)))
        # A slice lies inside the rows: it never crosses their end.
        assert all(0 <= piece.start < piece.stop <= rows for piece in slices)
        assert all(piece.rows <= slice_rows for piece in slices)
        walked += [row for piece in slices for row in range(piece.start, piece.stop)]
    assert walked == [position % rows for position in range(batches * batch_rows)]


@settings(deadline=None)
@given(batch=st.integers(0, 1000), batch_rows=SIZE, slice_rows=SIZE, rows=SIZE)
def test_a_batch_is_cut_only_by_slice_size_and_by_the_end(
    batch: int, batch_rows: int, slice_rows: int, rows: int
) -> None:
    """A slice ends because it is full, because the rows end, or because the batch does."""
    slices = batch_slices(batch, batch_rows, slice_rows, rows)
    assert all(piece.rows == slice_rows or piece.stop == rows for piece in slices[:-1])
