"""``vqpipe init``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import typer
import yaml

from vqpipe.cli.schema import SCHEMA_FILE, SCHEMA_LINE
from vqpipe.codebook import CodebookSpec
from vqpipe.config import SYNTHETIC_SCHEME
from vqpipe.pipeline.suggestion import Look, look_at, suggest_codebook
from vqpipe.report.facts import format_bytes
from vqpipe.shards import ceil_div, choose_shard_rows
from vqpipe.sources import VectorArray, find_benchmark, open_source
from vqpipe.urls import absolute, split

# What a config has unless it says otherwise.
DEFAULT_MEMORY = 2 << 30

_STARTER = """\
{schema}# Editors complete keys by that file: `vqpipe schema --to vqpipe.schema.json` writes it, once, beside this one.
# A vqpipe config. Every key but source, output and codebook may be left out{defaults}.
# Values may use ${{ENVIRONMENT_VARIABLES}}; relative paths are taken from this file's folder.
{seen}name: {name}
seed: 0                       # the same config on the same source gives the same bytes
source:
  uri: {uri}
  format: {format}                # zarr npy npz hdf5 fvecs bvecs fbin u8bin i8bin parquet synthetic; auto: by the name
  key: {key}                   # array inside a Zarr group, an HDF5 or npz file, column of Parquet files
  ids: null                   # column of Parquet files that is carried along to codes.zarr/ids
  rows: null                  # only the first N rows
  metric: {metric:<19} # l2, or cosine: rows are divided by their norm
  invalid_rows: {invalid_rows:<13} # rows with NaN or Inf: error, or mask (marked, counted, left out of exports)
output: {output}
{why}codebook: {codebook}
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
export: [faiss]               # faiss, npy, parquet
drift: {{distortion: null}}     # warn when new rows' distortion exceeds held-out's by this factor, as 1.2
keep_generations: 2           # that vqpipe prune leaves, besides the current one
memory_per_worker: {memory:<10} # the run refuses what cannot fit
cluster:                      # or the word serial
  class: distributed.LocalCluster
  options: {{}}
  scale: null                 # workers, or {{minimum: 2, maximum: 64}}
  address: null               # connect to a running scheduler instead
"""


def execute(source: Sequence[str]) -> None:
    """Print a starter config, for a source if one is named."""
    facts: dict[str, Any] = {
        "schema": SCHEMA_LINE.format(SCHEMA_FILE),
        "defaults": ": what stands here is its default",
        "seen": "",
        "name": "vectors",
        "output": "runs/vectors",
        "uri": "vectors.npy",
        "format": "auto",
        "key": "null",
        "metric": "l2",
        "queries": "1000",
        "invalid_rows": "error",
        "codebook": "PQ16",
        "why": "# m must divide the dim: PQ16 makes 16 bytes of a vector; KM1024 gives cluster labels.\n",
        "memory": "2GiB",
    }
    if source:
        facts |= _seen(source)
    typer.echo(_STARTER.format(**facts), nl=False)


def _seen(uris: Sequence[str]) -> dict[str, Any]:
    """Return what of the starter a source decides."""
    # An empty name is no path, and is refused as it is.
    whole = [uri if not uri or uri.startswith(SYNTHETIC_SCHEME) else absolute(uri) for uri in uris]
    found = open_source(whole if len(whole) > 1 else whole[0])
    look = look_at(found)
    name = _name(uris[0])
    spec, reason = suggest_codebook(found.dim, found.rows)
    memory = _memory(found)
    comments = [*_describe(found, look), *_advise(look)]
    if memory > DEFAULT_MEMORY:
        comments.append(
            f"A chunk takes {format_bytes(found.chunk_bytes)} once decoded, and a quarter of memory_per_worker must "
            "hold it; rechunk the source to do with less."
        )
    return {
        "seen": "".join(f"# {comment}\n" for comment in comments),
        "name": _plain(name),
        "output": _plain(f"runs/{name}"),
        "uri": _plain(whole if len(whole) > 1 else whole[0]),
        "format": found.format if found.format != "mixed" else "auto",
        **_inside(whole[0], found),
        "invalid_rows": "mask" if look.invalid_rows else "error",
        "codebook": _short(spec),
        "why": "".join(f"# {line}\n" for line in _why(found, spec, reason, memory)),
        "memory": f"{memory >> 30}GiB",
    }


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


def _describe(found: VectorArray, look: Look) -> Iterator[str]:
    """Yield what the source is, and what was seen of its rows."""
    files = f"{len(found.parts):,} files" if len(found.parts) > 1 else "1 file"
    size = format_bytes(found.rows * found.row_bytes)
    yield f"The source: {found.rows:,} rows of dim {found.dim}, {found.dtype}, {size} ({found.format}, {files})."
    if not look.rows:
        yield f"No row was looked at: one chunk takes {format_bytes(found.chunk_bytes)} once decoded."
        return
    seen = f"{look.rows:,} rows, spread over it, were looked at"
    if look.invalid_rows:
        yield f"{seen}: {look.invalid_rows:,} cannot be used ({look.first_invalid}), so they are masked."
    else:
        yield f"{seen}: all can be used."


def _advise(look: Look) -> Iterator[str]:
    """Yield what the norms of the rows say of the metric."""
    if look.rows == look.invalid_rows or not look.largest_norm:
        return
    if look.is_unit:
        yield "Their norms are 1, so l2 and cosine find the same nearest rows."
    elif look.varies:
        yield (
            f"Their norms go from {look.least_norm:.4g} to {look.largest_norm:.4g}: if rows are compared by their "
            "angle, as embeddings often are, write metric: cosine."
        )
    if look.zero_rows:
        yield f"{look.zero_rows:,} of them are zero, which cosine cannot use (invalid_rows: mask)."


def _why(found: VectorArray, spec: CodebookSpec, reason: str, memory: int) -> Iterator[str]:
    """Yield why this codebook, and what it makes of the source."""
    row_bytes = spec.columns * spec.bits / 8
    yield f"{_short(spec)}: {reason}. KM1024 would give each row a cluster label instead."
    shard_rows = choose_shard_rows(found.rows, found.unit_rows, spec.row_code_bytes, memory)
    shards = ceil_div(found.rows, shard_rows)
    codes = format_bytes(round(found.rows * row_bytes))
    yield (
        f"{found.row_bytes:,} bytes a row become {row_bytes:g} ({found.row_bytes / row_bytes:.3g} to 1): {codes} of "
        f"codes in {shards:,} {'shard' if shards == 1 else 'shards'}."
    )


def _memory(found: VectorArray) -> int:
    """Return the memory of a worker that a decoded chunk is a quarter of."""
    memory = DEFAULT_MEMORY
    while memory < 4 * found.chunk_bytes:
        memory *= 2
    return memory


def _short(spec: CodebookSpec) -> str:
    """Return a codebook's name as people write it: 8 bits go without saying."""
    return str(spec).removesuffix("x8")


def _name(uri: str) -> str:
    """Return what to call a run on a source: the name of its file, without what makes it a pattern."""
    computed = uri.startswith(SYNTHETIC_SCHEME)
    last = uri.partition("?")[0] if computed else split(uri.rstrip("/"))[1]
    name = last.removeprefix(SYNTHETIC_SCHEME).split(".")[0]
    return name.translate(dict.fromkeys(map(ord, "*?[]"))).strip("-_ ") or "vectors"


def _plain(value: str | list[str]) -> str:
    """Return a value as YAML writes it on one line, quoted where it must be."""
    text = yaml.safe_dump(value, width=2**31, allow_unicode=True, default_flow_style=True)
    return text.removesuffix("...\n").strip()
