"""Compare encoding from Zarr to Zarr on all cores with encoding rows that lie in memory on the same cores.

    python tests/benchmarks/throughput.py VECTORS CODEBOOK [--dim 96] [--dtype float32] [--rows 8e6] [--workers 2]
        [--repeats 3] [--folder FOLDER]

VECTORS is a file of real vectors; its rows, cut to ``--dim`` dims and cast to ``--dtype``, are written one
after another, over and over, to a Zarr v3 array as the README advises: chunks of 4 MB in shards of 64 MB, a
crc32c, no compression. It stays in the page cache where memory allows: what is measured is the work, not the
disk.

From Zarr to Zarr is the encode stage of a run on a Dask cluster that is already there, with all that a run
does: checks, squared errors, checksums, records. In memory is `Quantizer.encode` of stored rows in each of
that many processes at once, in windows as the stage has them. Both in turn, medians of rows per second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from threadpoolctl import threadpool_limits
from zarr.codecs import Crc32cCodec

from vqpipe.config_file import make_config
from vqpipe.engines.choose import make_runner
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.progress import Silent
from vqpipe.sources import open_source
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.tasks.encode import window_rows

CHUNK_BYTES, SHARD_CHUNKS = 4 << 20, 16

# An encoding in memory goes on for so long.
SECONDS = 4.0


def write_source(vectors: np.ndarray, rows: int, path: str) -> None:
    """Write rows over and over to a Zarr array."""
    chunk = CHUNK_BYTES // vectors[0].nbytes
    array = zarr.create_array(
        path,
        shape=(rows, vectors.shape[1]),
        chunks=(chunk, vectors.shape[1]),
        shards=(chunk * SHARD_CHUNKS, vectors.shape[1]),
        dtype=vectors.dtype.name,
        compressors=[Crc32cCodec()],
        zarr_format=3,
    )
    step = chunk * SHARD_CHUNKS
    for start in range(0, rows, step):
        taken = np.arange(start, min(start + step, rows)) % len(vectors)
        array[start : start + step] = vectors[taken]


def encode_in_memory(path: str, vectors: np.ndarray, ready: Any, rates: Any) -> None:
    """Encode rows over and over and put rows per second."""
    with threadpool_limits(1):
        quantizer = read_codebook(path).quantizer
        size = window_rows(vectors.shape[1], quantizer.route.block_rows)
        quantizer.encode(vectors[:size])
        ready.wait()
        done, start, began = 0, 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            window = vectors[start : start + size]
            quantizer.encode(window)
            done += len(window)
            start = (start + size) % (len(vectors) - size)
        rates.put(done / (time.perf_counter() - began))


def rate_in_memory(path: str, vectors: np.ndarray, processes: int) -> float:
    """Return the rows per second of all processes together."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=encode_in_memory, args=(path, vectors, ready, rates))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    found = sum(rates.get(timeout=120) for _ in started)
    for process in started:
        process.join()
    return float(found)


def main() -> None:
    """Print both rates and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors")
    parser.add_argument("codebook")
    parser.add_argument("--dim", type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=8_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    source = open_source(arguments.vectors)
    vectors = source.read(0, source.rows)[:, : arguments.dim]
    vectors = np.ascontiguousarray(vectors, dtype=arguments.dtype or vectors.dtype)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        write_source(vectors, arguments.rows, f"{name}/source.zarr")
        config = make_config(
            {
                "source": {"uri": "source.zarr"},
                "codebook": arguments.codebook,
                "output": "out",
                "evaluate": {"queries": 0},
                "export": [],
                "cluster": {"scale": arguments.workers},
            },
            Path(name),
            {},
        )
        through: list[float] = []
        memory: list[float] = []
        with make_runner(config) as runner:
            run_pipeline(config, runner, Silent(), until="train")
            codebook = f"{name}/out/v1/codebook.zarr"
            for repeat in range(arguments.repeats):
                memory.append(rate_in_memory(codebook, vectors, arguments.workers))
                force = "encode" if repeat else None
                run_pipeline(config, runner, Silent(), until="encode", force=force)
                record = json.loads(Path(name, "out", "run.json").read_text())
                encode = record["work"]["encode"]
                through.append(encode["rows"] / encode["seconds"])
    one, other = statistics.median(through), statistics.median(memory)
    what = f"{arguments.codebook}, {vectors.dtype} x {vectors.shape[1]}, {arguments.rows:,} rows"
    print(
        f"{time.strftime('%Y-%m-%d')}, {what}, {arguments.workers} workers: from Zarr to Zarr {one / 1e6:.2f} M "
        f"rows/s, in memory {other / 1e6:.2f} M rows/s: {one / other:.2f}"
    )


if __name__ == "__main__":
    main()
