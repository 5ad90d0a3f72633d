"""One training of one peer, in a process of its own: `python peers.py FOLDER`.

`train.py` writes ``task.json`` there and reads ``result.json`` and ``centroids.npy``. Every library is
imported by the peer that needs it, so that peak memory is that peer's alone.
"""

from __future__ import annotations

import glob
import json
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ITERATIONS = 25
# Measured and loaded so many rows at a time.
PIECE_ROWS = 65_536
# vqpipe's own batch, to see what scikit-learn makes of it.
BATCH_ROWS_PER_CODEWORD = 16
# FAISS's own limit.
DEFAULT_ROWS_PER_CODEWORD = 256
# dask-ml adds a chunk's sums on one worker: few chunks, but two a worker, so that none waits long.
CHUNKS_PER_WORKER = 2


@dataclass(frozen=True)
class Task:
    """What to train, and on what.

    Attributes
    ----------
    peer : str
        A key of `PEERS`.
    codebook : str
        Its short name, as vqpipe's config takes it.
    kind : str
        ``KM`` or ``PQ``.
    m, k : int
        Columns, and codewords of a column.
    seed : int
    source : dict
        The rows as the ``source`` section of vqpipe's config.
    file : str
        The same rows as a ``.npy`` file, which may hold more.
    rows : int
    workers : int
        Processes of vqpipe and dask-ml.
    options : dict
        vqpipe's ``train`` section.
    folder : str
        Where the task lies and the result goes.
    """

    peer: str
    codebook: str
    kind: str
    m: int
    k: int
    seed: int
    source: dict[str, Any]
    file: str
    rows: int
    workers: int
    options: dict[str, Any]
    folder: str


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes
    ----------
    centroids : float array of shape (m, k, dim / m)
    seconds : float
        Of training alone: rows in memory (vqpipe: sampled to its disk), libraries imported.
    passes : float
        Rows that were compared with every codeword, seeding included, over the rows there are.
    megabytes : float
        Peak resident memory of the process and of its workers, added.
    sample_seconds : float or None
        Of vqpipe's sample stage, in which its cluster starts.
    """

    centroids: np.ndarray
    seconds: float
    passes: float
    megabytes: float
    sample_seconds: float | None = None


def load_rows(file: str, start: int, stop: int) -> np.ndarray:
    """Return rows of a ``.npy`` file as float32."""
    rows = np.empty((stop - start, np.load(file, mmap_mode="r").shape[1]), np.float32)
    for at in range(start, stop, PIECE_ROWS):
        # Mapped anew: a map's pages count as memory for as long as it is open.
        there = slice(at, min(at + PIECE_ROWS, stop))
        rows[at - start : there.stop - start] = np.load(file, mmap_mode="r")[there]
    return rows


def peak_megabytes() -> float:
    """Return the peak memory of this process and of those that it started and that still live.

    Library pages that processes share count in each.
    """
    return sum(map(peak_megabytes_of, ("self", *worker_processes())))


def worker_processes() -> list[str]:
    """Return the numbers of the processes that this one started and that still live."""
    names = [Path(name).read_text() for name in glob.glob("/proc/self/task/*/children")]
    return " ".join(names).split()


def peak_megabytes_of(process: str) -> float:
    """Return the peak memory of a process.

    From ``/proc``: `getrusage` counts an ended child that exec'd from a large process as that large.
    """
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def rows_looked_at(history: list[dict[str, Any]], heldout_rows: int) -> int:
    """Return the rows that a training of vqpipe assigned: its rounds' and its held-out checks'."""
    if not history:
        return 0
    checks = sum(record.get("heldout") is not None for record in history)
    return int(history[-1]["rows_seen"]) + checks * heldout_rows


def train_vqpipe(task: Task) -> Trained:
    """Run the pipeline up to its train stage."""
    from vqpipe.config_file import make_config
    from vqpipe.engines.choose import make_runner
    from vqpipe.pipeline.pipeline import run_pipeline
    from vqpipe.progress import Silent
    from vqpipe.storage.codebook_file import read_codebook
    from vqpipe.storage.samples import find_sample

    plain = {
        "source": task.source,
        "output": "out",
        "codebook": task.codebook,
        "seed": task.seed,
        "train": task.options,
        "evaluate": {"queries": 0},
        "export": [],
        "cluster": {"scale": task.workers},
    }
    config = make_config(plain, Path(task.folder))
    with make_runner(config) as runner:
        summary = run_pipeline(config, runner, Silent(), until="train")
        megabytes = peak_megabytes()
    output = Path(summary["output"])
    seconds = {stage["name"]: stage["seconds"] for stage in summary["stages"]}
    (path,) = (output / "samples").glob("*.zarr")
    sample = find_sample(str(path))
    heldout_rows = sample.rows["heldout"] if sample else 0
    found = read_codebook(str(output / summary["generation"] / "codebook.zarr"))
    passes = rows_looked_at(found.history, heldout_rows) / task.rows
    centroids = found.quantizer.codebook.centroids[0]
    return Trained(centroids, seconds["train"], passes, megabytes, seconds["sample"])


def train_vqpipe_sorted(task: Task) -> Trained:
    """The same on the same rows in the order of their nearest codewords: FAISS's, as many as are wanted.

    Peak memory is FAISS's as well.
    """
    import faiss

    rows = load_rows(task.file, 0, task.rows)
    kmeans = faiss.Kmeans(rows.shape[1], task.k, niter=ITERATIONS, seed=1234 + task.seed)
    kmeans.train(rows)
    labels = kmeans.index.search(rows, 1)[1][:, 0]
    path = Path(task.folder) / "sorted.npy"
    np.save(path, np.load(task.file, mmap_mode="r")[: task.rows][np.argsort(labels, kind="stable")])
    return train_vqpipe(replace(task, source={"uri": str(path)}))


def train_faiss(task: Task) -> Trained:
    """Lloyd's iterations over every row."""
    return _train_faiss(task, task.rows)


def train_faiss_default(task: Task) -> Trained:
    """The same over the 256 rows a codeword that FAISS takes unless told."""
    return _train_faiss(task, DEFAULT_ROWS_PER_CODEWORD)


def train_faiss_super(task: Task) -> Trained:
    """FAISS's pruned iterations over every row; a pass here compares but a part of the dims."""
    import faiss

    return _train_faiss(task, task.rows, faiss.SuperKmeans)


def _train_faiss(task: Task, rows_per_codeword: int, kind: Any = None) -> Trained:
    import faiss

    rows = load_rows(task.file, 0, task.rows)
    dim = rows.shape[1]
    settings = {
        "niter": ITERATIONS,
        "seed": 1234 + task.seed,
        "max_points_per_centroid": rows_per_codeword,
    }
    iterations = ITERATIONS
    if task.kind == "KM":
        kmeans = (kind or faiss.Kmeans)(dim, task.k, **settings)
        began = time.perf_counter()
        kmeans.train(rows)
        seconds = time.perf_counter() - began
        centroids, iterations = kmeans.centroids[None], len(kmeans.obj)
    else:
        quantizer = faiss.ProductQuantizer(dim, task.m, round(math.log2(task.k)))
        for name, value in settings.items():
            setattr(quantizer.cp, name, value)
        began = time.perf_counter()
        quantizer.train(rows)
        seconds = time.perf_counter() - began
        centroids = faiss.vector_to_array(quantizer.centroids).reshape(task.m, task.k, -1)
    passes = iterations * min(1.0, rows_per_codeword * task.k / task.rows)
    return Trained(centroids, seconds, passes, peak_megabytes())


def train_two_level(task: Task) -> Trained:
    """FAISS's own recipe for many codewords: sqrt(k) clusters first, each cut into about sqrt(k).

    It fails where a first cluster has less than one codeword's share of the rows.
    """
    from faiss.contrib.clustering import two_level_clustering

    rows = load_rows(task.file, 0, task.rows)
    coarse = max(1, round(math.sqrt(task.k)))
    began = time.perf_counter()
    centroids, steps = two_level_clustering(rows, coarse, task.k, seed=1234 + task.seed)
    seconds = time.perf_counter() - began
    # It trains the first level on at most 2,000 rows a cluster and assigns every row once; a row
    # then meets the codewords of its own cluster alone: about one in sqrt(k).
    first = len(steps[0]) * min(1.0, 2000 * coarse / task.rows) + 1
    second = ITERATIONS * min(1.0, DEFAULT_ROWS_PER_CODEWORD * task.k / task.rows)
    passes = first * coarse / task.k + second / coarse
    return Trained(centroids[None], seconds, passes, peak_megabytes())


def train_sklearn(task: Task) -> Trained:
    """MiniBatchKMeans as it comes: batches of 1,024 rows, k-means++, its own stop rule."""
    return _train_sklearn(task, {})


def train_sklearn_16k(task: Task) -> Trained:
    """MiniBatchKMeans on batches of 16 rows a codeword."""
    return _train_sklearn(task, {"batch_size": BATCH_ROWS_PER_CODEWORD * task.k})


def _train_sklearn(task: Task, options: dict[str, int]) -> Trained:
    from sklearn.cluster import MiniBatchKMeans

    rows = load_rows(task.file, 0, task.rows)
    # Without labels: a pass that the others do not take either.
    kmeans = MiniBatchKMeans(task.k, random_state=task.seed, compute_labels=False, **options)
    began = time.perf_counter()
    kmeans.fit(rows)
    seconds = time.perf_counter() - began
    # Seeding compares this many candidates with a sample of three batches for every codeword, and
    # then the codewords with another such sample.
    candidates = 2 + int(math.log(task.k))
    seeding = min(max(3 * kmeans.batch_size, 3 * task.k), task.rows)
    looked_at = kmeans.n_steps_ * min(kmeans.batch_size, task.rows) + seeding * (candidates + 1)
    return Trained(kmeans.cluster_centers_[None], seconds, looked_at / task.rows, peak_megabytes())


def train_dask_ml(task: Task) -> Trained:
    """KMeans on a LocalCluster of single-threaded workers, as vqpipe's; rows in their memory.

    Its default init, k-means||, finds some 30 candidates at an oversampling of 2, draws the other
    codewords at random and sorts those as a lazy array, one task a comparison (83 s for k = 256). So
    init is ``random``. Its tolerance is absolute and hardly ever met: iterations are FAISS's 25.
    """
    import dask.array
    from dask_ml.cluster import KMeans
    from distributed import Client, LocalCluster, wait

    dim = np.load(task.file, mmap_mode="r").shape[1]
    bounds = np.linspace(0, task.rows, CHUNKS_PER_WORKER * task.workers + 1).astype(int)
    load = dask.delayed(load_rows)
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    with LocalCluster(n_workers=task.workers, **options) as cluster, Client(cluster):
        chunks = [
            dask.array.from_delayed(load(task.file, start, stop), (stop - start, dim), np.float32)
            for start, stop in pairwise(bounds.tolist())
        ]
        rows = dask.array.concatenate(chunks).persist()
        wait(rows)
        # Once for nothing: it compiles a loop on every worker.
        KMeans(2, init="random", max_iter=1, random_state=0).fit(rows)
        kmeans = KMeans(task.k, init="random", max_iter=ITERATIONS, random_state=task.seed)
        began = time.perf_counter()
        kmeans.fit(rows)
        seconds = time.perf_counter() - began
        megabytes = peak_megabytes()
    # It assigns every row once more for its inertia.
    return Trained(kmeans.cluster_centers_[None], seconds, kmeans.n_iter_ + 1, megabytes)


PEERS: dict[str, Callable[[Task], Trained]] = {
    "vqpipe": train_vqpipe,
    "vqpipe_sorted": train_vqpipe_sorted,
    "faiss": train_faiss,
    "faiss_default": train_faiss_default,
    "faiss_super": train_faiss_super,
    "two_level": train_two_level,
    "sklearn": train_sklearn,
    "sklearn_16k": train_sklearn_16k,
    "dask_ml": train_dask_ml,
}


def run(task: Task) -> dict[str, Any]:
    """Train, keep the centroids; where the peer's package is absent, say so."""
    try:
        trained = PEERS[task.peer](task)
    except ModuleNotFoundError as error:
        return {"missing": f"{error.name} is not installed"}
    np.save(Path(task.folder) / "centroids.npy", trained.centroids)
    return {name: value for name, value in vars(trained).items() if name != "centroids"}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    given = Task(**json.loads((folder / "task.json").read_text()), folder=str(folder))
    (folder / "result.json").write_text(json.dumps(run(given)))
