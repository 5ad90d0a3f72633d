"""``encode.assign: fast``: a search that is judged on held-out rows, kept, and bounded in its loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from runs import WORDS, config_of, files_of, run_here, statuses

import vqpipe
from vqpipe.pipeline import fast
from vqpipe.quantizer import assign
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.tasks.search import Losses


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a few hundred codewords many."""
    monkeypatch.setattr(assign, "LEAST_GROUPED_CODEWORDS", 256)


def distortion(codes: np.ndarray, out: Path) -> float:
    """Return what the codes leave of the words, longhand."""
    quantizer = vqpipe.load_codebook(str(out / "v1" / "codebook.zarr"))
    words = np.load(WORDS).astype(np.float64)
    return float(((words - quantizer.decode(codes)) ** 2).sum(axis=1).mean())


@pytest.mark.usefixtures("many")
def test_fast_codes_lose_little_and_their_route_is_kept(tmp_path: Path) -> None:
    exact, quick = tmp_path / "exact", tmp_path / "fast"
    keys = {"train__rounds": 5, "evaluate__queries": 0}
    run_here(config_of(exact, WORDS, "KM1024", **keys))
    run_here(config_of(quick, WORDS, "KM1024", encode__assign="fast", **keys))
    route = read_codebook(str(quick / "out" / "v1" / "codebook.zarr")).quantizer.route
    assert route.name == "grouped"
    codes = {
        name: np.asarray(zarr.open_array(folder / "out" / "v1" / "codes.zarr" / "codes")[...])
        for name, folder in (("exact", exact), ("fast", quick))
    }
    assert (codes["exact"] != codes["fast"]).any()
    least = distortion(codes["exact"], exact / "out")
    assert least < distortion(codes["fast"], quick / "out") <= 1.002 * least


@pytest.mark.usefixtures("many")
def test_a_bound_that_no_search_keeps_means_all_codewords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "MOST_FAST_LOSS", -1.0)
    run_here(config_of(tmp_path, WORDS, "KM512", encode__assign="fast", train__rounds=2))
    file = read_codebook(str(tmp_path / "out" / "v1" / "codebook.zarr"))
    assert file.quantizer.route.name != "grouped"


@pytest.mark.usefixtures("many")
def test_going_back_to_exact_takes_the_codebook_over_and_compares_with_all(tmp_path: Path) -> None:
    keys = {"train__rounds": 2, "evaluate__queries": 0}
    run_here(config_of(tmp_path, WORDS, "KM512", encode__assign="fast", **keys))
    summary = run_here(config_of(tmp_path, WORDS, "KM512", **keys))
    assert (summary["generation"], statuses(summary)["train"]) == ("v2", "skipped")
    file = read_codebook(str(tmp_path / "out" / "v2" / "codebook.zarr"))
    assert file.quantizer.route.name != "grouped"


@pytest.mark.usefixtures("many")
def test_a_given_codebook_is_judged_on_rows_of_the_source(tmp_path: Path) -> None:
    run_here(config_of(tmp_path / "one", WORDS, "KM512", train__rounds=2), until="train")
    given = {"from": str(tmp_path / "one" / "out" / "v1" / "codebook.zarr")}
    run_here(config_of(tmp_path / "two", WORDS, given, encode__assign="fast"), until="encode")
    before = files_of(tmp_path / "two" / "out" / "v1" / "codes.zarr")
    file = read_codebook(str(tmp_path / "two" / "out" / "v1" / "codebook.zarr"))
    assert file.quantizer.route.name == "grouped"
    again = run_here(
        config_of(tmp_path / "two", WORDS, given, encode__assign="fast"), until="encode"
    )
    assert set(statuses(again).values()) == {"skipped"}
    assert files_of(tmp_path / "two" / "out" / "v1" / "codes.zarr") == before


def test_few_codewords_are_all_compared(tmp_path: Path) -> None:
    run_here(
        config_of(tmp_path, WORDS, "KM64", encode__assign="fast", train__rounds=2), until="encode"
    )
    file = read_codebook(str(tmp_path / "out" / "v1" / "codebook.zarr"))
    assert file.quantizer.route.name != "grouped"


def test_what_a_sample_cannot_tell_counts_as_loss() -> None:
    """Against the standard error longhand; few rows that lose much are doubtful, many that lose little are not."""
    rng = np.random.default_rng(0)
    nearest, lost = rng.uniform(1, 2, 500), rng.exponential(0.01, 500)
    halves = [
        Losses(
            len(part),
            nearest[part].sum(),
            np.array([lost[part].sum()]),
            np.array([(lost[part] ** 2).sum()]),
        )
        for part in (np.arange(200), np.arange(200, 500))
    ]
    both = halves[0] + halves[1]
    error = lost.std() * np.sqrt(500) / nearest.sum()
    assert both.fractions[0] == pytest.approx(lost.sum() / nearest.sum())
    assert both.bounds[0] == pytest.approx(lost.sum() / nearest.sum() + 3 * error)
    nothing = Losses(3, 0.0, np.zeros(1), np.zeros(1))
    assert nothing.bounds == [0.0]
