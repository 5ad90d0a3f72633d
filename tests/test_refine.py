"""Residual stages refined together: the step as longhand takes it, where it leads, and when rounds end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import WORDS, config_of, files_of, run_here
from test_kinds import ROUTE, residual

import vqpipe.pipeline.refine as refine_rounds
import vqpipe.pipeline.train as train_stage
from vqpipe.codebook import SURPLUS, Codebook
from vqpipe.engines.serial import SerialRunner
from vqpipe.kmeans.refine import DAMPING, REFINING_ROUNDS, refine
from vqpipe.kmeans.tally import Tally, tally_left
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.plan import plan_run
from vqpipe.progress import Silent
from vqpipe.quantizer import Quantizer
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.tasks.train import Slice


def left_of(codebook: Codebook, centred: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what all stages leave of centred rows, in float64."""
    left = centred.astype(np.float64)
    for stage, codewords in enumerate(codebook.every_centred[:, 0].astype(np.float64)):
        left = left - codewords[labels[:, stage]]
    return left


def case(rows: int, stages: int, k: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((rows, dim)).astype(np.float32)
    return left, rng.integers(0, k, (rows, stages))


CASE = {
    "rows": st.integers(1, 200),
    "stages": st.integers(2, 5),
    "k": st.integers(1, 9),
    "dim": st.integers(1, 6),
    "seed": st.integers(0, 10**6),
}


@settings(max_examples=40, deadline=None)
@given(**CASE)
def test_the_tally_of_all_stages_equals_longhand_loops_and_adds_up(
    rows: int, stages: int, k: int, dim: int, seed: int
) -> None:
    left, labels = case(rows, stages, k, dim, seed)
    sums, counts, errors = np.zeros((stages * k, dim)), np.zeros(stages * k), np.zeros(stages * k)
    for row, codes in zip(left.astype(np.float64), labels, strict=True):
        for stage, code in enumerate(codes):
            sums[stage * k + code] += row
            counts[stage * k + code] += 1
            errors[stage * k + code] += (row**2).sum() / stages
    found = tally_left(left, labels, k)
    assert found.touched.tolist() == np.flatnonzero(counts).tolist()
    assert found.counts.tolist() == counts[found.touched].tolist()
    np.testing.assert_allclose(found.sums, sums[found.touched], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.squared_error, errors[found.touched], rtol=1e-12)
    exact = (left.astype(np.float64) ** 2).sum(axis=1).mean()
    assert found.distortion == pytest.approx(exact, rel=1e-12)
    cut = rows // 3
    parts = tally_left(left[:cut], labels[:cut], k) + tally_left(left[cut:], labels[cut:], k)
    assert parts.touched.tolist() == found.touched.tolist()
    np.testing.assert_allclose(parts.sums, found.sums, rtol=1e-11, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(**CASE, place=st.sampled_from([0.0, 100.0]))
def test_a_step_goes_where_longhand_goes(
    rows: int, stages: int, k: int, dim: int, seed: int, place: float
) -> None:
    left, labels = case(rows, stages, k, dim, seed)
    codebook = residual(stages, k, dim, place, seed)
    wanted = codebook.centroids.astype(np.float64)
    shared = left.astype(np.float64).mean(axis=0)
    for stage in range(stages):
        for code in range(k):
            own = left[labels[:, stage] == code].astype(np.float64)
            if len(own):
                wanted[stage, 0, code] += DAMPING * (own.mean(axis=0) - shared)
    wanted[-1] += shared
    found = refine(codebook, tally_left(left, labels, k))
    np.testing.assert_allclose(found.centroids, wanted, rtol=1e-5, atol=1e-5)
    assert found.centroids.dtype == np.float32
    assert replace(found, centroids=codebook.centroids).digest == codebook.digest


def test_steps_with_the_codes_held_end_at_the_least_squares_codewords() -> None:
    codebook = residual(4, 16, 8, 3.0, seed=1)
    rng = np.random.default_rng(2)
    rows = (codebook.offset + 1.5 * rng.standard_normal((4000, 8)) + 0.7).astype(np.float32)
    quantizer = Quantizer(codebook, ROUTE)
    centred = quantizer.centre(rows.copy())
    labels = quantizer.assign(centred)
    choice = np.zeros((len(rows), 4 * 16))
    for stage in range(4):
        choice[np.arange(len(rows)), stage * 16 + labels[:, stage]] = 1
    best, *_ = np.linalg.lstsq(choice, centred.astype(np.float64), rcond=None)
    least = ((centred - choice @ best) ** 2).sum(axis=1).mean()
    distortions = []
    for _ in range(12):
        left = left_of(codebook, centred, labels)
        distortions.append((left**2).sum(axis=1).mean())
        codebook = refine(codebook, tally_left(left.astype(np.float32), labels, 16))
    assert distortions[0] > 1.2 * least
    assert distortions[-1] == pytest.approx(least, rel=1e-4)
    # Most of the way in the first step, though it takes the matrix for its diagonal.
    assert distortions[1] - least < 0.2 * (distortions[0] - least)


def test_surplus_codewords_stay_surplus_and_those_without_rows_stay() -> None:
    codebook = residual(3, 5, 4, seed=3)
    codebook.centroids[:, :, 4] = SURPLUS
    left, labels = case(300, 3, 3, 4, 5)
    found = refine(codebook, tally_left(left, labels, 5))
    assert (found.centroids[:, :, 4] == SURPLUS).all()
    assert found.surplus == [1, 1, 1]
    # Code 3 has no row: it stays, but for what the last stage's share.
    assert np.array_equal(found.centroids[:2, :, 3], codebook.centroids[:2, :, 3])
    shared = left.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(
        found.centroids[2, 0, 3], codebook.centroids[2, 0, 3] + shared, atol=1e-6
    )


def learn(folder: Path, **keys: Any) -> tuple[Codebook, list[dict[str, Any]]]:
    folder.mkdir()
    run_here(config_of(folder, WORDS, "RQ3x6", source__rows=5000, **keys), until="train")
    file = read_codebook(str(folder / "out/v1/codebook.zarr"))
    return file.quantizer.codebook, list(file.history)


def test_refining_lowers_what_heldout_rows_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, refined = learn(tmp_path / "refined")
    monkeypatch.setattr(refine_rounds, "refining_rounds", lambda schedule: 0)
    _, bare = learn(tmp_path / "bare")
    assert refined[: len(bare)] == bare
    rounds = refined[len(bare) :]
    assert 2 <= len(rounds) <= REFINING_ROUNDS
    rows = rounds[-1]["rows_seen"] - rounds[-2]["rows_seen"]
    # A round is all training rows.
    assert rows == 4500
    assert rounds[-1]["heldout"] < 0.985 * bare[-1]["heldout"]


def test_a_round_that_heldout_rows_find_worse_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = learn(tmp_path / "two", train__rounds=2, train__stop=0.0)

    taken: list[Codebook] = []

    def worse(codebook: Codebook, tally: Tally) -> Codebook:
        taken.append(codebook)
        if len(taken) <= 2:
            return refine(codebook, tally)
        return replace(codebook, centroids=codebook.centroids * np.float32(1.5))

    monkeypatch.setattr(refine_rounds, "refining_rounds", lambda schedule: 8)
    monkeypatch.setattr(refine_rounds, "refine", worse)
    found, history = learn(tmp_path / "worse", train__rounds=2, train__stop=0.0)
    assert len(taken) == 3
    assert found.digest == wanted.digest == taken[2].digest
    assert history[-1]["heldout"] > history[-2]["heldout"]


def test_rounds_end_where_a_pass_gains_less_than_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Codebook] = []

    def counted(codebook: Codebook, tally: Tally) -> Codebook:
        taken.append(codebook)
        return refine(codebook, tally)

    monkeypatch.setattr(refine_rounds, "refine", counted)
    _, patient = learn(tmp_path / "patient", train__stop=0.0)
    assert len(taken) > 2
    assert patient[-2]["heldout"] / patient[-1]["heldout"] < 1.2
    taken.clear()
    _, hasty = learn(tmp_path / "hasty", train__stop=0.2)
    # One round was taken, and gained less than a fifth.
    assert len(taken) == 1
    assert 0.8 * hasty[-2]["heldout"] < hasty[-1]["heldout"] < hasty[-2]["heldout"]


def test_without_heldout_rows_every_round_is_taken(tmp_path: Path) -> None:
    _, history = learn(tmp_path / "in_sample", train__heldout_rows=0, train__rounds=3)
    assert len(history) == 3 * 3 + 3
    assert all(line["heldout"] is None for line in history)


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_a_training_cut_off_while_it_refines_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    keys = {"train__rounds": 4, "train__batch_rows": 1000}
    learn(tmp_path / "calm", **keys)
    monkeypatch.setattr(train_stage, "CHECKPOINT_SECONDS", -1.0)
    taken: list[Codebook] = []

    def dying(codebook: Codebook, tally: Tally) -> Codebook:
        if len(taken) == stop_at:
            raise KeyboardInterrupt
        taken.append(codebook)
        return refine(codebook, tally)

    monkeypatch.setattr(refine_rounds, "refine", dying)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", **keys)
    monkeypatch.setattr(refine_rounds, "refine", refine)
    run_here(config_of(tmp_path / "cut", WORDS, "RQ3x6", source__rows=5000, **keys), until="train")
    calm, cut = (files_of(tmp_path / name / "out/v1/codebook.zarr") for name in ("calm", "cut"))
    assert json.loads(calm["zarr.json"]) == json.loads(cut["zarr.json"])
    assert calm == cut


def test_every_engine_refines_to_the_same_bytes(tmp_path: Path) -> None:
    keys = {"train__rounds": 4, "train__batch_rows": 1000}
    serial, history = learn(tmp_path / "serial", **keys)
    workers, same = learn(tmp_path / "workers", **keys, cluster={"options": {"n_workers": 2}})
    assert workers.digest == serial.digest
    assert same == history


def test_the_plan_counts_every_task_of_every_leg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"train__rounds": 2, "train__batch_rows": 1000, "train__heldout_rows": 0}
    config = config_of(tmp_path, WORDS, "RQ3x6", source__rows=5000, **keys)
    planned = plan_run(begin_run(config, SerialRunner(), Silent()))
    (stage,) = [stage for stage in planned["stages"] if stage["name"] == "train"]
    items: list[Any] = []
    plain = SerialRunner.fold

    def counted(runner: SerialRunner, task: Any, given: Any, *more: Any, **named: Any) -> Any:
        items.extend(item for item in given if isinstance(item, Slice))
        return plain(runner, task, given, *more, **named)

    monkeypatch.setattr(SerialRunner, "fold", counted)
    run_here(config, until="train")
    assert stage["tasks"] == len(items)
    # Two rounds of each stage, and two over all rows.
    assert stage["rows"] == sum(item.shard.rows for item in items) == 3 * 2 * 1000 + 2 * 5000
