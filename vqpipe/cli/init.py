"""``vqpipe init``."""

from __future__ import annotations

import typer
import yaml

from vqpipe.config import SYNTHETIC_SCHEME
from vqpipe.sources import VectorArray, find_benchmark, open_source
from vqpipe.urls import absolute, split

_STARTER = """\
# A vqpipe config. Every key but source, output and codebook may be left out: what stands here is its default.
# Values may use ${{ENVIRONMENT_VARIABLES}}; relative paths are taken from this file's folder.
name: {name}
seed: 0                       # the same config on the same source gives the same bytes
source:
  uri: {uri}
  format: {format}                # zarr npy npz hdf5 fvecs bvecs fbin u8bin i8bin parquet synthetic; auto: by the name
  key: {key}                   # array inside a Zarr group, an HDF5 or npz file, column of Parquet files
  ids: null                   # column of Parquet files that is carried along to codes.zarr/ids
  rows: null                  # only the first N rows
  metric: {metric}                  # l2, or cosine: rows are divided by their norm
  invalid_rows: error         # rows with NaN or Inf: error, or mask (marked, counted, left out of exports)
output: {output}
codebook: {codebook}               # {why}
train:
  rows: auto                  # drawn uniformly: min(rows - heldout, max(1000 k, 500,000))
  heldout_rows: auto          # kept apart to measure on: min(rows // 10, 10,000)
  rounds: auto                # at most: 3.6 passes over the training rows
  batch_rows: auto            # grows as more is remembered
  init: null                  # a codebook to start from
  stop: 0.001                 # stop when held-out distortion no longer falls by this fraction per pass
encode:
  shard_rows: auto            # whole source chunks, about 2^20 rows
  store_error: false          # keep each row's squared error beside its codes
  assign: exact               # the nearest codeword; fast: of 8,192 and more, at most 0.2% more distortion
evaluate:
  queries: {queries}               # held-out rows as queries, or a file: {{uri: ..., format: auto}}
  truth: null                 # with a file of queries: their nearest rows, {{uri: ...}}; all rows are searched
  rows: auto                  # rows that are searched: min(rows, 1,000,000), drawn uniformly
  recall_at: [1, 10, 100]
export: [faiss]               # faiss, npy
drift: {{distortion: null}}     # warn when new rows' distortion exceeds held-out's by this factor, as 1.2
keep_generations: 2           # that vqpipe prune leaves, besides the current one
memory_per_worker: 2GiB       # the run refuses what cannot fit
cluster:                      # or the word serial
  class: distributed.LocalCluster
  options: {{}}
  scale: null                 # workers, or {{minimum: 2, maximum: 64}}
  address: null               # connect to a running scheduler instead
"""


def execute(source: str | None) -> None:
    """Print a starter config, for a source if one is named."""
    if source is None:
        facts = {
            "name": "vectors",
            "output": "runs/vectors",
            "uri": "vectors.npy",
            "format": "auto",
            "codebook": "PQ16",
            "key": "null",
            "metric": "l2",
            "queries": "1000",
            "why": "m must divide the dim: PQ16 makes 16 bytes of a vector; KM1024 gives cluster labels",
        }
    else:
        found = open_source(source)
        m = suggest_m(found.dim)
        ratio = found.row_bytes / m
        computed = source.startswith(SYNTHETIC_SCHEME)
        last = source.partition("?")[0] if computed else split(source.rstrip("/"))[1]
        name = last.removeprefix(SYNTHETIC_SCHEME).split(".")[0]
        facts = {
            "name": _plain(name),
            "output": _plain(f"runs/{name}"),
            "uri": _plain(source if computed else absolute(source)),
            "format": found.format,
            **_inside(source, found),
            "codebook": f"PQ{m}",
            "why": f"{found.rows:,} {found.dtype} rows of dim {found.dim}: {m} bytes a row, {ratio:.0f} to 1; "
            "KM1024 gives cluster labels",
        }
    typer.echo(_STARTER.format(**facts), nl=False)


def _inside(source: str, found: VectorArray) -> dict[str, str]:
    """Return which array is taken and, of ann-benchmarks' files, the metric and the queries that lie beside it."""
    facts = {"key": "null", "metric": "l2", "queries": "1000"}
    benchmark = find_benchmark(source) if found.format == "hdf5" else None
    if benchmark is not None:
        facts["metric"] = benchmark.metric or "l2"
        facts["queries"] = f"{{uri: {_plain(benchmark.path)}}}"
    elif found.format in ("hdf5", "npz"):
        facts["key"] = _plain(str(found.parts[0].key))
    return facts


def suggest_m(dim: int) -> int:
    """Return how many sub-vectors to cut a vector into: about 8 dims each, and a divisor of the dim.

    Examples
    --------
    >>> suggest_m(128), suggest_m(100), suggest_m(13)
    (16, 10, 1)
    """
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    wanted = dim / 8
    return min(divisors, key=lambda m: (abs(m - wanted), m))


def _plain(text: str) -> str:
    """Return a text as YAML writes it on one line, quoted where it must be."""
    return yaml.safe_dump(text, width=2**31, allow_unicode=True).removesuffix("...\n").strip()
