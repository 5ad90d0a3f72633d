"""Memory and disk: what is needed grows with every size, and what cannot fit is refused."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.codebook import CodebookSpec
from vqpipe.errors import LimitError
from vqpipe.memory import PROCESS_BYTES, Sizes, check_chunk, check_disk, check_memory, worker_bytes

BASE = Sizes(
    dim=128,
    row_bytes=512,
    chunk_bytes=100 << 20,
    spec=CodebookSpec("PQ", 16, 256),
    shard_rows=1 << 20,
    batch_rows=65536,
    slice_rows=8192,
    window_rows=65_536,
    sample_shard_rows=65_536,
    scatter_rows=500_000,
    listed_rows=100_000,
    queries=1000,
    places=100,
)


def shown(count: int) -> str:
    """Write a size as messages do."""
    return f"{count / 1e6:,.0f} MB" if count >= 1_000_000 else f"{count / 1e3:,.0f} kB"


NUMBERS = [field.name for field in fields(Sizes) if field.name != "spec"]

# What a stage holds by the design: the sizes that its peak must grow with.
GROWS = {
    "sample": {"row_bytes", "chunk_bytes", "scatter_rows"},
    "train": {"dim", "row_bytes", "chunk_bytes", "slice_rows"},
    "encode": {"dim", "row_bytes", "chunk_bytes", "shard_rows", "window_rows"},
    "evaluate": {
        "dim",
        "row_bytes",
        "shard_rows",
        "sample_shard_rows",
        "queries",
        "places",
    },
    "export": {"dim", "shard_rows"},
}


def number(data: st.DataObject) -> Sizes:
    """Draw sizes of every magnitude."""
    drawn = {name: data.draw(st.integers(1, 10**7), label=name) for name in NUMBERS}
    spec = CodebookSpec("PQ", data.draw(st.integers(1, 64)), data.draw(st.integers(1, 1 << 16)))
    return Sizes(spec=spec, **drawn)


@pytest.mark.parametrize("name", NUMBERS)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_no_stage_needs_less_when_a_size_grows(name: str, data: st.DataObject) -> None:
    sizes = number(data)
    grown = replace(sizes, **{name: getattr(sizes, name) * 2})
    before, after = worker_bytes(sizes), worker_bytes(grown)
    assert before.keys() == after.keys()
    assert all(after[stage] >= before[stage] for stage in before)


@pytest.mark.parametrize(
    ("stage", "name"), [(stage, name) for stage, names in GROWS.items() for name in sorted(names)]
)
def test_a_stage_needs_more_when_a_size_that_it_holds_grows(stage: str, name: str) -> None:
    grown = replace(BASE, **{name: getattr(BASE, name) * 3})
    assert worker_bytes(grown)[stage] > worker_bytes(BASE)[stage]


def test_sums_are_held_for_no_more_codewords_than_a_batch_has_rows() -> None:
    many = replace(BASE, spec=CodebookSpec("KM", 1, 1 << 20))
    needed = [
        worker_bytes(replace(many, batch_rows=rows))["train"]
        for rows in (1 << 19, 1 << 20, 1 << 21)
    ]
    assert needed[0] < needed[1] == needed[2]


@pytest.mark.parametrize("spec", [CodebookSpec("PQ", 16, 4096), CodebookSpec("PQ", 64, 256)])
def test_a_larger_codebook_needs_more_wherever_codes_or_codewords_are_held(
    spec: CodebookSpec,
) -> None:
    before, after = worker_bytes(BASE), worker_bytes(replace(BASE, spec=spec))
    assert all(after[stage] > before[stage] for stage in ("train", "encode", "evaluate", "export"))


def test_sizes_of_the_sample_matter_to_the_stage_that_gathers_it() -> None:
    few = replace(BASE, scatter_rows=1)
    before, after = worker_bytes(few), worker_bytes(replace(few, sample_shard_rows=131_072))
    assert after["sample"] > before["sample"]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_stage_needs_at_least_the_arrays_that_it_cannot_do_without(data: st.DataObject) -> None:
    """Longhand: the codebook (stored, centred and as operands), a window or slice, a shard of codes."""
    sizes = number(data)
    needed = worker_bytes(sizes)
    codebook = sizes.spec.k * sizes.dim * 4
    shard = sizes.shard_rows * sizes.spec.m * (1 if sizes.spec.k <= 256 else 2)
    assert needed["train"] > 3 * codebook + sizes.slice_rows * sizes.dim * 4
    assert needed["encode"] > 3 * codebook + sizes.window_rows * sizes.dim * 4 + shard
    assert needed["encode"] > sizes.chunk_bytes
    assert needed["sample"] > sizes.scatter_rows * sizes.row_bytes
    assert needed["sample"] > sizes.sample_shard_rows * sizes.row_bytes
    assert needed["evaluate"] > sizes.queries * sizes.places * 16 + codebook


@settings(deadline=None)
@given(
    needed=st.dictionaries(st.sampled_from(list(GROWS)), st.integers(10**6, 10**13), min_size=1),
    allowed=st.integers(PROCESS_BYTES + 1, 10**13),
)
def test_memory_is_refused_with_the_neediest_stage_and_both_numbers(
    needed: dict[str, int], allowed: int
) -> None:
    most = max(needed.values())
    if most <= allowed:
        check_memory(needed, allowed)
        return
    with pytest.raises(LimitError) as caught:
        check_memory(needed, allowed)
    message = str(caught.value)
    assert shown(most) in message
    assert shown(allowed) in message
    assert any(stage in message for stage, size in needed.items() if size == most)
    assert "memory_per_worker" in message


def test_memory_below_that_of_a_process_is_refused_whatever_is_planned() -> None:
    with pytest.raises(LimitError, match=r"100 MB .* 400 MB"):
        check_memory({"encode": 1}, 100_000_000)


@settings(deadline=None)
@given(chunk=st.integers(1, 10**12), rows=st.integers(1, 10**8), allowed=st.integers(10**6, 10**12))
def test_a_chunk_over_a_quarter_of_memory_is_refused_with_both_numbers(
    chunk: int, rows: int, allowed: int
) -> None:
    if 4 * chunk <= allowed:
        check_chunk("a.zarr", chunk, rows, allowed)
        return
    with pytest.raises(LimitError, match="rechunk") as caught:
        check_chunk("a.zarr", chunk, rows, allowed)
    message = str(caught.value)
    assert f"{rows:,} rows" in message
    assert shown(chunk) in message
    assert shown(allowed) in message


@settings(deadline=None)
@given(needed=st.integers(0, 10**15), free=st.integers(0, 10**15))
def test_a_full_disk_is_refused_with_both_numbers_and_the_place(needed: int, free: int) -> None:
    if needed <= free:
        check_disk(needed, free, "somewhere")
        return
    with pytest.raises(LimitError, match="somewhere") as caught:
        check_disk(needed, free, "somewhere")
    message = str(caught.value)
    assert shown(needed) in message
    assert shown(free) in message


def test_what_is_refused_is_the_users_input() -> None:
    """Status 2: the config or the disk is to be changed, not the program."""
    assert LimitError.exit_status == 2
