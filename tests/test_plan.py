"""The plan: it says of each stage what the run then does, and why, in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import WORDS, config_of, files_of, run_here, statuses

from vqpipe.engines.serial import SerialRunner
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.plan import plan_needs
from vqpipe.progress import Silent
from vqpipe.storage.codes import find_codes

KEYS: dict[str, Any] = {"encode__shard_rows": 1000, "train__rounds": 2, "evaluate__queries": 10}
LATER = ["evaluate", "export", "report"]
ALL = ["sample", "train", "encode", *LATER]


def grow(source: Path) -> None:
    np.save(source, np.load(WORDS)[:3000])


def touch(source: Path) -> None:
    os.utime(source, ns=(1, 1))


def forget(source: Path) -> None:
    codes = find_codes(str(source.parent / "out/v1/codes.zarr"))
    assert codes is not None
    codes.forget([1])


# What changes (config, or the files), which stages are to do, and a reason that is given.
CHANGES: dict[str, tuple[dict[str, Any], Callable[[Path], None] | None, str | None, list[str], str]] = {
    "nothing": ({}, None, None, [], "all 3 shards were encoded before"),
    "codebook": ({"codebook": "PQ5x4"}, None, None, ALL[1:], "train: codebook changed PQ10x4 -> PQ5x4"),
    "sample": ({"train__rows": 900}, None, None, ALL, "sample: train rows changed 2250 -> 900"),
    "seed": ({"seed": 5}, None, None, ALL, "sample: seed changed 0 -> 5"),
    "rounds": ({"train__rounds": 3}, None, None, ALL[1:], "train: rounds changed 2 -> 3"),
    "encode": (
        {"encode__store_error": True}, None, None, ALL[2:], "encode: store_error changed False -> True",
    ),
    "evaluate": (
        {"evaluate__recall_at": [3]}, None, None, ["evaluate", "report"],
        "evaluate: recall_at changed [1, 10, 100] -> [3]",
    ),
    "export": (
        {"export": ["npy"]}, None, None, ["export", "report"],
        "export: files changed ['index.faiss'] -> ['codes.npy']",
    ),
    "name": ({"name": "another"}, None, None, ["report"], "the name"),
    "mask": ({"source__invalid_rows": "mask"}, None, None, ["encode"], "a mask of valid rows is added"),
    "cluster": ({"memory_per_worker": "1GiB"}, None, None, [], "all 3 shards were encoded before"),
    "growth": ({}, grow, None, ["encode", *LATER], "500 rows are new"),
    "touched": ({}, touch, None, ["encode"], "3 of 3 shards lie in a file that was written since"),
    "forgotten": ({}, forget, None, ["encode"], "1 of 3 shards are new, changed or unfinished"),
    "forced train": ({}, None, "train", ALL[1:], "--force train"),
    "forced export": ({}, None, "export", LATER[1:], "forced"),
}  # fmt: skip

# Whether the codes come out as they were is known when they are there: then these are not done after all.
UNLESS_EQUAL = {"mask", "touched", "forgotten"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_does_what_the_plan_says(tmp_path: Path, name: str) -> None:
    keys, change, force, wanted, reason = CHANGES[name]
    source = tmp_path / "rows.npy"
    np.save(source, np.load(WORDS)[:2500])
    run_here(config_of(tmp_path, source, "PQ10x4", **KEYS))
    changed = dict(keys)
    codebook = changed.pop("codebook", "PQ10x4")
    config = config_of(tmp_path, source, codebook, **{**KEYS, **changed})
    if change is not None:
        change(source)
    before = files_of(tmp_path / "out")
    plan = dict(plan_needs(begin_run(config, SerialRunner(), Silent(), force)))
    assert files_of(tmp_path / "out") == before
    planned = [stage for stage, need in plan.items() if need.state != "done"]
    follow = LATER if name in UNLESS_EQUAL else []
    assert planned == wanted + follow
    assert any(reason in need.reason for need in plan.values()), plan
    summary = run_here(config, force=force)
    assert [stage for stage, status in statuses(summary).items() if status == "done"] == wanted
