"""The train stage on whole runs: the curve that is kept, the stop rule, warm starts, dtypes and chunks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import zarr
from runs import WORDS, config_of, excess_distance, files_of, run_here, statuses

import vqpipe
import vqpipe.engines.dask as dask_engine
import vqpipe.pipeline.limits as limits
import vqpipe.pipeline.looks as looks
import vqpipe.pipeline.train as train_stage
import vqpipe.quantizer.assign as assign
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import CodebookError
from vqpipe.kmeans.state import TrainState
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.limits import plan_disk
from vqpipe.progress import Silent
from vqpipe.quantizer import Quantizer, choose_search
from vqpipe.shards import Shard
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.samples import Sample, find_sample
from vqpipe.tasks.train import Slice, TallyJob, tally_slice


def codebook_of(output: Path, generation: str = "v1") -> Any:
    return read_codebook(str(output / generation / "codebook.zarr"))


def sample_of(output: Path) -> Sample:
    (path,) = (output / "samples").glob("*.zarr")
    sample = find_sample(str(path))
    assert sample is not None
    return sample


def heldout_distortion(output: Path) -> float:
    """Return the distortion of the held-out rows, longhand in float64."""
    sample, codebook = sample_of(output), codebook_of(output).quantizer.codebook
    rows = sample.vectors("heldout", 0, sample.rows["heldout"]).astype(np.float64)
    columns = rows.reshape(len(rows), codebook.m, 1, -1) - codebook.centroids.astype(np.float64)
    return float((columns**2).sum(axis=3).min(axis=2).sum(axis=1).mean())


@pytest.mark.parametrize("codebook", ["KM64", "PQ20x4"])
def test_the_curve_of_training_is_kept_with_the_codebook(tmp_path: Path, codebook: str) -> None:
    summary = run_here(config_of(tmp_path, WORDS, codebook), until="train")
    history = codebook_of(tmp_path / "out").history
    assert [line["round"] for line in history] == list(range(1, len(history) + 1))
    seen = [line["rows_seen"] for line in history]
    assert seen == sorted(set(seen))
    assert all(line["training"] > 0 and line["dead"] >= 0 <= line["moved"] for line in history)
    looks = [line["heldout"] for line in history if line["heldout"] is not None]
    # Two looks a pass, and the last word is of the codebook that was written.
    passes = seen[-1] / sample_of(tmp_path / "out").rows["train"]
    assert 2 * passes - 2 <= len(looks) <= 2 * passes + 2
    assert history[-1]["heldout"] == pytest.approx(heldout_distortion(tmp_path / "out"), rel=1e-6)
    assert looks[-1] < looks[0]
    assert f"in {len(history)} rounds" in summary["stages"][2]["reason"]
    with_zarr = zarr.open_group(tmp_path / "out/v1/codebook.zarr", mode="r")
    assert with_zarr.attrs["training_history"] == history


def test_a_larger_stop_ends_training_sooner_and_zero_never(tmp_path: Path) -> None:
    rounds = {}
    for stop in (0.0, 0.001, 0.05):
        folder = tmp_path / str(stop)
        folder.mkdir()
        run_here(config_of(folder, WORDS, "KM64", train__stop=stop), until="train")
        history = codebook_of(folder / "out").history
        rounds[stop] = len(history)
        if stop == 0.05:
            # The pass before averaging began lowered held-out distortion by less than that.
            looks = [(line["rows_seen"], line["heldout"]) for line in history if line["heldout"]]
            last = looks[-2]
            earlier = [value for seen, value in looks if seen <= last[0] - 18_000]
            assert last[1] > 0.95 * earlier[-1]
    assert rounds[0.05] < rounds[0.001] <= rounds[0.0]


def test_rounds_and_batch_rows_are_taken_as_the_config_says(tmp_path: Path) -> None:
    keys = {"train__rounds": 7, "train__batch_rows": 1000, "train__stop": 0.0}
    run_here(config_of(tmp_path, WORDS, "KM16", **keys), until="train")
    history = codebook_of(tmp_path / "out").history
    assert [line["rows_seen"] for line in history] == [1000 * taken for taken in range(1, 8)]


@pytest.mark.parametrize("codebook", ["KM64", "PQ10x6"])
def test_a_warm_start_tells_how_many_heldout_rows_changed_their_codes(
    tmp_path: Path, codebook: str
) -> None:
    for name in ("cold", "warm"):
        (tmp_path / name).mkdir()
    cold = run_here(config_of(tmp_path / "cold", WORDS, codebook))
    assert cold["warm_start"] is None
    init = tmp_path / "cold/out/v1/codebook.zarr"
    config = config_of(tmp_path / "warm", WORDS, codebook, train__init=str(init))
    warm = run_here(config)
    change = warm["warm_start"]
    before, after = (
        vqpipe.load_codebook(init),
        vqpipe.load_codebook(tmp_path / "warm/out/v1/codebook.zarr"),
    )
    sample = sample_of(tmp_path / "warm/out")
    rows = sample.vectors("heldout", 0, sample.rows["heldout"])
    differ = before.encode(rows) != after.encode(rows)
    assert change["from"] == before.codebook.digest
    assert (change["rows"], change["rows_are"]) == (len(rows), "heldout")
    assert change["rows_changed"] == pytest.approx(differ.any(axis=1).mean(), abs=2e-3)
    np.testing.assert_allclose(change["codes_changed"], differ.mean(axis=0), atol=2e-3)
    # The same rows again: it starts where the other ended and ends no worse.
    history = codebook_of(tmp_path / "warm/out").history
    assert len(history) < len(codebook_of(tmp_path / "cold/out").history)
    assert warm["distortion"] <= 1.002 * cold["distortion"]
    assert max(change["codes_changed"]) < 0.5
    # Said again where nothing is done, and in the stage's own words.
    again = run_here(config)
    assert set(statuses(again).values()) == {"skipped"}
    assert again["warm_start"] == change
    reason = next(stage["reason"] for stage in warm["stages"] if stage["name"] == "train")
    assert f"{change['rows_changed']:.1%} of held-out rows changed their code" in reason


def test_a_warm_start_from_far_away_follows_the_data(tmp_path: Path) -> None:
    """A codebook of other rows is left behind, not averaged in."""
    vectors = np.load(WORDS).astype(np.float32)
    np.save(tmp_path / "moved.npy", vectors + np.float32(1.0))
    for name in ("cold", "warm", "moved"):
        (tmp_path / name).mkdir()
    run_here(config_of(tmp_path / "moved", tmp_path / "moved.npy", "KM64"), until="train")
    cold = run_here(config_of(tmp_path / "cold", WORDS, "KM64"))
    init = tmp_path / "moved/out/v1/codebook.zarr"
    warm = run_here(config_of(tmp_path / "warm", WORDS, "KM64", train__init=str(init)))
    assert warm["distortion"] <= 1.02 * cold["distortion"]
    assert warm["warm_start"]["rows_changed"] > 0.2


def test_a_warm_start_centres_rows_where_they_are_now(tmp_path: Path) -> None:
    """Not where they were when the earlier codebook was learnt: far from there products cancel."""
    vectors = np.load(WORDS).astype(np.float32)
    np.save(tmp_path / "moved.npy", vectors + np.float32(2000.0))
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    run_here(config_of(tmp_path / "here", WORDS, "KM64"), until="train")
    init = str(tmp_path / "here/out/v1/codebook.zarr")
    run_here(config_of(tmp_path / "there", tmp_path / "moved.npy", "KM64", train__init=init))
    codebook = codebook_of(tmp_path / "there/out").quantizer.codebook
    mean = sample_of(tmp_path / "there/out").mean
    np.testing.assert_array_equal(codebook.offset, np.array(mean, dtype=np.float32))
    codes = vqpipe.open_codes(tmp_path / "there/out")["codes"][:2000]
    moved = np.load(tmp_path / "moved.npy")[:2000]
    assert excess_distance(moved, codebook.centroids, codes).max() < 1e-3


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int8"])
@pytest.mark.parametrize("codebook", ["KM32", "PQ4x5"])
def test_small_dtypes_give_what_float32_gives_on_the_same_values(
    tmp_path: Path, dtype: str, codebook: str
) -> None:
    rng = np.random.default_rng(3)
    values = np.clip(rng.standard_normal((5000, 16)) * 25, -100, 100).round()
    values += 100.0 if dtype == "uint8" else 0.0
    found = {}
    for name in (dtype, "float32"):
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "vectors.npy", values.astype(name))
        run_here(config_of(folder, folder / "vectors.npy", codebook, export=[]))
        codes = vqpipe.open_codes(folder / "out")["codes"][...]
        found[name] = (codebook_of(folder / "out").quantizer.codebook.digest, codes.tobytes())
    assert found[dtype] == found["float32"]


@pytest.mark.parametrize("chunk_rows", [4000, 1000, 999, 1])
def test_chunks_do_not_matter_nor_does_a_last_one_of_a_single_row(
    tmp_path: Path, chunk_rows: int
) -> None:
    """A single chunk, whole chunks, and 3,997 rows in chunks of 999, which leaves one."""
    rows = 3997 if chunk_rows == 999 else 4000
    vectors = np.random.default_rng(4).standard_normal((rows, 8)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    if chunk_rows == 1:
        vectors, rows = vectors[:300], 300
        np.save(tmp_path / "vectors.npy", vectors)
    zarr.create_array(tmp_path / "vectors.zarr", data=vectors, chunks=(chunk_rows, 8))
    digests = []
    for name in ("vectors.npy", "vectors.zarr"):
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        run_here(config_of(folder, tmp_path / name, "KM16"), until="train")
        digests.append(codebook_of(folder / "out").quantizer.codebook.digest)
    assert digests[0] == digests[1]


def test_rows_sorted_by_cluster_give_as_good_a_codebook_as_shuffled_ones(tmp_path: Path) -> None:
    """Within 1% here, where seeds alone are worth that much; benchmarks say 0.3% of large sets."""
    vectors = np.load(WORDS).astype(np.float32)
    (tmp_path / "labels").mkdir()
    run_here(config_of(tmp_path / "labels", WORDS, "KM128"))
    labels = vqpipe.open_codes(tmp_path / "labels/out")["codes"][:, 0]
    np.save(tmp_path / "sorted.npy", vectors[np.argsort(labels, kind="stable")])
    figures: dict[str, list[float]] = {"sorted": [], "plain": []}
    for seed in (0, 1):
        for name, source in (("sorted", tmp_path / "sorted.npy"), ("plain", WORDS)):
            folder = tmp_path / f"{name} {seed}"
            folder.mkdir()
            run_here(config_of(folder, source, "KM128", seed=seed))
            codes = vqpipe.open_codes(folder / "out")
            figures[name].append(float(codes["shards/squared_error"][...].sum()))
    assert sum(figures["sorted"]) <= 1.01 * sum(figures["plain"])


def test_the_loss_of_cosine_training_goes_down(tmp_path: Path) -> None:
    """Each row against its unit codeword, longhand, after few rounds and after many."""
    losses = []
    for rounds in (1, 4, 16):
        folder = tmp_path / str(rounds)
        folder.mkdir()
        keys = {"source__metric": "cosine", "train__rounds": rounds, "train__stop": 0.0}
        run_here(config_of(folder, WORDS, "KM64", **keys), until="train")
        centroids = codebook_of(folder / "out").quantizer.codebook.centroids[0, 0]
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1.0, rtol=1e-6)
        rows = np.load(WORDS).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        losses.append(float((2 - 2 * (rows @ centroids.T.astype(np.float64)).max(axis=1)).mean()))
    assert losses[0] > losses[1] > losses[2]


def test_more_codewords_than_distinct_rows_is_a_clear_error(tmp_path: Path) -> None:
    vectors = np.repeat(np.random.default_rng(5).standard_normal((40, 4)), 5, axis=0)
    np.save(tmp_path / "few.npy", vectors.astype(np.float32))
    with pytest.raises(CodebookError, match="only 40 distinct ones; take at most KM40"):
        run_here(config_of(tmp_path, tmp_path / "few.npy", "KM41", train__heldout_rows=0))


@pytest.mark.parametrize("codebook", ["KM1", "KM200"])
def test_one_codeword_and_as_many_as_rows(tmp_path: Path, codebook: str) -> None:
    vectors = np.random.default_rng(6).standard_normal((200, 6)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    summary = run_here(
        config_of(tmp_path, tmp_path / "vectors.npy", codebook, train__heldout_rows=0)
    )
    centroids = codebook_of(tmp_path / "out").quantizer.codebook.centroids[0, 0]
    if codebook == "KM1":
        np.testing.assert_allclose(centroids[0], vectors.mean(axis=0), rtol=1e-5, atol=1e-6)
    else:
        assert summary["distortion"] < 1e-10
        assert len(np.unique(centroids, axis=0)) == 200


@pytest.mark.parametrize("heldout_rows", ["auto", 0])
@pytest.mark.parametrize("codebook", ["KM1", "PQ2x2"])
def test_rows_that_are_all_equal_are_kept_without_loss(
    tmp_path: Path, codebook: str, heldout_rows: Any
) -> None:
    row = np.float32([1e3, -2.5, 0.0, 7.25])
    np.save(tmp_path / "equal.npy", np.tile(row, (300, 1)))
    keys = {"train__heldout_rows": heldout_rows, "export": []}
    summary = run_here(config_of(tmp_path, tmp_path / "equal.npy", codebook, **keys))
    assert summary["distortion"] == 0
    codes = vqpipe.open_codes(tmp_path / "out")["codes"][...]
    assert not codes.any()
    decoded = codebook_of(tmp_path / "out").quantizer.decode(codes)
    np.testing.assert_array_equal(decoded, np.tile(row, (300, 1)))


def test_rows_that_are_all_equal_have_no_second_cluster(tmp_path: Path) -> None:
    np.save(tmp_path / "equal.npy", np.ones((300, 4), dtype=np.float32))
    with pytest.raises(CodebookError, match="only 1 distinct ones; take at most KM1"):
        run_here(config_of(tmp_path, tmp_path / "equal.npy", "KM2"))


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take 256 codewords for many."""
    monkeypatch.setattr(assign, "LEAST_GROUPED_CODEWORDS", 256)


@pytest.mark.usefixtures("many")
def test_a_search_over_codewords_is_judged_and_its_loss_kept(tmp_path: Path) -> None:
    run_here(config_of(tmp_path, WORDS, "KM512"))
    history = codebook_of(tmp_path / "out").history
    losses = [line["search_loss"] for line in history if line["heldout"] is not None]
    assert losses
    assert all(0 <= loss <= looks.MOST_SEARCH_LOSS for loss in losses if loss is not None)
    # Encoding compares with all codewords: the route that is stored is exact.
    file = codebook_of(tmp_path / "out")
    assert file.quantizer.route.name != "grouped"
    vectors = np.load(WORDS)[:500].astype(np.float32)
    codes = vqpipe.open_codes(tmp_path / "out")["codes"][:500]
    assert excess_distance(vectors, file.quantizer.codebook.centroids, codes).max() < 1e-3


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("heldout_rows", ["auto", 0])
def test_a_search_that_misses_too_much_looks_at_more_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heldout_rows: Any
) -> None:
    """Also where only training rows can judge it."""
    monkeypatch.setattr(looks, "MOST_SEARCH_LOSS", -1.0)
    used: list[int] = []
    plain = choose_search

    def watched(probes: int) -> Any:
        used.append(probes)
        return plain(probes)

    monkeypatch.setattr(train_stage, "choose_search", watched)
    monkeypatch.setattr(assign, "FIRST_PROBES", 1)
    config = config_of(tmp_path, WORDS, "KM512", train__heldout_rows=heldout_rows)
    run_here(config, until="train")
    assert list(dict.fromkeys(used)) == [1, 2, 4, 8, 0]
    assert used[-1] == 0


@pytest.mark.usefixtures("many")
def test_a_searched_and_warm_training_is_the_same_on_every_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where tallies are added on the workers, as those of large codebooks are."""
    (tmp_path / "first").mkdir()
    run_here(config_of(tmp_path / "first", WORDS, "KM300", train__rounds=5), until="train")
    init = str(tmp_path / "first/out/v1/codebook.zarr")
    outputs, changes = [], []
    for name, workers, home_bytes in (
        ("serial", 0, None),
        ("added here", 2, 1 << 30),
        ("there", 2, 0),
    ):
        folder = tmp_path / name
        folder.mkdir()
        where = {"options": {"n_workers": workers}} if workers else "serial"
        monkeypatch.setattr(dask_engine, "HOME_BYTES", home_bytes)
        keys = {"train__rounds": 8, "train__init": init, "cluster": where}
        changes.append(run_here(config_of(folder, WORDS, "KM300", **keys), "train")["warm_start"])
        outputs.append(files_of(folder / "out/v1/codebook.zarr"))
    assert outputs[0] == outputs[1] == outputs[2]
    assert changes[0] == changes[1] == changes[2]
    assert codebook_of(tmp_path / "there/out").history[-1]["search_loss"] is not None


def test_what_comes_home_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """No labels, distances or vectors: a tally of ten times the rows is as large."""
    run_here(config_of(tmp_path, WORDS, "KM16"), until="train")
    sample, quantizer = sample_of(tmp_path / "out"), codebook_of(tmp_path / "out").quantizer
    job = TallyJob(sample, quantizer, quantizer.route)
    sizes = {
        (rows, look): len(pickle.dumps(tally_slice(Slice("train", Shard(0, 0, rows), look), job)))
        for rows in (1000, 10_000)
        for look in (False, True)
    }
    assert sizes[10_000, False] <= sizes[1000, False] + 64 < 16 * (100 + 3) * 8 + 2000
    assert sizes[10_000, True] <= sizes[1000, True] + 64 < 1000


@pytest.mark.parametrize("stop_at", [1, 2, 5, 11, 19])
def test_a_training_cut_off_at_any_round_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    keys = {"train__rounds": 20, "train__batch_rows": 3000}
    for name in ("calm", "cut"):
        (tmp_path / name).mkdir()
    run_here(config_of(tmp_path / "calm", WORDS, "KM64", **keys), until="train")
    config = config_of(tmp_path / "cut", WORDS, "KM64", **keys)
    monkeypatch.setattr(train_stage, "CHECKPOINT_SECONDS", -1.0)
    plain = train_stage.take_step

    def dying(state: TrainState, *arguments: Any, **named: Any) -> Any:
        if state.round == stop_at:
            raise KeyboardInterrupt
        return plain(state, *arguments, **named)

    monkeypatch.setattr(train_stage, "take_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run_here(config, until="train")
    assert (tmp_path / "cut/out/v1" / train_stage.CHECKPOINT_FILE).exists()
    monkeypatch.setattr(train_stage, "take_step", plain)
    run_here(config, until="train")
    calm, cut = (files_of(tmp_path / name / "out/v1/codebook.zarr") for name in ("calm", "cut"))
    assert json.loads(calm["zarr.json"]) == json.loads(cut["zarr.json"])
    assert calm == cut


def test_two_checkpoints_fit_on_the_disk_that_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one stays until the next is whole."""
    sizes: list[int] = []
    plain = TrainState.write

    def measured(state: TrainState, file: IO[bytes]) -> None:
        plain(state, file)
        folder = tmp_path / "out/v1"
        sizes.append(sum(path.stat().st_size for path in folder.glob("checkpoint*")))

    monkeypatch.setattr(TrainState, "write", measured)
    monkeypatch.setattr(train_stage, "CHECKPOINT_SECONDS", -1.0)
    config = config_of(tmp_path, WORDS, "KM4000", train__rounds=3)
    planned = plan_disk(begin_run(config, SerialRunner(), Silent()))["train"]
    run_here(config, until="train")
    assert len(sizes) == 3
    assert sizes[-1] > 1.5 * sizes[0] > 0
    assert sizes[-1] <= planned
    # Not because of what is added for other files: statistics of single codewords come out of that.
    assert sizes[-1] - 4 * 8 * 4000 - 20_000 <= planned - limits.OTHER_BYTES


def test_quantizers_with_other_routes_share_a_codebook(tmp_path: Path) -> None:
    """What judges a searched round is exact, whatever the round's own route."""
    run_here(config_of(tmp_path, WORDS, "KM64"), until="train")
    quantizer = codebook_of(tmp_path / "out").quantizer
    searched = Quantizer(quantizer.codebook, choose_search(2))
    sample = sample_of(tmp_path / "out")
    look = tally_slice(
        Slice("heldout", Shard(0, 0, 2000), look=True), TallyJob(sample, searched, quantizer.route)
    ).look
    assert look is not None
    assert look.distortion == pytest.approx(heldout_distortion(tmp_path / "out"), rel=1e-6)
    assert look.search_loss > 0
