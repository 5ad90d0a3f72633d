"""Time encoding beside its peers on one core, on rows in memory, and print two tables.

    python tests/benchmarks/encode.py VECTORS [--only pq|km] [--repeats 7] [--rows 32768]

VECTORS is a file of real vectors of 128 dims or more (SIFT descriptors, say): shorter rows are its first
dims, longer ones several of its rows side by side. Peers are run in turn, each on one thread; a figure is
the median of the thread's own CPU time over the repeats, so that other work on the machine counts little.
Codewords are trained shortly on the same rows. A peer that is missing is left out.

- PQ, 256 codewords: faiss.IndexPQ.sa_encode, nanopq, vqpipe.
- KM: faiss.IndexFlatL2.search(k=1), IndexHNSWFlat over the codewords, scikit-learn's predict, vqpipe, and
  vqpipe with `assign: fast` where it applies.

"other" is the share of codes that differ from FAISS's exact ones, "farther" the share whose codeword is farther
by more than float32 can tell (1e-5 of the squared distance and 1e-6 of the row's squared norm); "loss" is how
much more distortion is left.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import faiss
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from vqpipe.codebook import Codebook
from vqpipe.kmeans.tally import squared_errors
from vqpipe.pipeline.fast import MOST_FAST_LOSS
from vqpipe.quantizer import Quantizer, choose_route, choose_search, probes_to_judge
from vqpipe.sources import open_source
from vqpipe.tasks.search import Losses

WIDTHS = [2, 4, 5, 8, 10, 12, 16, 20, 32, 48]
KM_DIMS = [39, 100, 128, 384]
KM_CODEWORDS = [256, 1024, 16_384]
# A side of the square product that stands for what the core can do.
PRODUCT_SIDE = 2048

Ways = dict[str, Callable[[], np.ndarray]]


def medians(ways: Ways, repeats: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the median CPU seconds of each way, run in turn, and what each returns."""
    found = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.thread_time()
            way()
            seconds[name].append(time.thread_time() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}, found


def shape(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Return rows of another number of dims, centred."""
    beside = math.ceil(dim / vectors.shape[1])
    rows = vectors[: len(vectors) // beside * beside].reshape(-1, beside * vectors.shape[1])
    rows = np.ascontiguousarray(rows[:, :dim], dtype=np.float32)
    return rows - rows.mean(axis=0)


def product_rate(repeats: int) -> float:
    """Return NumPy's float32 product in GFLOP/s."""
    rng = np.random.default_rng(0)
    side = (PRODUCT_SIDE, PRODUCT_SIDE)
    one, other = (rng.standard_normal(side, dtype=np.float32) for _ in range(2))
    seconds, _ = medians({"product": lambda: one @ other}, repeats)
    return 2 * PRODUCT_SIDE**3 / seconds["product"] / 1e9


def trained(rows: np.ndarray, k: int) -> np.ndarray:
    """Return codewords after a few iterations."""
    points = {"min_points_per_centroid": 1, "max_points_per_centroid": 64}
    kmeans = faiss.Kmeans(rows.shape[1], k, niter=4, seed=1, **points)
    kmeans.train(rows)
    return kmeans.centroids


def farther(rows: np.ndarray, found: np.ndarray, exact: np.ndarray, centroids: np.ndarray) -> float:
    """Return the share of codes that are worse than the exact ones, by more than rounding."""
    errors, least = (
        squared_errors(rows, codes.astype(np.intp), centroids) for codes in (found, exact)
    )
    wide = rows.reshape(len(rows), len(centroids), -1).astype(np.float64)
    norms = np.einsum("nmw,nmw->nm", wide, wide)
    return float((errors > least * (1 + 1e-5) + 1e-6 * norms).mean())


def pq_line(vectors: np.ndarray, width: int, repeats: int, peak: float) -> tuple[float, list[str]]:
    """Return the speed against FAISS and one line of the PQ table."""
    m = max(1, min(vectors.shape[1], 96) // width)
    rows = shape(vectors, m * width)
    columns = [trained(np.ascontiguousarray(part), 256) for part in np.split(rows, m, axis=1)]
    index = faiss.IndexPQ(m * width, m, 8)
    faiss.copy_array_to_vector(np.stack(columns).ravel(), index.pq.centroids)
    index.is_trained = True
    codebook = Codebook("PQ", "l2", np.zeros(m * width, np.float32), np.stack(columns)[None])
    quantizer = Quantizer(codebook, choose_route(codebook.spec, m * width))
    ways: Ways = {"faiss": lambda: index.sa_encode(rows), "vqpipe": lambda: quantizer.assign(rows)}
    if importlib.util.find_spec("nanopq"):
        import nanopq

        peer = nanopq.PQ(M=m, Ks=256, verbose=False)
        peer.Ds, peer.codewords, peer.code_dtype = width, np.stack(columns), np.uint8
        some = rows[: len(rows) // 16]
        ways["nanopq"] = lambda: peer.encode(some)
    seconds, codes = medians(ways, repeats)
    rate = 2 * len(rows) * 256 * m * width / seconds["vqpipe"] / 1e9
    gain = seconds["faiss"] / seconds["vqpipe"]
    nanopq_gain = 16 * seconds["nanopq"] / seconds["vqpipe"] if "nanopq" in ways else math.nan
    exact = codes["faiss"].reshape(len(rows), m)
    other = (exact != codes["vqpipe"]).mean()
    worse = farther(rows, codes["vqpipe"], exact, np.stack(columns))
    cells = [f"{width}", f"{m}", f"{len(rows) / seconds['vqpipe'] / 1e6:.2f}", f"{gain:.2f}"]
    return gain, [
        *cells,
        f"{nanopq_gain:.0f}",
        f"{rate:.0f}",
        f"{rate / peak:.0%}",
        f"{other:.1e}",
        f"{worse:.1e}",
    ]


def fast_search(quantizer: Quantizer, rows: np.ndarray) -> Quantizer | None:
    """Return the quantizer with the route that `assign: fast` would choose for these rows."""
    judges = rows[:10_000]
    nearest = quantizer.squared_errors(judges, quantizer.assign(judges))
    for probes in probes_to_judge(quantizer.codebook.spec):
        search = replace(quantizer, route=choose_search(probes))
        found = search.squared_errors(judges, search.assign(judges))
        losses = Losses.of(nearest, found[None])
        if losses.bounds[0] <= MOST_FAST_LOSS:
            return search
    return None


def km_ways(rows: np.ndarray, codewords: np.ndarray) -> tuple[Ways, Quantizer]:
    """Return the ways to find the nearest codeword."""
    k, dim = codewords.shape
    index = faiss.IndexFlatL2(dim)
    index.add(codewords)
    graph = faiss.IndexHNSWFlat(dim, 32)
    graph.hnsw.efSearch = 16
    graph.add(codewords)
    codebook = Codebook("KM", "l2", np.zeros(dim, np.float32), codewords[None, None])
    quantizer = Quantizer(codebook, choose_route(codebook.spec, dim))
    ways: Ways = {
        "faiss": lambda: index.search(rows, 1)[1],
        "HNSW, efSearch 16": lambda: graph.search(rows, 1)[1],
        "vqpipe": lambda: quantizer.assign(rows),
    }
    search = fast_search(quantizer, rows)
    if search is not None:
        ways[f"vqpipe fast, {search.route.probes} groups"] = lambda: search.assign(rows)
    if importlib.util.find_spec("sklearn"):
        from sklearn.cluster import KMeans

        peer = KMeans(k, n_init=1, max_iter=1, init=codewords).fit(codewords)
        peer.cluster_centers_ = codewords
        ways["scikit-learn"] = lambda: peer.predict(rows)[:, None]
    return ways, quantizer


def km_lines(
    vectors: np.ndarray, dim: int, k: int, arguments: argparse.Namespace, peak: float
) -> tuple[float, list[list[str]]]:
    """Return the exact speed against FAISS and the lines of one shape."""
    rows = shape(vectors, dim)
    codewords = trained(rows, k) if k * 4 <= len(rows) else rows[:: len(rows) // k][:k].copy()
    rows = rows[: arguments.rows]
    ways, quantizer = km_ways(rows, codewords)
    seconds, labels = medians(ways, arguments.repeats if k < 10_000 else 3)
    centred = quantizer.codebook.centred()
    errors = {
        name: squared_errors(rows, found.astype(np.intp), centred).sum()
        for name, found in labels.items()
    }
    lines = []
    for name in ways:
        rate = 2 * len(rows) * k * dim / seconds[name] / 1e9
        gain = seconds["faiss"] / seconds[name]
        other, loss = (labels[name] != labels["faiss"]).mean(), errors[name] / errors["faiss"] - 1
        cells = [f"{dim}", f"{k:,}", name, f"{gain:.2f}", f"{rate:.0f}", f"{rate / peak:.0%}"]
        lines.append([*cells, f"{other:.1e}", f"{loss:.2%}"])
    return seconds["faiss"] / seconds["vqpipe"], lines


def print_table(head: list[str], lines: list[list[str]]) -> None:
    """Print a table in Markdown."""
    for line in (head, ["---"] * len(head), *lines):
        print(f"| {' | '.join(line)} |", flush=True)


def geometric_mean(gains: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(statistics.mean(math.log(gain) for gain in gains))


def main() -> None:
    """Read the vectors, print the machine and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("vectors")
    parser.add_argument("--only", choices=["pq", "km"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=32_768)
    arguments = parser.parse_args()
    source = open_source(arguments.vectors)
    vectors = source.read(0, source.rows)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        kinds = {
            one["filepath"].split("/")[-1]: one.get("architecture") for one in threadpool_info()
        }
        peak = product_rate(arguments.repeats)
        print(
            f"NumPy's float32 product on one thread: {peak:.0f} GFLOP/s; BLAS core types: {kinds}\n"
        )
        if arguments.only != "km":
            some = vectors[: arguments.rows]
            lines = [pq_line(some, width, arguments.repeats, peak) for width in WIDTHS]
            head = [
                "dims",
                "m",
                "Mrows/s",
                "x faiss",
                "x nanopq",
                "GFLOP/s",
                "of product",
                "other",
                "farther",
            ]
            print_table(head, [line for _, line in lines])
            print(f"\ngeometric mean {geometric_mean([gain for gain, _ in lines]):.2f}\n")
        if arguments.only != "pq":
            found = [
                km_lines(vectors, dim, k, arguments, peak) for dim in KM_DIMS for k in KM_CODEWORDS
            ]
            head = ["dim", "k", "", "x faiss", "GFLOP/s", "of product", "other", "loss"]
            print_table(head, [line for _, lines in found for line in lines])
            print(f"\ngeometric mean {geometric_mean([gain for gain, _ in found]):.2f}")


if __name__ == "__main__":
    main()
