"""Drift: new and changed rows against held-out ones and against the rows before."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import WORDS, config_of, run_here, statuses

import vqpipe
from vqpipe.evaluation.drift import jensen_shannon
from vqpipe.pipeline import drift
from vqpipe.pipeline.drift import BASELINE_FILE

KEYS: dict[str, Any] = {
    "encode__shard_rows": 1000,
    "train__rounds": 3,
    "evaluate__queries": 0,
    "export": [],
}

COUNTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=8).filter(any)


@settings(deadline=None)
@given(st.data(), COUNTS)
def test_divergence_is_the_longhand_one_symmetric_and_at_most_a_bit(
    data: st.DataObject, before: list[int]
) -> None:
    size = len(before)
    after = data.draw(st.lists(st.integers(0, 10**9), min_size=size, max_size=size).filter(any))
    p = [count / sum(before) for count in before]
    q = [count / sum(after) for count in after]
    wanted = 0.0
    for share, other in zip(p, q, strict=True):
        middle = (share + other) / 2
        wanted += sum(x / 2 * math.log2(x / middle) for x in (share, other) if x > 0)
    first, second = np.array([before, after]), np.array([after, before])
    found = jensen_shannon(first, second)
    assert found == pytest.approx([wanted, wanted], abs=1e-12)
    assert (found > -1e-12).all()
    assert (found < 1 + 1e-12).all()


def longhand(folder: Path, vectors: np.ndarray, new: np.ndarray, old: np.ndarray) -> dict[str, Any]:
    """Return what drift should say of rows ``new`` of a source that held ``old`` before."""
    quantizer = vqpipe.load_codebook(folder / "out/v1/codebook.zarr")
    wide = vectors[new].astype(np.float64)
    codes = quantizer.encode(vectors[new])
    errors = ((wide - quantizer.decode(codes).astype(np.float64)) ** 2).sum(axis=1)
    before = quantizer.encode(old)
    counts = [
        np.stack([np.bincount(some[:, column], minlength=quantizer.codebook.k) for column in range(some.shape[1])])
        for some in (before, codes)
    ]  # fmt: skip
    return {
        "rows": len(new),
        "distortion": pytest.approx(errors.mean(), rel=1e-5),
        "divergence": pytest.approx(jensen_shannon(*counts).tolist(), abs=1e-9),
    }


def check(found: dict[str, Any], wanted: dict[str, Any], figures: dict[str, Any]) -> None:
    assert {name: found[name] for name in wanted} == wanted
    assert list(found) == [
        "rows", "distortion", "compared_with", "compared_distortion", "ratio", "divergence"
    ]  # fmt: skip
    assert found["compared_with"] == "heldout"
    assert found["compared_distortion"] == figures["distortion"]
    assert found["ratio"] == found["distortion"] / found["compared_distortion"]


def test_new_and_changed_rows_are_measured_exactly(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:6000].astype(np.float32)
    source = tmp_path / "rows.npy"
    np.save(source, vectors[:2500])
    config = config_of(tmp_path, source, "PQ4x4", **KEYS)
    first = run_here(config)
    assert first["drift"] is None

    # Shard 1 changes, the last one grows, and one more comes.
    grown = vectors[:3600].copy()
    grown[1000:1100] *= 2
    grown[2500:] *= 1.5
    np.save(source, grown)
    second = run_here(config)
    new = np.concatenate([np.arange(1000, 2000), np.arange(2500, 3600)])
    check(second["drift"], longhand(tmp_path, grown, new, vectors[:2500]), second)
    stored = json.loads((tmp_path / "out/v1/evaluation.json").read_text())
    assert stored["drift"] == second["drift"]
    recorded = json.loads((tmp_path / "out/run.json").read_text())
    assert recorded["summary"]["drift"] == second["drift"]
    page = (tmp_path / "out/v1/report.html").read_text()
    assert "<h2>Drift</h2>" in page
    assert f"{second['drift']['distortion']:.6g}" in page

    kept = stored["increments"]
    assert kept == [
        {
            "increment": 1,
            "rows_after": 3600,
            **{name: stored["drift"][name] for name in ("rows", "distortion", "compared_distortion", "ratio")},
            "divergence": {
                "mean": pytest.approx(np.mean(stored["drift"]["divergence"])),
                "largest": max(stored["drift"]["divergence"]),
            },
        }
    ]  # fmt: skip

    # What nothing new has come to is kept, whatever else is asked for.
    again = run_here(config_of(tmp_path, source, "PQ4x4", **{**KEYS, "evaluate__recall_at": [5]}))
    assert statuses(again)["evaluate"] == "done"
    assert again["drift"] == second["drift"]
    assert json.loads((tmp_path / "out/v1/evaluation.json").read_text())["increments"] == kept


def test_every_increment_is_kept_once_and_of_many_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "MOST_INCREMENTS", 2)
    vectors = np.load(WORDS)[:4400].astype(np.float32)
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM9", **KEYS)
    figures = tmp_path / "out/v1/evaluation.json"
    seen = []
    for rows in (2000, 3000, 3500, 4400):
        np.save(tmp_path / "rows.npy", vectors[:rows])
        run_here(config)
        found = json.loads(figures.read_text())["increments"]
        seen.append([(one["increment"], one["rows"], one["rows_after"]) for one in found])
    first, second, third = (1, 1000, 3000), (2, 500, 3500), (3, 900, 4400)
    assert seen == [[], [first], [first, second], [second, third]]

    # The figures of an earlier version had none but the last; what somebody broke is not taken for one.
    for broken in (None, "x", [5], [{"increment": "x"}]):
        found = json.loads(figures.read_text())
        figures.write_text(json.dumps({**found, "increments": broken}))
        run_here(config, force="evaluate")
        assert json.loads(figures.read_text())["increments"][-1]["rows"] == 900


def test_a_run_killed_before_its_figures_tells_the_same_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.load(WORDS)[:4000].astype(np.float32)
    np.save(tmp_path / "rows.npy", vectors[:2500])
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM9", **KEYS)
    run_here(config)
    baseline = (tmp_path / "out/v1" / BASELINE_FILE).read_bytes()
    np.save(tmp_path / "rows.npy", vectors)
    run_here(config, until="encode")
    found = run_here(config)
    check(found["drift"], longhand(tmp_path, vectors, np.arange(2500, 4000), vectors[:2500]), found)

    # Killed between its figures and what the next ones are measured from.
    figures = json.loads((tmp_path / "out/v1/evaluation.json").read_text())
    (tmp_path / "out/v1" / BASELINE_FILE).write_bytes(baseline)
    again = run_here(config, force="evaluate")
    assert again["drift"] == found["drift"]
    assert json.loads((tmp_path / "out/v1/evaluation.json").read_text()) == figures


def test_a_warning_follows_the_threshold_and_says_what_to_do(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:4000].astype(np.float32)
    vectors[2500:] *= 3
    np.save(tmp_path / "rows.npy", vectors[:2500])

    def run(allowed: float | None) -> list[str]:
        config = config_of(tmp_path, tmp_path / "rows.npy", "KM9", drift={"distortion": allowed}, **KEYS)  # fmt: skip
        return [said for said in run_here(config)["warnings"] if said.startswith("drift: ")]

    assert run(1.5) == []
    np.save(tmp_path / "rows.npy", vectors)
    (warning,) = run(1.5)
    for fact in ("1,500 new or changed rows", "held-out rows", "allows 1.5", "--force train"):
        assert fact in warning
    # The figures stand, whatever is allowed today.
    assert run(1.5) == [warning]
    assert run(1000.0) == run(None) == []
    assert "drift.distortion allows" not in (tmp_path / "out/v1/report.html").read_text()


def test_with_a_given_codebook_new_rows_are_compared_with_those_before(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:3500].astype(np.float32)
    np.save(tmp_path / "rows.npy", vectors[:2000])
    run_here(config_of(tmp_path / "learn", tmp_path / "rows.npy", "KM9", **KEYS))
    book = tmp_path / "learn/out/v1/codebook.zarr"
    config = config_of(tmp_path, tmp_path / "rows.npy", {"from": str(book)}, **KEYS)
    before = run_here(config)
    np.save(tmp_path / "rows.npy", vectors)
    found = run_here(config)["drift"]
    assert found["compared_with"] == "before"
    assert found["compared_distortion"] == pytest.approx(before["distortion"], rel=1e-9)
    wanted = longhand(tmp_path, vectors, np.arange(2000, 3500), vectors[:2000])
    assert {name: found[name] for name in wanted} == wanted


def test_a_damaged_baseline_is_said_and_measured_from_anew(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:3500].astype(np.float32)
    np.save(tmp_path / "rows.npy", vectors[:2000])
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM9", **KEYS)
    run_here(config)
    baseline = tmp_path / "out/v1" / BASELINE_FILE
    baseline.write_bytes(baseline.read_bytes()[:-50])
    np.save(tmp_path / "rows.npy", vectors[:3000])
    summary = run_here(config)
    assert summary["drift"] is None
    assert any(BASELINE_FILE in said for said in summary["warnings"])
    np.save(tmp_path / "rows.npy", vectors)
    assert run_here(config)["drift"]["rows"] == 500
