"""Compare vqpipe's codebooks with FAISS's on the same rows: distortion and recall, means over seeds.

    python tests/benchmarks/quality.py VECTORS CODEBOOK... [--queries FILE --truth FILE] [--heldout N] [--seeds 4]

"On the same rows" is meant literally: FAISS's training uses every row (its own default takes 256 a
codeword), 25 iterations, no restarts. Distortion is over all rows. With ``--heldout`` so many rows are drawn
to be the queries, and neither side sees them before. A line a codebook is printed: the ratio of distortions, and
recall, ours and FAISS's.
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


def faiss_index(vectors: np.ndarray, spec: CodebookSpec, seed: int) -> faiss.Index:
    """Train and fill an index with every row."""
    rows, dim = vectors.shape
    if spec.kind == "RQ":
        index = faiss.IndexResidualQuantizer(dim, spec.stages, spec.bits)
        clustering = index.rq.cp
    else:
        index = faiss.IndexPQ(dim, spec.m, spec.bits)
        clustering = index.pq.cp
    clustering.seed = 1234 + seed
    clustering.niter = 25
    # After the first stage each row is there once for every choice in the beam.
    clustering.max_points_per_centroid = 5 * rows
    if spec.kind == "OPQ":
        rotation = faiss.OPQMatrix(dim, spec.m)
        rotation.max_train_points = rows
        index = faiss.IndexPreTransform(rotation, index)
    index.train(vectors)
    index.add(vectors)
    return index


def hold_out(uri: str, count: int, folder: Path) -> tuple[Path, Path, Path]:
    """Write all rows but ``count`` drawn ones, those, and the exact nearest of each among the rest."""
    source = open_source(uri)
    rows = source.read(0, source.rows).astype(np.float32)
    drawn = np.sort(np.random.default_rng(0).choice(len(rows), count, replace=False))
    base = np.delete(rows, drawn, axis=0)
    flat = faiss.IndexFlatL2(rows.shape[1])
    flat.add(base)
    _, nearest = flat.search(rows[drawn], 1)
    paths = [folder / f"{name}.npy" for name in ("base", "queries", "truth")]
    for path, values in zip(paths, (base, rows[drawn], nearest), strict=True):
        np.save(path, values)
    return paths[0], paths[1], paths[2]


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
    """Print one line a seed, and a table of the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("codebooks", nargs="+")
    parser.add_argument("--queries")
    parser.add_argument("--truth")
    parser.add_argument("--heldout", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--cluster", default="serial")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.heldout:
            paths = hold_out(arguments.vectors, arguments.heldout, Path(folder))
            arguments.vectors, arguments.queries, arguments.truth = map(str, paths)
        table = []
        for codebook in arguments.codebooks:
            arguments.codebook = codebook
            table.append(compare(parser, arguments))
    recalls = [f"recall@{k}, vqpipe and faiss" for k in AT] if arguments.queries else []
    for line in (["codebook", "distortion ratio", *recalls], *table):
        print(" | ".join(line))


def compare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[str]:
    """Return a codebook's line of the table."""
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
    line = [arguments.codebook, f"{means['vqpipe'] / means['faiss']:.4f}"]
    for k in map(str, AT if queries is not None else ()):
        shares = {name: statistics.mean(r[k] for _, r in seen) for name, seen in rows.items()}
        line.append(f"{shares['vqpipe']:.4f} {shares['faiss']:.4f}")
    return line


if __name__ == "__main__":
    main()
