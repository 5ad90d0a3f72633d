"""The engine contract on the serial engine, and the tree that every engine folds in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.engines.serial import SerialRunner
from vqpipe.runner import Outcome, fold_tree


def add_by_levels(nodes: list[str]) -> str:
    """Join neighbours level by level; an odd one at the end goes up as it is."""
    while len(nodes) > 1:
        pairs = [f"({a}{b})" for a, b in zip(nodes[::2], nodes[1::2], strict=False)]
        nodes = pairs + nodes[len(pairs) * 2 :]
    return nodes[0]


def divide(item: int, job: int) -> float:
    return job / item


def spell(item: int, job: str) -> str:
    if item < 0:
        raise ValueError(f"item {item}")
    return f"{job}{item}"


@pytest.mark.parametrize("count", [*range(1, 70), 1000])
def test_fold_is_the_tree_of_neighbours_level_by_level(count: int) -> None:
    nodes = [f"<{place}>" for place in range(count)]
    assert fold_tree(iter(nodes), lambda a, b: f"({a}{b})") == add_by_levels(nodes)


@settings(deadline=None)
@given(count=st.integers(1, 600))
def test_fold_holds_no_more_partial_sums_than_the_tree_is_deep(count: int) -> None:
    taken = joined = most = 0

    def nodes() -> Iterator[int]:
        nonlocal taken, most
        for _ in range(count):
            most = max(most, taken - joined)
            taken += 1
            yield 1

    def add(a: int, b: int) -> int:
        nonlocal joined
        joined += 1
        return a + b

    assert fold_tree(nodes(), add) == count
    assert most <= count.bit_length()


def test_folding_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        fold_tree([], lambda a, b: a + b)


@settings(deadline=None)
@given(items=st.lists(st.integers(-3, 3), max_size=20))
def test_every_item_has_one_outcome_even_if_some_fail(items: list[int]) -> None:
    outcomes = list(SerialRunner().map(divide, items, 6))
    assert sorted(outcome.item for outcome in outcomes) == sorted(items)
    for outcome in outcomes:
        if outcome.item == 0:
            assert isinstance(outcome.error, ZeroDivisionError)
            assert outcome.result is None
            with pytest.raises(ZeroDivisionError):
                outcome.value()
        else:
            assert outcome.error is None
            assert outcome.value() == 6 / outcome.item


@settings(deadline=None)
@given(items=st.lists(st.integers(-5, 50), min_size=1, max_size=20))
def test_fold_adds_in_item_order_or_raises_the_first_items_error(items: list[int]) -> None:
    failing = [item for item in items if item < 0]
    if failing:
        with pytest.raises(ValueError, match=f"item {failing[0]}$"):
            SerialRunner().fold(spell, items, "x")
    else:
        assert SerialRunner().fold(spell, items, "x") == "".join(f"x{item}" for item in items)


def test_map_takes_items_only_as_outcomes_are_wanted() -> None:
    """Items may be an endless stream: what is not asked for is not begun."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1, 10**9):
            taken.append(item)
            yield item

    outcomes = SerialRunner().map(divide, items(), 2)
    assert next(outcomes) == Outcome(1, 2.0)
    assert len(taken) <= 2


@pytest.mark.parametrize("loaded", ["before", "after"])
def test_a_task_runs_on_one_thread_of_every_numeric_library(loaded: str) -> None:
    """Also of one that was loaded after the first task, as by a worker that sampled before it trains."""
    load = "import faiss, numpy"
    script = f"""
from threadpoolctl import threadpool_info
from vqpipe.engines.serial import SerialRunner

def threads(item, job):
    return sorted(pool["num_threads"] for pool in threadpool_info())

def measure():
    return [outcome.value() for outcome in SerialRunner().map(threads, [0], None)][0]

{load if loaded == "before" else ""}
measure()
{load}
counts = measure()
assert counts and set(counts) == {{1}}, f"threads of the libraries: {{counts}}"
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert SerialRunner().workers == 1
