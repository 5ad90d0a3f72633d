"""Compare vqpipe's codebooks with FAISS's on the same rows: distortion and recall, means over seeds.

    python tests/benchmarks/quality.py VECTORS CODEBOOK [--queries FILE --truth FILE] [--seeds 4]

"On the same rows" is meant literally: FAISS's training uses every row (its own default takes 256 a
codeword), 25 iterations, no restarts. Distortion is over all rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

import vqpipe
from vqpipe.codebook import CodebookSpec
from vqpipe.config import CodebookConfig, parse_codebook
from vqpipe.config_file import make_config
from vqpipe.evaluation.neighbours import recall
from vqpipe.sources import open_source, open_table

AT = [1, 10, 100]


def faiss_index(vectors: np.ndarray, spec: CodebookSpec, seed: int) -> faiss.IndexPQ:
    """Train and fill an IndexPQ with every row."""
    index = faiss.IndexPQ(vectors.shape[1], spec.m, spec.bits)
    index.pq.cp.seed = 1234 + seed
    index.pq.cp.niter = 25
    index.pq.cp.max_points_per_centroid = len(vectors)
    index.train(vectors)
    index.add(vectors)
    return index


def faiss_figures(
    vectors: np.ndarray,
    spec: CodebookSpec,
    seed: int,
    queries: np.ndarray | None,
    truth: np.ndarray,
) -> tuple[float, dict[str, float]]:
    """Return FAISS's distortion over all rows and its recall."""
    if spec.kind == "KM":
        kmeans = faiss.Kmeans(
            vectors.shape[1],
            spec.k,
            niter=25,
            seed=1234 + seed,
            max_points_per_centroid=len(vectors),
        )
        kmeans.train(vectors)
        _, labels = kmeans.index.search(vectors, 1)
        decoded = kmeans.centroids[labels[:, 0]]
        return mean_squared_error(vectors, decoded), {}
    index = faiss_index(vectors, spec, seed)
    decoded = index.reconstruct_n(0, len(vectors))
    found: dict[str, float] = {}
    if queries is not None:
        found = recall(truth, index.search(queries, max(AT))[1], AT)
    return mean_squared_error(vectors, decoded), found


def mean_squared_error(vectors: np.ndarray, decoded: np.ndarray) -> float:
    """Return the float64 mean of ||x - decoded||^2, in pieces."""
    total = 0.0
    for start in range(0, len(vectors), 65_536):
        piece = vectors[start : start + 65_536].astype(np.float64) - decoded[start : start + 65_536]
        total += float(np.einsum("ij,ij->", piece, piece))
    return total / len(vectors)


def vqpipe_figures(arguments: argparse.Namespace, seed: int) -> tuple[float, dict[str, float]]:
    """Run the whole pipeline and return the same figures."""
    plain: dict[str, object] = {
        "source": {"uri": arguments.vectors},
        "codebook": arguments.codebook,
        "seed": seed,
        "cluster": arguments.cluster if arguments.cluster == "serial" else {},
        "evaluate": {"queries": 0},
        "export": [],
    }
    if arguments.queries:
        plain["evaluate"] = {
            "queries": {"uri": arguments.queries},
            "truth": {"uri": arguments.truth},
        }
    with tempfile.TemporaryDirectory() as folder:
        found = vqpipe.run(make_config({**plain, "output": "out"}, Path(folder)))
        codes = vqpipe.open_codes(Path(folder) / "out")
        return float(codes["shards/squared_error"][...].sum()) / found["rows"], found[
            "recall"
        ] or {}


def main() -> None:
    """Print one line a seed and the ratios of the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("codebook")
    parser.add_argument("--queries")
    parser.add_argument("--truth")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--cluster", default="serial")
    arguments = parser.parse_args()
    spec = CodebookConfig.model_validate(parse_codebook(arguments.codebook)).spec
    if spec is None:
        parser.error("name a codebook to learn, as PQ16 or KM1024")
    source = open_source(arguments.vectors)
    vectors = source.read(0, source.rows).astype(np.float32)
    queries, truth = None, np.empty(0, np.int64)
    if arguments.queries:
        file, table = open_source(arguments.queries), open_table(arguments.truth)
        queries = file.read(0, file.rows).astype(np.float32)
        truth = np.asarray(table.read(0, table.rows))[:, 0]
    rows: dict[str, list[tuple[float, dict[str, float]]]] = {"vqpipe": [], "faiss": []}
    for seed in range(arguments.seeds):
        for name, found in rows.items():
            began = time.perf_counter()
            figures = (
                vqpipe_figures(arguments, seed)
                if name == "vqpipe"
                else faiss_figures(vectors, spec, seed, queries, truth)
            )
            found.append(figures)
            print(
                f"{name:<7} seed {seed}: {figures} in {time.perf_counter() - began:.1f} s",
                flush=True,
            )
    means = {name: statistics.mean(figure for figure, _ in seen) for name, seen in rows.items()}
    print(f"distortion ratio {means['vqpipe'] / means['faiss']:.4f}")
    if queries is not None:
        for k in map(str, AT):
            shares = {name: statistics.mean(r[k] for _, r in seen) for name, seen in rows.items()}
            print(f"recall@{k}: vqpipe {shares['vqpipe']:.4f}, faiss {shares['faiss']:.4f}")


if __name__ == "__main__":
    main()
