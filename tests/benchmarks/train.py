"""Compare vqpipe's training with its peers': distortion, time, passes over the data, peak memory.

    python tests/benchmarks/train.py VECTORS CODEBOOK [--rows N] [--shuffle-seed S] [--heldout N]
        [--seeds 4] [--peers vqpipe,faiss,...] [--train-options key=value ...] [--workers 2]

Prints one Markdown table; what becomes of each training goes to standard error. Every training runs in
a fresh process (`peers.py`) with the thread settings that its library takes by itself: FAISS and
scikit-learn use all cores, vqpipe and dask-ml that many single-threaded workers.

Distortion is a mean over the seeds, exact and in float64 over all rows that were given to the peers,
measured here by the same code for all; with ``--heldout`` also over so many rows that no peer was given
(out of its own rows vqpipe keeps others back besides, as its config says). Seconds are a median over
the seeds, of training alone, with the rows in memory; for vqpipe of the train stage, which reads its
sample from the disk. Its sample stage, in which the Dask cluster starts, is told below the table.
A pass is as many distance computations as rows times codewords; seeding and held-out checks count.
Memory is the largest peak of the process and its workers added. PQ tables have three more columns: the
worst of the sub-spaces' distortions against FAISS's, the entropy of the least used column of codes, and
the same among the columns of which FAISS uses nearly all bits, with their number.

Times count for little where the load before the run, told with the machine, is not near 0. With
``--shuffle-seed`` the rows are drawn from the whole source and come in random order: worth it for a
sorted one; ``vqpipe_sorted``, a peer that must be asked for, sorts them by the labels of a FAISS
k-means first. scikit-learn and dask-ml come with ``pip install vqpipe[bench]``; a peer whose package is
absent, or that fails, says so in its row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import threadpoolctl

from vqpipe.codebook import CodebookSpec
from vqpipe.config import CodebookConfig, parse_codebook
from vqpipe.config_file import parse_overrides
from vqpipe.sources import open_source

LABELS = {
    "faiss": "FAISS, every row, 25 iterations",
    "vqpipe": "vqpipe",
    "vqpipe_sorted": "vqpipe, rows sorted by a FAISS label",
    "faiss_default": "FAISS default, 256 rows a codeword",
    "faiss_super": "FAISS SuperKMeans, every row",
    "two_level": "FAISS two-level clustering",
    "sklearn": "scikit-learn MiniBatchKMeans",
    "sklearn_16k": "MiniBatchKMeans, 16 rows a codeword in a batch",
    "dask_ml": "dask-ml KMeans, 25 iterations",
}
PQ_PEERS = ["faiss", "vqpipe", "vqpipe_sorted", "faiss_default"]
UNASKED = {"vqpipe_sorted"}

# A column of codes whose entropy is lower by no more than this many bits uses nearly all.
_NEARLY_BITS = 0.15

# Settings of this shell that would change what a library takes by itself.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_PIECE_ROWS = 65_536

Result = dict[str, Any]


def prepare(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], str | None]:
    """Return where the peers find their rows, and the file of held-out rows.

    A ``.npy`` source is read in place, and vqpipe reads any source in place; other files are written
    as ``.npy``, in the source's dtype, and so is what was shuffled or parted.
    """
    source = open_source(arguments.vectors)
    count = min(arguments.rows or source.rows, source.rows)
    stored = Path(arguments.vectors)
    if arguments.shuffle_seed is None and not arguments.heldout:
        file = stored
        if stored.suffix != ".npy" or not stored.exists():
            file = folder / "rows.npy"
            np.save(file, source.read(0, count))
        uri = str(stored.absolute()) if stored.exists() else arguments.vectors
        in_place = {"uri": uri, "rows": count}
        return {"source": in_place, "file": str(file.absolute()), "rows": count}, None
    taken = np.arange(count)
    if arguments.shuffle_seed is not None:
        taken = np.random.default_rng(arguments.shuffle_seed).permutation(source.rows)[:count]
    vectors = source.read(0, int(taken.max()) + 1)[taken]
    drawn = np.random.default_rng(arguments.shuffle_seed or 0).permutation(count)
    apart = np.zeros(count, dtype=bool)
    apart[drawn[: arguments.heldout]] = True
    file, heldout = str(folder / "rows.npy"), str(folder / "heldout.npy")
    np.save(file, vectors[~apart])
    np.save(heldout, vectors[apart])
    rows = count - arguments.heldout
    return {"source": {"uri": file}, "file": file, "rows": rows}, (
        heldout if arguments.heldout else None
    )


def measure(centroids: np.ndarray, file: str, rows: int) -> tuple[list[float], list[float]]:
    """Return, for every column, the exact distortion and the entropy of the codes.

    Parameters
    ----------
    centroids : float array of shape (m, k, dim / m)
    file : str
        A ``.npy`` file.
    rows : int
        So many of its rows.

    Returns
    -------
    distortion : list of float
        The float64 mean of squared errors over these rows; their sum is the codebook's.
    entropy : list of float
        In bits.
    """
    m, k, width = centroids.shape
    vectors = np.load(file, mmap_mode="r")[:rows]
    # Nearest codewords are found around the mean, where products do not cancel.
    offset = vectors.mean(axis=0, dtype=np.float64).reshape(m, width)
    indexes = [faiss.IndexFlatL2(width) for _ in range(m)]
    for column, index in enumerate(indexes):
        index.add((centroids[column] - offset[column]).astype(np.float32))
    errors, counts = np.zeros(m), np.zeros((m, k), np.int64)
    for start in range(0, rows, _PIECE_ROWS):
        piece = vectors[start : start + _PIECE_ROWS].astype(np.float64).reshape(-1, m, width)
        for column, index in enumerate(indexes):
            near = (piece[:, column] - offset[column]).astype(np.float32)
            labels = index.search(near, 1)[1][:, 0]
            error = piece[:, column] - centroids[column][labels]
            errors[column] += np.einsum("ij,ij->", error, error)
            # A label of -1, of a row without a nearest codeword, is refused here.
            counts[column] += np.bincount(labels, minlength=k)
    shares = counts / rows
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return (errors / rows).tolist(), (-(shares * logs).sum(axis=1)).tolist()


def train(task: dict[str, Any], heldout: str | None) -> Result:
    """Run one peer in a process of its own and measure its codebook."""
    environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "task.json").write_text(json.dumps(task))
        command = [sys.executable, str(Path(__file__).with_name("peers.py")), folder]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            print(ran.stderr, file=sys.stderr)
            lines = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
            return {"missing": f"failed: {lines[-1][:200]}"}
        result: Result = json.loads((Path(folder) / "result.json").read_text())
        if "missing" in result:
            return result
        centroids = np.load(Path(folder) / "centroids.npy")
    if not np.isfinite(centroids).all():
        return {"missing": "failed: its codewords are not all finite"}
    result["distortion"], result["entropy"] = measure(centroids, task["file"], task["rows"])
    if heldout is not None:
        rows = len(np.load(heldout, mmap_mode="r"))
        result["heldout"], _ = measure(centroids, heldout, rows)
    return result


def mean_total(results: list[Result], name: str) -> float:
    """Return the mean over the seeds of a figure, added over the columns."""
    return statistics.mean(sum(result[name]) for result in results)


def column_means(results: list[Result], name: str) -> np.ndarray:
    """Return the mean over the seeds of a figure of every column."""
    return np.mean([result[name] for result in results], axis=0)


def median_seconds(results: list[Result]) -> float:
    return statistics.median(result["seconds"] for result in results)


def trained(results: list[Result]) -> list[Result]:
    """Return those that came to an end."""
    return [result for result in results if "missing" not in result]


def cells(found: list[Result], base: list[Result], spec: CodebookSpec, heldout: bool) -> list[str]:
    """Return a peer's cells of the table, after its name."""
    ratio, time_ratio, heldout_ratio, worst, kept = "–", "–", "–", "–", "–"
    entropy = column_means(found, "entropy")
    if base:
        ratio = f"{mean_total(found, 'distortion') / mean_total(base, 'distortion'):.4f}"
        time_ratio = f"{median_seconds(found) / median_seconds(base):.3f}"
        columns = column_means(found, "distortion") / column_means(base, "distortion")
        worst = f"{columns.max():.4f}"
        full = column_means(base, "entropy") >= spec.bits - _NEARLY_BITS
        kept = f"{entropy[full].min():.3f} ({full.sum()} of {len(full)})" if full.any() else "–"
        if heldout:
            heldout_ratio = f"{mean_total(found, 'heldout') / mean_total(base, 'heldout'):.4f}"
    passes = statistics.mean(result["passes"] for result in found)
    megabytes = max(result["megabytes"] for result in found)
    row = [ratio, time_ratio, f"{passes:.2f}", f"{median_seconds(found):.2f}", f"{megabytes:.0f}"]
    if heldout:
        row.append(heldout_ratio)
    if spec.kind == "PQ":
        row += [worst, f"{entropy.min():.3f}", kept]
    return row


def table(results: dict[str, list[Result]], against: str, spec: CodebookSpec, heldout: bool) -> str:
    """Return the Markdown table."""
    base = trained(results[against])
    head = ["peer", "distortion ratio", "time ratio", "passes", "seconds", "peak MB"]
    head += ["held-out ratio"] if heldout else []
    if spec.kind == "PQ":
        full = f"where the first has {spec.bits - _NEARLY_BITS:.2f}"
        head += ["worst sub-space ratio", "least entropy (bits)", full]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, tried in results.items():
        found = trained(tried)
        row = [LABELS[name], tried[-1].get("missing", "")]
        if found:
            seeds = "" if found == tried else f" ({len(found)} of {len(tried)} seeds)"
            row = [LABELS[name] + seeds, *cells(found, base, spec, heldout)]
        rows.append(row + [""] * (len(head) - len(row)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> str:
    """Say what it runs on: cores, vector instructions, FAISS's own and its BLAS's."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    words = [name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags]
    blas = [
        f"OpenBLAS {library['version']} for {library.get('architecture', 'an unknown core')}"
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas" and "faiss" in library["filepath"]
    ]
    return (
        f"{len(os.sched_getaffinity(0))} cores with {' and '.join(words) or 'no AVX2'}, "
        f"FAISS {faiss.__version__} on {', '.join(blas) or 'an unknown BLAS'}"
    )


def read_arguments() -> tuple[argparse.Namespace, CodebookSpec]:
    """Return the arguments, and the codebook that they name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors")
    parser.add_argument("codebook")
    parser.add_argument("--rows", type=int, help="only the first N rows")
    parser.add_argument("--shuffle-seed", type=int, help="draw the rows in this random order")
    parser.add_argument("--heldout", type=int, default=0, help="keep N random rows from all peers")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--peers", help=f"of {','.join(LABELS)}")
    parser.add_argument(
        "--against", default="faiss", help="the peer that ratios are to; it always runs"
    )
    parser.add_argument("--train-options", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    spec = CodebookConfig.model_validate(parse_codebook(arguments.codebook)).spec
    if spec is None:
        parser.error("name a codebook to learn, as PQ16 or KM1024")
    known = list(LABELS) if spec.kind == "KM" else PQ_PEERS
    usual = [name for name in known if name not in UNASKED]
    asked = arguments.peers.split(",") if arguments.peers else usual
    if not set(asked) <= set(known):
        parser.error(f"--peers {arguments.peers}: a {spec.kind} codebook has {','.join(known)}")
    if arguments.against not in known:
        parser.error(f"--against {arguments.against}: a {spec.kind} codebook has {','.join(known)}")
    arguments.peers = [arguments.against, *(name for name in asked if name != arguments.against)]
    return arguments, spec


def main() -> None:
    """Train every peer with every seed and print the table."""
    arguments, spec = read_arguments()
    # Others at work on these cores spoil the times: OpenMP's threads spin while they wait for them.
    load = os.getloadavg()[0]
    results: dict[str, list[Result]] = {name: [] for name in arguments.peers}
    with tempfile.TemporaryDirectory() as folder:
        place, heldout = prepare(arguments, Path(folder))
        given = {
            "codebook": arguments.codebook,
            "kind": spec.kind,
            "m": spec.m,
            "k": spec.k,
            "workers": arguments.workers,
            "options": parse_overrides(arguments.train_options),
            **place,
        }
        dim = np.load(place["file"], mmap_mode="r").shape[1]
        for seed in range(arguments.seeds):
            for name, found in results.items():
                found.append(train({**given, "peer": name, "seed": seed}, heldout))
                print(f"{name} seed {seed}: {found[-1]}", file=sys.stderr, flush=True)
    print(
        f"{time.strftime('%Y-%m-%d')}: {machine()}; {place['rows']:,} rows of "
        f"{Path(arguments.vectors).name}, {dim} dims, {spec}, seeds: {arguments.seeds}, "
        f"workers: {arguments.workers}, train options: {' '.join(arguments.train_options) or 'none'}, "
        f"load before: {load:.1f}\n"
    )
    print(table(results, arguments.against, spec, heldout is not None))
    stage = [result["sample_seconds"] for result in trained(results.get("vqpipe", []))]
    if stage:
        print(f"\nvqpipe's sample stage, cluster start included: {statistics.median(stage):.2f} s")


if __name__ == "__main__":
    main()
