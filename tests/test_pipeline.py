"""The pipeline as a whole: the same bytes everywhere, least work, whatever happens in between."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
import tensorstore
import zarr
from runs import (
    WORDS,
    config_of,
    excess_distance,
    files_of,
    oracle_codes,
    run_command,
    run_here,
    statuses,
)

import vqpipe
import vqpipe.errors as vqpipe_errors
from vqpipe.kmeans.state import TrainState
from vqpipe.pipeline import encode as encode_stage
from vqpipe.pipeline.train import CHECKPOINT_FILE
from vqpipe.quantizer.faiss_index import pack_codes
from vqpipe.sources import open_source
from vqpipe.storage.codes import find_codes

LASTING = ("codebook.zarr", "codes.zarr", "evaluation.json", "index.faiss")


def lasting_files(output: Path, generation: str = "v1") -> dict[str, bytes]:
    """Return what a run's bytes are: without times, process ids and the report that tells them."""
    found = files_of(output / generation)
    kept = {name: data for name, data in found.items() if name.split("/")[0] in LASTING}
    samples = {f"samples/{name}": data for name, data in files_of(output / "samples").items()}
    return {**kept, **samples}


@pytest.mark.parametrize("codebook", ["PQ10x6", "KM300"])
def test_bytes_are_equal_for_1_worker_for_3_and_for_the_serial_runner(
    tmp_path: Path, codebook: str
) -> None:
    outputs = []
    for cluster in ("serial", 1, 3):
        folder = tmp_path / str(cluster)
        where = "serial" if cluster == "serial" else {"options": {"n_workers": cluster}}
        config = config_of(
            folder, WORDS, codebook, cluster=where, encode__shard_rows=3000, train__rounds=15
        )
        run_here(config)
        outputs.append(lasting_files(folder / "out"))
    serial, one, three = outputs
    assert len(serial) > 30
    assert serial == one
    assert serial == three


@pytest.fixture(scope="module")
def words_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The words in 20 bytes each, in seven shards."""
    folder = tmp_path_factory.mktemp("words")
    config = config_of(
        folder, WORDS, "PQ20", source__metric="cosine", encode__shard_rows=3000,
        encode__store_error=True, export=["faiss", "npy"], train__rounds=20,
    )  # fmt: skip
    run_here(config)
    return folder / "out"


def test_tensorstore_zarr_and_npy_hold_the_same_codes(words_run: Path) -> None:
    by_zarr = zarr.open_array(words_run / "v1/codes.zarr/codes", mode="r")[...]
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{words_run}/v1/codes.zarr/codes/"},
    }
    by_tensorstore = tensorstore.open(spec, read=True).result().read().result()
    assert by_zarr.shape == (20_000, 20)
    assert by_zarr.dtype == np.uint8
    np.testing.assert_array_equal(by_zarr, by_tensorstore)
    np.testing.assert_array_equal(by_zarr, np.load(words_run / "v1/codes.npy"))
    np.testing.assert_array_equal(by_zarr, vqpipe.open_codes(words_run)["codes"][...])


def test_stored_codes_and_errors_are_what_the_codebook_says_of_each_row(words_run: Path) -> None:
    quantizer = vqpipe.load_codebook(words_run / "v1/codebook.zarr")
    codes = vqpipe.open_codes(words_run)
    vectors = np.load(WORDS)
    np.testing.assert_array_equal(quantizer.encode(vectors), codes["codes"][...])
    wide = vectors.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    errors = ((unit - quantizer.decode(codes["codes"][...])) ** 2).sum(axis=1)
    np.testing.assert_allclose(codes["sq_error"][...], errors, rtol=1e-4)
    np.testing.assert_allclose(codes["shards/squared_error"][...].sum(), errors.sum(), rtol=1e-5)
    nearest = oracle_codes(unit.astype(np.float32)[:2000], quantizer.codebook.centroids)
    assert (nearest == codes["codes"][:2000]).mean() > 0.9999


def test_faiss_searches_the_export_as_the_decoded_vectors_are_searched(words_run: Path) -> None:
    index = faiss.read_index(str(words_run / "v1/index.faiss"))
    quantizer = vqpipe.load_codebook(words_run / "v1/codebook.zarr")
    codes = vqpipe.open_codes(words_run)["codes"][...]
    decoded = quantizer.decode(codes)
    packed = pack_codes(codes, 256)
    np.testing.assert_array_equal(index.sa_decode(packed), decoded)
    queries = np.load(WORDS)[:200].astype(np.float32)
    distances, ids = index.search(queries, 10)
    unit = queries.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    exact = ((unit[:, None] - decoded[None].astype(np.float64)) ** 2).sum(axis=2)
    order = np.argsort(exact, axis=1, kind="stable")[:, :10]
    np.testing.assert_allclose(distances, np.take_along_axis(exact, order, 1), rtol=1e-4, atol=1e-5)
    found = np.take_along_axis(exact, ids, 1)
    np.testing.assert_allclose(found, np.take_along_axis(exact, order, 1), rtol=1e-4, atol=1e-5)


def test_recall_and_distortion_are_what_a_longhand_evaluation_finds(words_run: Path) -> None:
    figures = json.loads((words_run / "v1/evaluation.json").read_text())
    (sample_path,) = (words_run / "samples").iterdir()
    sample = zarr.open_group(sample_path, mode="r")
    quantizer = vqpipe.load_codebook(words_run / "v1/codebook.zarr")
    wide = np.load(WORDS).astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    decoded = quantizer.decode(vqpipe.open_codes(words_run)["codes"][...]).astype(np.float64)
    heldout = sample["heldout_rows"][...]
    errors = ((unit[heldout] - decoded[heldout]) ** 2).sum(axis=1)
    assert figures["distortion"] == pytest.approx(errors.mean(), rel=1e-6)
    spread = ((unit[heldout] - unit[heldout].mean(axis=0)) ** 2).sum(axis=1).mean()
    assert figures["relative_distortion"] == pytest.approx(errors.mean() / spread, rel=1e-6)
    queries = heldout[:1000]
    others = np.setdiff1d(np.arange(20_000), queries)
    exact = others[((unit[queries][:, None] @ unit[others].T)[:, 0]).argmax(axis=1)]
    by_code = -2 * unit[queries] @ decoded[others].T + (decoded[others] ** 2).sum(axis=1)
    order = others[np.argsort(by_code, axis=1, kind="stable")]
    for k, share in figures["recall"].items():
        hits = (order[:, : int(k)] == exact[:, None]).any(axis=1).mean()
        assert share == pytest.approx(hits, abs=0.002)
    assert figures["queries"] == 1000
    assert figures["database_rows"] == 20_000


def test_the_sample_is_shuffled_disjoint_and_the_rows_it_names(words_run: Path) -> None:
    (sample_path,) = (words_run / "samples").iterdir()
    sample = zarr.open_group(sample_path, mode="r")
    vectors = np.load(WORDS)
    drawn = {name: sample[f"{name}_rows"][...] for name in ("train", "heldout", "database")}
    for name, rows in drawn.items():
        assert len(np.unique(rows)) == len(rows)
        np.testing.assert_array_equal(sample[name][...], vectors[rows])
    assert not set(drawn["train"]) & set(drawn["heldout"])
    # Any prefix is a uniform sample: its mean row is that of all rows, within 5 standard errors.
    for size in (500, 5000):
        error = (20_000 / np.sqrt(12)) / np.sqrt(size)
        assert abs(drawn["train"][:size].mean() - 10_000) < 5 * error


def test_no_array_takes_more_on_disk_than_its_values(words_run: Path) -> None:
    """A chunk is stored whole, however little of it the array fills."""
    arrays = [path.parent for path in words_run.rglob("zarr.json")]
    found = {path: zarr.open(path, mode="r") for path in arrays}
    sizes = {path: array.nbytes for path, array in found.items() if isinstance(array, zarr.Array)}
    assert len(sizes) > 10
    for path, size in sizes.items():
        # Metadata, checksums, the index of a shard, and what fills the last one.
        assert sum(len(data) for data in files_of(path).values()) <= 1.1 * size + 4096, path


def test_a_second_run_does_nothing_and_says_so(words_run: Path) -> None:
    before = files_of(words_run / "v1")
    config = config_of(
        words_run.parent, WORDS, "PQ20", source__metric="cosine", encode__shard_rows=3000,
        encode__store_error=True, export=["faiss", "npy"], train__rounds=20,
    )  # fmt: skip
    summary = run_here(config)
    assert set(statuses(summary).values()) == {"skipped"}
    assert files_of(words_run / "v1") == before


def test_another_evaluate_setting_reruns_only_what_follows_from_it(tmp_path: Path) -> None:
    run_here(config_of(tmp_path, WORDS, "PQ10x4", train__rounds=5))
    before = files_of(tmp_path / "out/v1/codes.zarr/codes")
    summary = run_here(
        config_of(tmp_path, WORDS, "PQ10x4", train__rounds=5, evaluate__recall_at=[5])
    )
    done = {name for name, status in statuses(summary).items() if status == "done"}
    assert done == {"evaluate", "report"}
    assert list(summary["recall"]) == ["5"]
    assert files_of(tmp_path / "out/v1/codes.zarr/codes") == before


def test_another_codebook_makes_v2_and_v1_is_read_until_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = config_of(tmp_path, WORDS, "PQ10x4", train__rounds=5)
    second = config_of(tmp_path, WORDS, "PQ20x4", train__rounds=5)
    run_here(first)
    before = files_of(output / "v1")
    for until in ("train", "encode", "export"):
        summary = run_here(second, until=until)
        assert summary["generation"] == "v2"
        assert (output / "current").read_text() == "v1\n"
        assert vqpipe.open_codes(output)["codes"].shape == (20_000, 10)
    summary = run_here(second)
    assert (output / "current").read_text() == "v2\n"
    assert vqpipe.open_codes(output)["codes"].shape == (20_000, 20)
    # Same k, so the same sample: it is shared, not drawn again.
    assert len(list((output / "samples").iterdir())) == 1
    assert files_of(output / "v1") == before
    back = run_here(first)
    assert back["generation"] == "v1"
    assert set(statuses(back).values()) == {"skipped"}
    assert (output / "current").read_text() == "v1\n"


def test_other_encode_settings_take_the_codebook_over(tmp_path: Path) -> None:
    first = run_here(config_of(tmp_path, WORDS, "KM20", train__rounds=5))
    second = run_here(config_of(tmp_path, WORDS, "KM20", train__rounds=5, encode__store_error=True))
    assert (first["generation"], second["generation"]) == ("v1", "v2")
    assert statuses(second)["train"] == "skipped"
    books = [vqpipe.load_codebook(tmp_path / f"out/{name}/codebook.zarr") for name in ("v1", "v2")]
    assert books[0].codebook.digest == books[1].codebook.digest


def test_force_train_learns_the_same_codebook_again_in_the_next_generation(tmp_path: Path) -> None:
    config = config_of(tmp_path, WORDS, "KM20", train__rounds=5)
    run_here(config)
    summary = run_here(config, force="train")
    assert summary["generation"] == "v2"
    assert statuses(summary)["train"] == statuses(summary)["encode"] == "done"
    first, second = (files_of(tmp_path / f"out/{name}/codebook.zarr") for name in ("v1", "v2"))
    assert first == second


@pytest.mark.long
def test_a_run_killed_in_training_and_again_in_encoding_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    config_text = (
        f"source: {{uri: {WORDS}}}\noutput: out\ncodebook: KM256\ncluster: serial\n"
        "train: {rounds: 60, stop: 0}\nencode: {shard_rows: 50}\n"
    )
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config_text)
    calm, killed = tmp_path / "calm/out", tmp_path / "killed/out"
    often = "import vqpipe.pipeline.train as train; train.CHECKPOINT_SECONDS = 0.0"
    command = ("run", str(tmp_path / "killed/config.yaml"), "--direct", "--json")

    process = run_command(*command, patch=often)
    checkpoint = killed / "v1" / CHECKPOINT_FILE
    _wait_until(lambda: checkpoint.exists() and _round(checkpoint) >= 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stopped_at = _round(checkpoint)
    assert 5 <= stopped_at < 60

    process = run_command(*command, patch=often)
    records = killed / "v1/codes.zarr/shards/squared_error/c"
    _wait_until(lambda: records.exists() and len(list(records.iterdir())) >= 10, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = len(list(records.iterdir()))
    assert 10 <= there < 400

    process = run_command(*command)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    stages = {stage["name"]: stage for stage in json.loads(out)["stages"]}
    assert stages["sample"]["status"] == stages["train"]["status"] == "skipped"
    assert f"{400 - there} shards" in stages["encode"]["reason"]

    process = run_command("run", str(tmp_path / "calm/config.yaml"), "--direct")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert lasting_files(killed) == lasting_files(calm)
    assert not list(killed.rglob("*.partial"))


def _round(checkpoint: Path) -> int:
    with checkpoint.open("rb") as file:
        return TrainState.read(file).round


def _wait_until(condition, process, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended before it could be killed: {process.communicate()}"
        assert time.monotonic() < deadline, "the moment to kill did not come"
        time.sleep(0.002)


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_status_and_leaves_it_resumable(
    tmp_path: Path, signal_number: signal.Signals, status: int
) -> None:
    (tmp_path / "config.yaml").write_text(
        f"source: {{uri: {WORDS}}}\noutput: out\ncodebook: KM256\n"
        "train: {rounds: 3000, stop: 0}\ncluster: {options: {n_workers: 2}}\n"
    )
    often = "import vqpipe.pipeline.train as train; train.CHECKPOINT_SECONDS = 0.0"
    command = ("run", str(tmp_path / "config.yaml"), "--direct")
    process = run_command(*command, patch=often)
    checkpoint = tmp_path / "out/v1" / CHECKPOINT_FILE
    _wait_until(checkpoint.exists, process)
    process.send_signal(signal_number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in error
    assert "interrupted in train: " in error
    assert _round(checkpoint) >= 1


def test_codes_agree_with_a_float64_oracle_far_from_the_origin(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    vectors = (rng.standard_normal((6000, 24)) + 1000.0).astype(np.float32)
    np.save(tmp_path / "far.npy", vectors)
    for codebook in ("KM64", "PQ6x5"):
        folder = tmp_path / codebook
        run_here(config_of(folder, tmp_path / "far.npy", codebook, train__rounds=8))
        centroids = vqpipe.load_codebook(folder / "out/v1/codebook.zarr").codebook.centroids
        codes = vqpipe.open_codes(folder / "out")["codes"][...]
        assert (oracle_codes(vectors, centroids) == codes).mean() > 0.9999


def test_codes_agree_with_a_float64_oracle_with_one_column_1000_times_the_others(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(6)
    vectors = rng.standard_normal((6000, 24)).astype(np.float32)
    vectors[:, 7] *= 1000
    np.save(tmp_path / "uneven.npy", vectors)
    for codebook in ("KM64", "PQ6x5"):
        folder = tmp_path / codebook
        run_here(config_of(folder, tmp_path / "uneven.npy", codebook, train__rounds=8))
        centroids = vqpipe.load_codebook(folder / "out/v1/codebook.zarr").codebook.centroids
        codes = vqpipe.open_codes(folder / "out")["codes"][...]
        assert (oracle_codes(vectors, centroids) == codes).mean() > 0.999
        norms = (vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
        assert (excess_distance(vectors, centroids, codes) <= 1e-6 * norms).all()


def test_of_a_source_that_grew_only_new_and_partial_shards_are_encoded(tmp_path: Path) -> None:
    vectors = np.load(WORDS)
    source = tmp_path / "source.zarr"
    array = zarr.create_array(source, shape=(5000, 100), chunks=(1000, 100), dtype="float16")
    array[...] = vectors[:5000]
    keys = {"encode__shard_rows": 2000, "train__rounds": 5}
    first = run_here(config_of(tmp_path, source, "KM50", **keys))
    before = vqpipe.open_codes(tmp_path / "out")["codes"][...]
    array.resize((7000, 100))
    array[5000:] = vectors[5000:7000]
    second = run_here(config_of(tmp_path, source, "KM50", **keys))
    assert first["generation"] == second["generation"] == "v1"
    assert statuses(second)["train"] == "skipped"
    (reason,) = (stage["reason"] for stage in second["stages"] if stage["name"] == "encode")
    assert "in 2 shards" in reason
    codes = vqpipe.open_codes(tmp_path / "out")["codes"][...]
    assert codes.shape == (7000, 1)
    np.testing.assert_array_equal(codes[:5000], before)
    quantizer = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    np.testing.assert_array_equal(codes, quantizer.encode(vectors[:7000]))
    assert statuses(run_here(config_of(tmp_path, source, "KM50", **keys)))["encode"] == "skipped"


def test_rows_that_are_new_are_not_seen_before_they_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.load(WORDS)
    np.save(tmp_path / "source.npy", vectors[:5000])
    config = config_of(tmp_path, tmp_path / "source.npy", "KM50", encode__shard_rows=2000)
    run_here(config)
    np.save(tmp_path / "source.npy", vectors[:7000])

    def fail_on_the_last(shard, job):  # type: ignore[no-untyped-def]
        if shard.stop == 7000:
            raise OSError("the disk is on fire")
        return encode_stage_function(shard, job)

    encode_stage_function = encode_stage.encode_shard
    monkeypatch.setattr(encode_stage, "encode_shard", fail_on_the_last)
    with pytest.raises(vqpipe_errors.StageError, match=r"1 of 4 shards failed.*on fire"):
        run_here(config)
    assert vqpipe.open_codes(tmp_path / "out")["codes"].shape == (5000, 1)
    monkeypatch.undo()
    run_here(config)
    assert vqpipe.open_codes(tmp_path / "out")["codes"].shape == (7000, 1)


def test_a_shard_changed_in_place_is_found_and_encoded_again_alone(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:6000]
    source = tmp_path / "source.zarr"
    array = zarr.create_array(source, shape=(6000, 100), chunks=(1000, 100), dtype="float16")
    array[...] = vectors
    config = config_of(tmp_path, source, "KM50", encode__shard_rows=2000, train__rounds=5)
    run_here(config)
    array[2500:2600] = vectors[:100]
    summary = run_here(config)
    assert summary["generation"] == "v1"
    (reason,) = (stage["reason"] for stage in summary["stages"] if stage["name"] == "encode")
    assert "2,000 rows in 1 shards" in reason
    codes = vqpipe.open_codes(tmp_path / "out")["codes"][...]
    np.testing.assert_array_equal(codes[2500:2600], codes[:100])


@pytest.mark.parametrize("given", ["codebook.zarr", "index.faiss"])
def test_a_given_codebook_encodes_without_sampling_or_training(tmp_path: Path, given: str) -> None:
    run_here(config_of(tmp_path / "learn", WORDS, "PQ10x5", train__rounds=5))
    path = tmp_path / "learn/out/v1" / given
    other = np.load(WORDS)[::-1][:3000]
    np.save(tmp_path / "other.npy", other)
    summary = run_here(config_of(tmp_path / "use", tmp_path / "other.npy", {"from": str(path)}))
    assert statuses(summary)["sample"] == "skipped"
    assert not (tmp_path / "use/out/samples").exists()
    quantizer = vqpipe.load_codebook(tmp_path / "learn/out/v1/codebook.zarr")
    codes = vqpipe.open_codes(tmp_path / "use/out")["codes"][...]
    assert (codes == quantizer.encode(other)).mean() > 0.9999
    errors = (other.astype(np.float64) - quantizer.decode(codes)) ** 2
    assert summary["distortion"] == pytest.approx(errors.sum(axis=1).mean(), rel=1e-6)


def test_a_codebook_of_a_foreign_faiss_index_is_used_as_faiss_uses_it(tmp_path: Path) -> None:
    vectors = np.load(WORDS).astype(np.float32)
    index = faiss.IndexPQ(100, 25, 8)
    index.train(vectors[:5000])
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "theirs.faiss"))
    summary = run_here(config_of(tmp_path, WORDS, {"from": str(tmp_path / "theirs.faiss")}))
    codes = vqpipe.open_codes(tmp_path / "out")["codes"][...]
    theirs = faiss.vector_to_array(index.codes).reshape(-1, 25)
    assert (codes == theirs).mean() > 1 - 1e-4
    assert summary["recall"] is None


def test_masked_rows_are_marked_counted_and_left_out(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:4000].astype(np.float32)
    bad = [0, 17, 1999, 2000, 3999]
    vectors[bad, 3] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
    np.save(tmp_path / "holes.npy", vectors)
    config = config_of(
        tmp_path, tmp_path / "holes.npy", "PQ10x4", source__invalid_rows="mask",
        encode__shard_rows=1000, train__rounds=5,
    )  # fmt: skip
    summary = run_here(config)
    assert summary["masked_rows"] == 5
    group = vqpipe.open_codes(tmp_path / "out")
    np.testing.assert_array_equal(np.flatnonzero(~group["valid"][...]), bad)
    assert (group["codes"][...][bad] == 0).all()
    (sample_path,) = (tmp_path / "out/samples").iterdir()
    sample = zarr.open_group(sample_path, mode="r")
    for name in ("train", "heldout", "database"):
        rows = sample[f"{name}_rows"][...]
        assert not set(rows) & set(bad)
        np.testing.assert_array_equal(sample[name][...], vectors[rows])
    assert sample["database"].shape == (3995, 100)
    index = faiss.read_index(str(tmp_path / "out/v1/index.faiss"))
    assert index.ntotal == 3995
    _, ids = index.search(np.ascontiguousarray(vectors[[1, 3998]]), 5)
    assert not set(ids.ravel()) & set(bad)
    quantizer = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr")
    np.testing.assert_array_equal(group["codes"][100:200], quantizer.encode(vectors[100:200]))


def test_the_source_may_be_chunked_in_any_way(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:1500]
    found = []
    for chunks in ((1, 100), (7, 100), (1000, 100), (1500, 100), (300, 33)):
        folder = tmp_path / "x".join(map(str, chunks))
        source = folder / "source.zarr"
        zarr.create_array(source, data=vectors, chunks=chunks)
        run_here(config_of(folder, source, "KM20", encode__shard_rows=600, train__rounds=5))
        found.append(files_of(folder / "out/v1/codes.zarr/codes"))
    assert all(codes == found[0] for codes in found)


def test_shards_cut_otherwise_hold_the_same_codes(tmp_path: Path) -> None:
    found = []
    for rows in (700, 4096, 20_000):
        folder = tmp_path / str(rows)
        run_here(config_of(folder, WORDS, "PQ10x4", encode__shard_rows=rows, train__rounds=5))
        found.append(vqpipe.open_codes(folder / "out")["codes"][...])
    for codes in found[1:]:
        assert (codes != found[0]).mean() < 2e-5


def test_a_config_of_one_row_and_one_codeword_runs(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.float32([[1, 2, 3]]))
    summary = run_here(config_of(tmp_path, tmp_path / "one.npy", "KM1"))
    assert summary["distortion"] == 0
    assert vqpipe.open_codes(tmp_path / "out")["codes"][...].tolist() == [[0]]
    records = find_codes(str(tmp_path / "out/v1/codes.zarr")).records()
    assert records.stored_bytes[0] > 0
    assert open_source(str(tmp_path / "one.npy")).rows == 1


def test_constant_columns_are_ordinary_in_pq(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:2000].astype(np.float32)
    vectors[:, :10] = 7.25
    np.save(tmp_path / "flat.npy", vectors)
    summary = run_here(config_of(tmp_path, tmp_path / "flat.npy", "PQ10x4", train__rounds=5))
    assert any("column 0" in message for message in summary["warnings"])
    assert summary["perplexity"][0] == pytest.approx(1)
    codebook = vqpipe.load_codebook(tmp_path / "out/v1/codebook.zarr").codebook
    assert (codebook.centroids[0, 0, 1:] == np.float32(1e18)).all()
    np.testing.assert_array_equal(codebook.centroids[0, 0, 0], np.float32(7.25))
    index = faiss.read_index(str(tmp_path / "out/v1/index.faiss"))
    distances, ids = index.search(vectors[:5], 3)
    assert np.isfinite(distances).all()
    assert (ids >= 0).all()


def test_a_failed_run_tells_with_json_which_stage_failed_and_what_was_done(tmp_path: Path) -> None:
    vectors = np.load(WORDS)[:3000].astype(np.float32)
    vectors[1234, 5] = np.nan
    np.save(tmp_path / "hole.npy", vectors)
    (tmp_path / "config.yaml").write_text(
        "source: {uri: hole.npy}\noutput: out\ncodebook: KM16\ncluster: serial\n"
    )
    process = run_command("run", str(tmp_path / "config.yaml"), "--direct", "--json")
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "row 1234" in error
    summary = json.loads(out)
    assert statuses(summary) == {
        "ingest": "skipped", "sample": "done", "train": "done", "encode": "failed"
    }  # fmt: skip
    assert "row 1234" in summary["stages"][-1]["reason"]
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("stage", ["ingest", "sample", "train", "encode"])
def test_a_forced_run_with_a_given_codebook_still_learns_nothing(
    tmp_path: Path, stage: str
) -> None:
    run_here(config_of(tmp_path / "learn", WORDS, "KM8", train__rounds=2))
    given = {"from": str(tmp_path / "learn/out/v1/codebook.zarr")}
    run_here(config_of(tmp_path / "use", WORDS, given))
    summary = run_here(config_of(tmp_path / "use", WORDS, given), force=stage)
    assert summary["generation"] == "v2"
    assert statuses(summary)["sample"] == "skipped"
    assert statuses(summary)["encode"] == "done"
    assert not (tmp_path / "use/out/samples").exists()


@pytest.mark.parametrize(
    ("stage", "done"),
    [
        ("evaluate", {"evaluate", "export", "report"}),
        ("export", {"export", "report"}),
        ("report", {"report"}),
    ],
)
def test_a_later_stage_that_is_forced_is_redone_in_place_with_what_follows(
    tmp_path: Path, stage: str, done: set[str]
) -> None:
    config = config_of(tmp_path, WORDS, "KM8", train__rounds=2)
    run_here(config)
    before = files_of(tmp_path / "out/v1/codes.zarr/codes")
    summary = run_here(config, force=stage)
    assert summary["generation"] == "v1"
    assert {name for name, status in statuses(summary).items() if status == "done"} == done
    assert files_of(tmp_path / "out/v1/codes.zarr/codes") == before


def test_more_training_rows_than_the_source_had_at_first_start_the_next_generation(
    tmp_path: Path,
) -> None:
    vectors = np.load(WORDS)
    np.save(tmp_path / "source.npy", vectors[:2000])
    run_here(config_of(tmp_path, tmp_path / "source.npy", "KM8", train__rounds=2))
    np.save(tmp_path / "source.npy", vectors[:8000])
    more = {"train__rounds": 2, "train__rows": 5000}
    summary = run_here(config_of(tmp_path, tmp_path / "source.npy", "KM8", **more))
    assert summary["generation"] == "v2"
