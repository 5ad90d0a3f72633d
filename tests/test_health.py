"""Use of codewords: chance alone is no finding, waste is one, and a run says so as long as it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import DATA, WORDS, config_of, run_here, statuses

from vqpipe.config_file import load_config
from vqpipe.evaluation.health import find_poor_use, ordinary_limits
from vqpipe.evaluation.measures import CodeUse

USE = ("codewords", "surplus", "perplexity", "dead", "starved", "imbalance")


def use_of(*columns: Any) -> CodeUse:
    return CodeUse(np.array(columns, dtype=np.int64))


def measures_of(*columns: Any) -> list[str]:
    return [found.measure for found in find_poor_use(use_of(*columns), [0] * len(columns))]


def drawn(codewords: int, rows: int, seed: int) -> Any:
    """Return counts of rows drawn for codewords whose shares are spread exponentially."""
    rng = np.random.default_rng(seed)
    shares = rng.exponential(size=codewords)
    return rng.multinomial(rows, shares / shares.sum())


@settings(deadline=None)
@given(k=st.integers(1, 300), times=st.integers(1, 10**9))
def test_even_use_is_no_finding(k: int, times: int) -> None:
    assert measures_of([times] * k) == []


@pytest.mark.parametrize("k", [1, 2, 256])
def test_no_rows_are_no_finding(k: int) -> None:
    assert measures_of([0] * k) == []


@pytest.mark.parametrize("codewords", [64, 256, 1024, 10_000])
@pytest.mark.parametrize("mean", [0.05, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000])
def test_what_chance_leaves_is_no_finding(codewords: int, mean: float) -> None:
    """Also where rows are so few that most codewords get none."""
    for seed in range(10):
        assert measures_of(drawn(codewords, int(mean * codewords), seed)) == []


@pytest.mark.parametrize("mean", [0.5, 3.0, 9.5, 10.0, 25.0, 1000.0])
def test_limits_are_what_rows_drawn_longhand_leave(mean: float) -> None:
    k = 20_000
    use = use_of(drawn(k, int(mean * k), 1))
    limits = ordinary_limits(int(mean * k), k)
    assert (limits["dead"] / k - 0.01) / 2 == pytest.approx(use.dead[0] / k, abs=0.01)
    assert (limits["starved"] / k - 0.01) / 2 == pytest.approx(use.starved[0] / k, abs=0.01)
    assert limits["imbalance"] / 20 == pytest.approx(use.imbalance[0], rel=0.5)
    assert limits["perplexity"] <= 0.5 * use.perplexity[0]


@pytest.mark.parametrize("k", [16, 256, 1024])
def test_one_codeword_that_takes_all_rows_is_found_out(k: int) -> None:
    (dead, *others) = find_poor_use(use_of([100_000] + [0] * (k - 1)), [0])
    assert (dead.measure, dead.columns, dead.figure, dead.codewords) == ("dead", (0,), k - 1, k)
    assert "perplexity" in [found.measure for found in others]
    # The dead are among the starved, and are told once.
    assert "starved" not in [found.measure for found in others]


@pytest.mark.parametrize(
    ("counts", "measures"),
    [
        ([1000] * 252 + [0] * 4, ["dead"]),
        ([1000] * 253 + [0] * 3, []),
        ([1000] * 200 + [1] * 56, ["starved"]),
        ([1000] * 60 + [101] * 196, []),
        ([10_000] * 30 + [100] * 226, ["starved", "perplexity"]),
        ([1000] * 15 + [0], []),
        ([300_000] + [1000] * 255, ["perplexity", "imbalance"]),
    ],
)
def test_each_measure_is_found(counts: list[int], measures: list[str]) -> None:
    assert measures_of(counts) == measures


@settings(deadline=None, max_examples=100)
@given(
    columns=st.lists(
        st.lists(st.sampled_from([0, 1, 7, 100, 10_000]), min_size=2, max_size=40),
        min_size=1,
        max_size=4,
    ),
    surplus=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_surplus_and_order_of_codewords_change_no_finding(
    columns: list[list[int]], surplus: int, seed: int
) -> None:
    k = max(map(len, columns)) + surplus
    rng = np.random.default_rng(seed)
    for column in columns:
        (alone, padded) = (
            find_poor_use(use_of(column), [0]),
            find_poor_use(
                use_of(rng.permutation(column + [0] * (k - len(column)))), [k - len(column)]
            ),
        )
        assert padded == alone


@settings(deadline=None, max_examples=100)
@given(
    columns=st.lists(
        st.lists(st.integers(0, 1000), min_size=9, max_size=9).filter(any), min_size=1, max_size=4
    )
)
def test_figures_keep_to_their_bounds(columns: list[list[int]]) -> None:
    use = use_of(*columns)
    for place in range(len(columns)):
        assert 1 - 1e-9 <= use.perplexity[place] <= 9 + 1e-9
        assert 1 <= use.imbalance[place] <= 9 + 1e-9
        assert 0 <= use.dead[place] <= use.starved[place] < 9
        # In effect no more codewords are in use than in fact.
        assert use.perplexity[place] <= 9 - use.dead[place] + 1e-9


def test_a_finding_names_the_first_columns_and_the_worst_figure() -> None:
    good, bad, worse = [500] * 64, [500] * 60 + [0] * 4, [500] * 50 + [0] * 14
    columns = [good, bad, bad, worse, good, bad, bad, bad]
    (found,) = find_poor_use(use_of(*columns), [0] * 8)
    assert found.columns == (1, 2, 3, 5, 6, 7)
    assert (found.figure, found.codewords) == (14, 64)
    assert str(found) == ("dead at worst 14 of 64 (ordinary: up to 1) in column 1, 2, 3, 5, 6...")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with KM300 of the words: enough rows, well used."""
    folder = tmp_path_factory.mktemp("learnt")
    summary = run_here(config_of(folder, WORDS, "KM300", train__rounds=10))
    assert summary["warnings"] == []
    return folder / "out"


def elsewhere(folder: Path) -> Path:
    """Write rows that no codebook of the words was made for."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "elsewhere.npy", np.load(WORDS)[:4000] * np.float16(0.25))
    return folder / "elsewhere.npy"


def test_a_codebook_of_other_rows_is_warned_of_alike_by_both_runners(
    learnt: Path, tmp_path: Path
) -> None:
    summaries = []
    for cluster in ("serial", {"options": {"n_workers": 2}}):
        folder = tmp_path / str(len(summaries))
        rows, codebook = elsewhere(folder), {"from": str(learnt / "v1/codebook.zarr")}
        config = config_of(folder, rows, codebook, cluster=cluster, encode__shard_rows=1000)
        summaries.append(run_here(config))
        stored = json.loads((folder / "out/v1/evaluation.json").read_text())
        assert {name: stored[name] for name in USE} == {name: summaries[-1][name] for name in USE}
    serial, dask = summaries
    (warning,) = serial["warnings"]
    assert dask["warnings"] == [warning]
    assert {name: serial[name] for name in USE} == {name: dask[name] for name in USE}
    assert serial["codewords"] == 300
    dead = serial["dead"][0]
    assert dead > 100
    assert warning.startswith(f"codebook KM300: codewords are used poorly: dead {dead} of 300 (")
    assert "perplexity " in warning
    assert warning.endswith("learn one from these rows (codebook: KM300)")


def test_the_warning_stands_as_long_as_the_figures_and_is_on_the_page(
    learnt: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path, elsewhere(tmp_path), {"from": str(learnt / "v1/codebook.zarr")})
    first = run_here(config)
    again = run_here(config)
    assert set(statuses(again).values()) == {"skipped"}
    assert again["warnings"] == first["warnings"] != []
    forced = run_here(config, force="report")
    assert statuses(forced)["evaluate"] == "skipped"
    page = (tmp_path / "out/v1/report.html").read_text()
    assert "codewords are used poorly" in page
    recorded = json.loads((tmp_path / "out/run.json").read_text())
    assert recorded["summary"]["warnings"] == first["warnings"]


@pytest.mark.parametrize("rows", [30, 300, 3000])
def test_few_rows_of_the_same_kind_are_no_reason_to_warn(
    learnt: Path, tmp_path: Path, rows: int
) -> None:
    some = np.random.default_rng(rows).choice(20_000, rows, replace=False)
    np.save(tmp_path / "some.npy", np.load(WORDS)[some])
    given = {"from": str(learnt / "v1/codebook.zarr")}
    summary = run_here(config_of(tmp_path, tmp_path / "some.npy", given))
    assert summary["warnings"] == []
    assert rows > 300 or summary["dead"][0] > 50


def test_codewords_that_fill_up_a_faiss_index_are_not_complained_of(
    learnt: Path, tmp_path: Path
) -> None:
    """FAISS knows whole bits only: 300 codewords come back as 512."""
    summary = run_here(config_of(tmp_path, WORDS, {"from": str(learnt / "v1/index.faiss")}))
    assert (summary["codewords"], summary["surplus"]) == (512, [212])
    assert summary["dead"] == [212]
    assert summary["warnings"] == []


def test_surplus_that_training_warned_of_is_not_warned_of_twice(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:2000].astype(np.float32)
    vectors[:, :10] = 7.25
    np.save(tmp_path / "flat.npy", vectors)
    summary = run_here(config_of(tmp_path, tmp_path / "flat.npy", "PQ10x4", train__rounds=5))
    assert len(summary["warnings"]) == 1
    assert summary["surplus"] == [15] + [0] * 9
    assert summary["dead"] == [15] + [0] * 9


def test_of_rows_that_came_later_the_warning_says_to_learn_again(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:2000].astype(np.float32)
    np.save(tmp_path / "rows.npy", vectors)
    config = config_of(tmp_path, tmp_path / "rows.npy", "KM64", train__rounds=5)
    assert run_here(config)["warnings"] == []
    np.save(tmp_path / "rows.npy", np.concatenate([vectors, np.tile(vectors[:1], (60_000, 1))]))
    (warning,) = run_here(config)["warnings"]
    assert "when there were 2,000 rows: learn it again with --force train" in warning
    summary = run_here(config, force="train")
    assert summary["generation"] == "v2"


def test_rows_that_are_alike_are_warned_of_with_what_to_do(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:5000].astype(np.float32)
    vectors[250:] = vectors[0]
    np.save(tmp_path / "alike.npy", vectors)
    summary = run_here(config_of(tmp_path, tmp_path / "alike.npy", "KM64", train__rounds=5))
    (warning,) = summary["warnings"]
    assert f"perplexity {summary['perplexity'][0]:.1f} of 64" in warning
    assert "a codebook of fewer codewords does as well" in warning


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason="needs VQPIPE_DATA")
@pytest.mark.parametrize(
    ("name", "codebook"),
    [
        ("sift-pq16", "PQ16"),
        ("sift-pq16", "PQ64"),
        ("glove-km1024", "KM1024"),
        ("glove-km1024", "KM4096"),
    ],
)
def test_codebooks_learnt_from_real_data_are_not_warned_of(
    tmp_path: Path, name: str, codebook: str
) -> None:
    configs = Path(__file__).parent.parent / "configs"
    changes = {"output": str(tmp_path / "out"), "codebook": codebook, "cluster": "serial"}
    summary = run_here(load_config(configs / f"{name}.yaml", changes), until="evaluate")
    assert summary["warnings"] == []
