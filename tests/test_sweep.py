"""Sweeps: the figures of a run, beside FAISS's, without touching a generation; resumed, compared, and said in words."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from runs import WORDS, config_of, files_of, run_command, run_here, statuses
from test_pipeline import lasting_files
from typer.testing import CliRunner

from vqpipe.cli import app
from vqpipe.codebook import CodebookSpec
from vqpipe.config import Config
from vqpipe.engines.choose import make_runner
from vqpipe.errors import InputError, LeaseError, StageError
from vqpipe.evaluation.front import Standing, on_front
from vqpipe.pipeline import peer
from vqpipe.pipeline.advice import advise
from vqpipe.pipeline.inspection import inspect_path
from vqpipe.pipeline.prune import prune_output
from vqpipe.pipeline.sweep import run_sweep
from vqpipe.progress import Silent
from vqpipe.quantizer.faiss_train import train_by_faiss, training_bytes
from vqpipe.report import render_sweep
from vqpipe.report.sweep_words import cost_table, notes, quality_table
from vqpipe.rows import prepare_rows
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import LEASE_FILE, take_lease

KEYS: dict[str, Any] = {"train__rounds": 3, "evaluate__queries": 50}
NAMES = ["PQ10x4,PQ20x4", "KM32", "OPQ10x4,RQ2x4"]
SORTED = ["KM32", "RQ2x4", "OPQ10x4", "PQ10x4", "PQ20x4"]

# Of each codebook: what a run's summary and evaluation.json have under the same names.
SAME = ("distortion", "relative_distortion", "in_sample", "recall", "perplexity", "dead", "surplus")


class Told(Silent):
    """Keeps what it is told; raises at a word."""

    def __init__(self, stop_at: str = "") -> None:
        self.finished: list[tuple[str, str, str]] = []
        self.warned: list[str] = []
        self._stop_at = stop_at

    def begin(self, stage: str, total: int, unit: str, *more: int) -> None:
        if stage == self._stop_at:
            raise KeyboardInterrupt

    def finish(self, stage: str, status: str, reason: str, seconds: float) -> None:
        self.finished.append((stage, status, reason))

    def warn(self, message: str) -> None:
        self.warned.append(message)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "rows.npy"
    np.save(path, np.load(WORDS)[:1500])
    return path


def config_in(folder: Path, source: Path, codebook: str = "KM1", **keys: Any) -> Config:
    return config_of(folder, source, codebook, **{**KEYS, **keys})


def sweep(config: Config, names: list[str], told: Silent | None = None, **options: Any) -> dict[str, Any]:  # fmt: skip
    with make_runner(config) as runner:
        return run_sweep(config, names, runner, told or Silent(), **options)


def by_name(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["codebook"]: one for one in result["codebooks"]}


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """Return what of a result does not depend on the clock, the folder, or how many workers there were."""
    text = re.sub(
        r'"(\w*seconds|rows_per_second|train_workers|workers)": [^,}]+', r'"\1": 0', json.dumps(result)
    )  # fmt: skip
    return json.loads(text.replace(result["output"], "OUT"))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, source: Path) -> tuple[Config, dict[str, Any]]:
    """A sweep of every kind in an output of its own."""
    config = config_in(tmp_path_factory.mktemp("swept"), source)
    return config, sweep(config, NAMES)


# --- The figures -----------------------------------------------------------------------------------------------------


def test_inspect_tells_what_was_compared(
    tmp_path: Path, swept: tuple[Config, dict[str, Any]]
) -> None:
    config, result = swept
    found = inspect_path(config.output)
    assert (found["what"], found["current"], found["generations"]) == ("output", None, [])
    assert found["sweep"]["codebooks"].split(", ") == [
        one["codebook"] for one in result["codebooks"]
    ]
    assert found["sweep"]["advice"] == result["advice"]
    assert Path(found["sweep"]["page"]).exists()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/sweep.json").write_text('{"codebooks": [1, {}]}')
    assert inspect_path(str(tmp_path))["sweep"]["codebooks"] == "None"


@pytest.mark.parametrize("codebook", SORTED)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_figures_are_those_of_a_run(
    tmp_path: Path, source: Path, swept: tuple[Config, dict[str, Any]], codebook: str, metric: str
) -> None:
    keys = {"source__metric": metric}
    if metric == "l2":
        _, result = swept
    elif codebook in ("KM32", "PQ10x4"):
        result = sweep(config_in(tmp_path / "sweep", source, **keys), [codebook], faiss=False)
    else:
        pytest.skip("l2 has it")
    summary = run_here(config_in(tmp_path, source, codebook, **keys))
    figures = json.loads((tmp_path / "out/v1/evaluation.json").read_text())
    line = by_name(result)[codebook]
    assert {key: line["vqpipe"][key] for key in SAME} == {key: figures[key] for key in SAME}
    assert line["full"]["bytes_index"] == (tmp_path / "out/v1/index.faiss").stat().st_size
    assert line["ratio"] == pytest.approx(
        8 * summary["bytes_in"] / (1500 * line["bits_per_vector"])
    )
    assert line["full"]["bytes_codes"] == -(-1500 * line["bits_per_vector"] // 8)
    stages = json.loads((tmp_path / "out/v1/stages.json").read_text())
    assert stages["stages"]["train"]["digest"] == line["vqpipe"]["digest"]


def test_every_kind_is_compared_by_rising_bits(swept: tuple[Config, dict[str, Any]]) -> None:
    _, result = swept
    assert [one["codebook"] for one in result["codebooks"]] == SORTED
    assert [one["bits_per_vector"] for one in result["codebooks"]] == [5, 8, 40, 40, 80]
    for one in result["codebooks"]:
        for side in (one["vqpipe"], one["faiss"]):
            assert (side["recall"] is None) == (one["codebook"] == "KM32")
            assert 0 < side["relative_distortion"] < 1
            assert side["train_seconds"] > 0
            assert side["train_rows"] == 1350
        # A few rounds on few rows: near each other, no more.
        ours, theirs = (one[side]["distortion"] for side in ("vqpipe", "faiss"))
        assert ours == pytest.approx(theirs, rel=0.1)
        assert one["full"]["encode_seconds"] > 0
    assert result["measured_on"] == "heldout"
    assert (result["sample"]["heldout_rows"], result["sample"]["database_rows"]) == (150, 1500)
    assert result["queries"] == 50


def test_bits_of_a_codebook_of_any_size_are_those_of_its_codes(
    tmp_path: Path, source: Path
) -> None:
    result = sweep(config_in(tmp_path, source), ["KM33"], faiss=False)
    assert result["codebooks"][0]["bits_per_vector"] == 6
    assert result["codebooks"][0]["faiss"] is None


@pytest.mark.parametrize("wanted", [{"uri": "queries.npy"}, {"uri": "queries.npy", "truth": True}])
def test_queries_of_a_file_are_searched_among_the_rows_that_were_drawn(
    tmp_path: Path, source: Path, wanted: dict[str, Any]
) -> None:
    """A truth is of all rows: it gives way to the nearest of those that are searched."""
    rows = np.load(source)
    np.save(tmp_path / "queries.npy", rows[:30] + np.float16(0.01))
    (tmp_path / "truth.ivecs").write_bytes(
        np.stack([np.ones(30, "<i4"), np.arange(30, dtype="<i4")], axis=1).tobytes()
    )
    keys: dict[str, Any] = {"evaluate__queries": {"uri": str(tmp_path / "queries.npy")}}
    if wanted.get("truth"):
        keys["evaluate__truth"] = {"uri": str(tmp_path / "truth.ivecs")}
    result = sweep(
        config_in(tmp_path, source, evaluate__rows=1000, **keys), ["PQ20x4"], faiss=False
    )
    assert (result["queries"], result["sample"]["database_rows"]) == (30, 1000)
    (one,) = result["codebooks"]
    assert one["vqpipe"]["recall"]["100"] > 0.9


def test_both_runners_give_equal_figures(
    tmp_path: Path, source: Path, swept: tuple[Config, dict[str, Any]]
) -> None:
    """And FAISS's training is the same on a worker."""
    config = config_in(tmp_path, source, cluster={"options": {"n_workers": 2}})
    result = sweep(config, NAMES)
    assert lasting(result) == lasting(swept[1])
    assert result["workers"] == 2


# --- What a sweep leaves alone, and what it leaves behind ------------------------------------------------------------


def test_generations_and_current_stay_as_they_are(tmp_path: Path, source: Path) -> None:
    config = config_in(tmp_path, source, "PQ10x4")
    run_here(config)
    before = files_of(tmp_path / "out")
    sweep(config, ["PQ10x4,KM8"], faiss=False)
    after = files_of(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("sweep/") for name in after.keys() - before.keys())
    assert set(statuses(run_here(config)).values()) == {"skipped"}
    pruned = prune_output(Folder(str(tmp_path / "out")), remove=True)
    assert pruned["removals"] == []
    assert files_of(tmp_path / "out").keys() == after.keys()


def test_a_run_takes_over_the_sample_and_the_codebook(tmp_path: Path, source: Path) -> None:
    alone = config_in(tmp_path / "alone", source, "PQ10x4")
    run_here(alone)
    config = config_in(tmp_path, source, "PQ10x4")
    sweep(config, ["PQ10x4,KM8"], faiss=False)
    assert not (tmp_path / "out/current").exists()
    summary = run_here(config)
    found = statuses(summary)
    assert (found["sample"], found["train"], found["encode"]) == ("skipped", "skipped", "done")
    (reason,) = (stage["reason"] for stage in summary["stages"] if stage["name"] == "train")
    assert "taken over from sweep/PQ10x4-" in reason
    assert lasting_files(tmp_path / "out") == lasting_files(tmp_path / "alone/out")


@pytest.mark.parametrize("what", ["codebook.zarr/centroids/zarr.json", "stages.json"])
def test_a_damaged_trial_is_made_again_and_harms_no_run(
    tmp_path: Path, source: Path, what: str
) -> None:
    config = config_in(tmp_path, source, "PQ10x4")
    first = sweep(config, ["PQ10x4"], faiss=False)
    (trial,) = (tmp_path / "out/sweep").glob("PQ10x4-*")
    (trial / what).write_text("{}")
    if what != "stages.json":
        # A trial of which only its codebook is gone would be told by the run that takes it over.
        assert statuses(run_here(config))["train"] == "done"
        (trial / what).unlink()
        (trial / "codebook.zarr").rename(tmp_path / "gone")
    assert lasting(sweep(config, ["PQ10x4"], faiss=False)) == lasting(first)


def test_to_names_another_folder_and_leaves_the_output_alone(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    config = file_in(tmp_path / "configs", source)
    done = vqpipe("sweep", config, "--codebook", "KM8", "--to", "there", "--no-faiss", "--json")
    result = json.loads(done.stdout)
    assert not (tmp_path / "configs/out").exists()
    assert result["page"] == str(tmp_path / "there/sweep/sweep.html")
    assert json.loads((tmp_path / "there/sweep/sweep.json").read_text()) == result


def test_a_sweep_waits_for_no_run_that_works_in_the_output(tmp_path: Path, source: Path) -> None:
    config = config_in(tmp_path, source)
    (tmp_path / "out").mkdir()
    with take_lease(Folder(str(tmp_path / "out")), lambda said: None), pytest.raises(LeaseError):
        sweep(config, ["KM8"])
    assert not (tmp_path / "out/sweep").exists()


# --- Resumed ---------------------------------------------------------------------------------------------------------


def test_a_sweep_again_learns_and_measures_nothing(
    swept: tuple[Config, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result = swept
    told = Told()
    again = sweep(config, NAMES, told)
    assert {status for _, status, _ in told.finished} == {"skipped"}
    assert {**again, "sample": 0} == {**result, "sample": 0}
    assert again["sample"]["seconds"] is None


def test_another_codebook_is_all_that_is_learnt(
    swept: tuple[Config, dict[str, Any]], source: Path
) -> None:
    config, result = swept
    told = Told()
    more = sweep(config, ["KM16,PQ10x4"], told)
    assert {stage for stage, status, _ in told.finished if status == "done"} == {"KM16", "faiss"}
    assert by_name(more)["PQ10x4"] == {**by_name(result)["PQ10x4"], "on_front": True}


@pytest.mark.parametrize("stop_at", ["PQ20x4", "faiss"])
def test_an_interrupted_sweep_goes_on_and_ends_with_the_same_figures(
    tmp_path: Path, source: Path, swept: tuple[Config, dict[str, Any]], stop_at: str
) -> None:
    config, told = config_in(tmp_path, source), Told(stop_at)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, NAMES, told)
    kept = [*SORTED[:4], *(["PQ20x4"] if stop_at == "faiss" else [])]
    assert f"{', '.join(kept)} learnt and measured" in told.warned[-1]
    assert not (tmp_path / "out" / LEASE_FILE).exists()
    told = Told()
    assert lasting(sweep(config, NAMES, told)) == lasting(swept[1])
    assert ("PQ10x4", "done") not in {(stage, status) for stage, status, _ in told.finished}


def test_training_that_was_cut_goes_on_but_has_no_time(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqpipe.pipeline import train as train_stage

    config = config_in(tmp_path, source)
    monkeypatch.setattr(train_stage, "CHECKPOINT_SECONDS", 0.0)
    step, left = train_stage._step, [2]

    def dying(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("killed")
        return step(*arguments)

    monkeypatch.setattr(train_stage, "_step", dying)
    with pytest.raises(StageError, match="killed"):
        sweep(config, ["KM8"], faiss=False)
    left[0] = 1000
    (one,) = sweep(config, ["KM8"], faiss=False)["codebooks"]
    assert one["vqpipe"]["train_seconds"] is None
    assert " - " in " ".join(cost_table({"codebooks": [one]}).rows[0])


# --- FAISS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        CodebookSpec("KM", 1, 20),
        CodebookSpec("PQ", 10, 16),
        CodebookSpec("OPQ", 10, 16),
        CodebookSpec("RQ", 1, 16, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_faiss_codebooks_leave_what_they_leave_in_faiss(
    source: Path, spec: CodebookSpec, metric: Any
) -> None:
    """The oracle is FAISS itself, with the same settings, encoding and decoding by its own index."""
    rows, _ = prepare_rows(np.load(source), metric)
    # Sums that threads split are other sums.
    faiss.omp_set_num_threads(1)
    quantizer = train_by_faiss(rows, spec, metric, 0)
    assert (quantizer.codebook.spec, quantizer.codebook.metric) == (spec, metric)
    centred = quantizer.centre(rows.copy())
    ours = quantizer.squared_errors(centred, quantizer.assign(centred)).mean()
    if spec.kind == "KM":
        kmeans = faiss.Kmeans(
            100, 20, niter=25, seed=1234, max_points_per_centroid=1500, spherical=metric == "cosine"
        )
        kmeans.train(rows)
        flat = faiss.IndexFlatL2(100)
        flat.add(kmeans.centroids)
        theirs = flat.search(rows, 1)[0].mean()
    else:
        name = {"PQ": "PQ10x4np", "OPQ": "OPQ10,PQ10x4np", "RQ": "RQ3x4"}[spec.kind]
        index = faiss.index_factory(100, name)
        if spec.kind == "OPQ":
            faiss.downcast_VectorTransform(index.chain.at(0)).pq = faiss.ProductQuantizer(
                100, 10, 4
            )
        if spec.kind == "RQ":
            # Every row for each choice in the beam; left alone it takes 256 a codeword, and 10 iterations.
            index.rq.cp.max_points_per_centroid = 5 * len(rows)
            index.rq.cp.niter = 25
        index.train(rows)
        decoded = index.sa_decode(index.sa_encode(rows))
        theirs = ((rows.astype(np.float64) - decoded) ** 2).sum(axis=1).mean()
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("kind", ["KM", "PQ", "OPQ", "RQ"])
def test_what_faiss_takes_grows_with_the_rows(kind: Any) -> None:
    spec = CodebookSpec(kind, 10 if "PQ" in kind else 1, 16, 2 if kind == "RQ" else 1)
    one, two = (training_bytes(spec, 100, rows) for rows in (1000, 2000))
    assert two - one == training_bytes(spec, 100, 3000) - two >= 1000 * 100 * 4


def test_faiss_learns_from_the_first_rows_where_memory_holds_no_more(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "training_bytes", lambda spec, dim, rows: rows * 3_000_000)
    result = sweep(config_in(tmp_path, source, memory_per_worker="1GiB"), ["KM8"])
    (one,) = result["codebooks"]
    assert one["faiss"]["train_rows"] == ((1 << 30) - peer.PROCESS_BYTES) // 3_000_000
    assert one["vqpipe"]["train_rows"] == 1350
    assert f"KM8 from the first {one['faiss']['train_rows']:,}" in " ".join(notes(result))


def test_what_faiss_cannot_learn_is_left_out_and_said(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(item: Any, job: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(peer, "train_faiss", refuse)
    result = sweep(config_in(tmp_path, source), ["KM8"])
    (one,) = result["codebooks"]
    assert one["faiss"] is None
    assert any("KM8" in said and "no room" in said for said in result["warnings"])


# --- Choosing --------------------------------------------------------------------------------------------------------

standings = st.builds(
    Standing,
    st.integers(1, 5),
    st.integers(0, 5).map(float),
    st.none() | st.integers(0, 5).map(float),
)


@given(st.lists(standings, min_size=1, max_size=8))
def test_the_front_is_what_nothing_beats(found: list[Standing]) -> None:
    marks = on_front(found)
    # Where all have a recall, or none, to beat is transitive, so whatever is beaten is beaten by one of the front.
    if len({one.recall is None for one in found}) == 1:
        best = [one for one, is_best in zip(found, marks, strict=True) if is_best]
        assert best
        for one, is_best in zip(found, marks, strict=True):
            assert is_best != any(other.beats(one) for other in best)
    assert not any(one.beats(one) for one in found)


def line(name: str, bits: int, distortion: float, recall: float | None) -> dict[str, Any]:
    shares = None if recall is None else {"1": recall / 2, "10": recall}
    sides = {"distortion": distortion, "relative_distortion": distortion, "recall": shares}
    return {
        "codebook": name,
        "bits_per_vector": bits,
        "bytes_per_vector": bits / 8,
        "vqpipe": sides,
    }


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [line("PQ8x8", 64, 0.4, 0.7), line("PQ16x8", 128, 0.2, 0.95), line("OPQ16x8", 128, 0.19, 0.96)],
            (
                "OPQ16x8 is the smallest with recall@10 of at least 0.9 (0.960, in 16 bytes a vector); "
                "in the same 16 bytes OPQ16x8 leaves 5% less distortion than PQ16x8."
            ),
        ),
        (
            [line("PQ8x8", 64, 0.4, 0.7), line("KM9", 4, 0.9, None)],
            "None reaches recall@10 of 0.9; PQ8x8 comes nearest (0.700, in 8 bytes a vector): try more bytes.",
        ),
        (
            [line("KM8", 3, 0.8, None), line("KM64", 6, 0.6, None)],
            (
                "KM64 leaves the least distortion (60.0% of the variance), in 6 bits a vector; "
                "no recall was measured to choose by."
            ),
        ),
    ],
)  # fmt: skip
def test_the_advice_follows_from_the_figures(lines: list[dict[str, Any]], said: str) -> None:
    choice, advice = advise(lines)
    assert advice == said
    assert choice == re.findall(r"(?:KM|O?PQ)\w+", said)[0]


# --- The command, the table, the page --------------------------------------------------------------------------------

CONFIG = """\
source: {{uri: {source}}}
output: out
train: {{rounds: 3}}
evaluate: {{queries: 50}}
cluster: serial
"""


def file_in(folder: Path, source: Path) -> str:
    (folder / "config.yaml").write_text(CONFIG.format(source=source))
    return str(folder / "config.yaml")


def vqpipe(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


RESULT = {
    "output", "folder", "page", "name", "metric", "seed", "source", "sample", "measured_on", "in_sample", "queries",
    "workers", "choice", "advice", "codebooks", "versions", "warnings",
}  # fmt: skip
LINE = {
    "codebook", "kind", "bits_per_vector", "bytes_per_vector", "ratio", "on_front", "vqpipe", "faiss", "full",
}  # fmt: skip
FIGURES = {
    "distortion", "relative_distortion", "distortion_rows", "in_sample", "recall", "queries", "database_rows",
    "codewords", "surplus", "perplexity", "dead", "train_rows", "train_seconds", "digest",
}  # fmt: skip


def test_json_is_one_object_of_these_keys(tmp_path: Path, source: Path) -> None:
    """The config needs no codebook."""
    done = vqpipe("sweep", file_in(tmp_path, source), "--codebook", "PQ10x4", "--json", "--set", "seed=3")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert set(result) == RESULT
    assert set(result["sample"]) == {"path", "train_rows", "heldout_rows", "database_rows", "seconds"}  # fmt: skip
    assert set(result["source"]) == {"uri", "rows", "dim", "dtype", "bytes"}
    assert result["seed"] == 3
    (one,) = result["codebooks"]
    assert set(one) == LINE
    assert set(one["faiss"]) == FIGURES
    assert set(one["vqpipe"]) == FIGURES | {"train_workers", "rounds", "path"}
    assert set(one["full"]) == {"rows_per_second", "encode_seconds", "bytes_codes", "bytes_index"}


def test_people_are_told_the_same(tmp_path: Path, source: Path) -> None:
    config = file_in(tmp_path, source)
    done = vqpipe("sweep", config, "--codebook", "PQ10x4", "--codebook", "KM8")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out/sweep/sweep.json").read_text())
    page = (tmp_path / "out/sweep/sweep.html").read_text(encoding="utf-8")
    assert page == render_sweep(result)
    for one in result["codebooks"]:
        (row,) = re.findall(rf"^{one['codebook']}.* vqpipe .*$", done.stdout, re.MULTILINE)
        assert f"{one['vqpipe']['relative_distortion']:.4f}" in row
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert done.stdout.splitlines()[-1] == result["page"]
    assert " ".join(result["advice"].split()) in " ".join(done.stdout.split())
    for stage in ("sample", "KM8", "PQ10x4", "faiss"):
        assert re.search(rf"^{stage} +done", done.stderr, re.MULTILINE)


WRONG = {
    "XQ8": "XQ8: names no codebook",
    "PQ7": "m = 7 does not divide the source's dim = 100.*take m from",
    "PQ10x13": "PQ10x13: bits: ",
    "KM9999": "9,999 codewords are wanted and the source has 1,500 rows",
    "PQ10x4,PQ10x4": "PQ10x4: is named 2 times",
    "PQ10,PQ10x8": "PQ10x8: is named 2 times",
    "PQ10x11": "PQ10x11: 2,048 codewords are to be learnt from 1,500 training rows",
    "": "names no codebook",
}


def test_all_that_is_wrong_is_said_at_once_before_any_work(tmp_path: Path, source: Path) -> None:
    """The sample is as large as the largest codebook asks for: here no row is spared for measuring."""
    done = vqpipe("sweep", file_in(tmp_path, source), "--codebook", ",".join(WRONG))
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    for said in WRONG.values():
        assert re.search(said, done.stderr), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_is_one_line(tmp_path: Path, source: Path, name: str) -> None:
    with pytest.raises(InputError, match=WRONG[name]) as error:
        sweep(config_in(tmp_path, source), [name])
    assert "\n" not in str(error.value)


def test_a_codebook_must_be_named(tmp_path: Path, source: Path) -> None:
    assert vqpipe("sweep", file_in(tmp_path, source)).exit_code == 2


# The first codebook is learnt and measured; the second takes as long as it is let.
HOLD = """
import sys, time
import vqpipe.pipeline.train as train
begin = train.begin_training

def hold(run, sample):
    if str(run.spec) == "PQ10x4":
        print("begun", file=sys.stderr, flush=True)
        time.sleep(100)
    return begin(run, sample)

train.begin_training = hold
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_sweep_with_its_status_and_says_what_is_kept(
    tmp_path: Path, source: Path, number: signal.Signals, status: int
) -> None:
    process: subprocess.Popen[str] = run_command(
        "sweep", file_in(tmp_path, source), "--codebook", "KM8,PQ10x4", "--no-faiss", patch=HOLD
    )
    assert process.stderr is not None
    for said in process.stderr:
        if said == "begun\n":
            break
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == status, error
    assert "Traceback" not in error
    assert "KM8 learnt and measured" in error
    assert not (tmp_path / "out" / LEASE_FILE).exists()


def test_the_page_asks_for_nothing_and_shows_everything(
    swept: tuple[Config, dict[str, Any]],
) -> None:
    """Drawn in a browser it is looked at by hand: here is what it is made of."""
    _, result = swept
    page = render_sweep(result)
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert len(page) < 8 << 20
    for title, table in (("quality", quality_table(result)), ("cost", cost_table(result))):
        for row in table.rows:
            for cell in row:
                assert f"<td>{cell}</td>" in page, (title, cell)
    items = re.findall(r'class="plot-item">(.*?)</script>', page, re.DOTALL)
    targets = [json.loads(item)["target_id"] for item in items]
    assert targets == ["plot-distortion", "plot-recall-1", "plot-recall-10", "plot-recall-100"]
    for target in targets:
        assert f'id="{target}"' in page


def test_names_from_outside_are_no_markup(swept: tuple[Config, dict[str, Any]]) -> None:
    _, result = swept
    page = render_sweep({**result, "name": "<b>x</b>", "advice": "</script><b>"})
    assert "<b>" not in page.split("<script>")[0]


def test_a_sweep_works_in_an_object_store(source: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path, source, output="memory://swept/out")
    result = sweep(config, ["PQ10x4", "KM8"])
    told = Told()
    again = sweep(config, ["PQ10x4", "KM8"], told)
    assert {status for _, status, _ in told.finished} == {"skipped"}
    assert again["codebooks"] == result["codebooks"]
    plain = sweep(config_in(tmp_path, source), ["PQ10x4", "KM8"])
    assert lasting(plain)["codebooks"] == lasting(result)["codebooks"]
