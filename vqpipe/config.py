"""The config: what it may say. Read once, then turned into the nouns that do the work."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from vqpipe.codebook import CodebookSpec, Kind, Metric
from vqpipe.config_values import Count, Memory, Rows, Seed, Uri

# Less is a size without its unit.
LEAST_MEMORY = 1_000_000
MAX_CODEWORDS = 1 << 24
MAX_PQ_BITS = 12
# Each stage costs passes over the sample through all stages before it; later ones gain next to nothing.
MAX_STAGES = 64

# What begins the name of rows that are computed where they are read: no path.
SYNTHETIC_SCHEME = "synthetic:"

STAGES = ("ingest", "sample", "train", "encode", "evaluate", "export", "report")

# What is counted in a kind's short name, and which key of the mapping says it.
_SIZE = {"KM": "k", "PQ": "m", "OPQ": "m", "RQ": "stages"}
_NAMES = "write KM1024, PQ16 (= PQ16x8), PQ16x4, OPQ16 or RQ8"
_CODEBOOK = re.compile(r"(KM|PQ|OPQ|RQ)(\d+)(?:x(\d+))?", re.ASCII)


# What files and arrays of vectors may be; auto goes by their names.
StoredFormat = Literal[
    "auto",
    "zarr",
    "npy",
    "npz",
    "hdf5",
    "fvecs",
    "bvecs",
    "fbin",
    "u8bin",
    "i8bin",
    "parquet",
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileConfig(_Section):
    """Vectors or row numbers in a file: queries and their truth."""

    uri: Uri
    """Path or URL of the file or Zarr array. In ann-benchmarks' HDF5 files `key` is found by itself."""
    format: Literal[StoredFormat, "ivecs"] = "auto"
    """Format; `auto` goes by the name's ending."""
    key: str | None = None
    """Array inside a Zarr group, an HDF5 or npz file, or column of a Parquet file."""


class SourceConfig(_Section):
    """Where the vectors are."""

    uri: Uri | Annotated[list[Uri], Field(min_length=1)]
    """Path, glob, folder of Parquet files, URL (s3, gs, az, https), or a list of them; or, to rehearse,
    `synthetic:mixture?rows=1e9&dim=96&seed=0`, which is computed."""
    format: Literal[StoredFormat, "synthetic"] = "auto"
    """Format; `auto` goes by the name's ending, or by `synthetic:` at its beginning."""
    key: str | None = None
    """Array inside a Zarr group, an HDF5 or npz file, or column of Parquet files; null: the only one of vectors."""
    ids: str | None = None
    """Column of Parquet files, of integers or text, that is carried along to `codes.zarr/ids`."""
    rows: Rows | None = None
    """Only the first N rows."""
    metric: Metric = "l2"
    """`l2`, or `cosine`: rows are divided by their norm."""
    invalid_rows: Literal["error", "mask"] = "error"
    """Rows with NaN or Inf, or zero under cosine: an error, or masked and counted."""


def _allow_short_name(schema: dict[str, Any]) -> None:
    """Let editors take PQ16 where the mapping may stand."""
    mapping = dict(schema)
    schema.clear()
    names = {"type": "string", "pattern": "^(KM[0-9]+|(PQ|OPQ|RQ)[0-9]+(x[0-9]+)?)$"}
    schema.update({"title": mapping.pop("title"), "anyOf": [names, mapping]})


class CodebookConfig(_Section):
    """A codebook to learn (kind and sizes) or to take (`from`)."""

    model_config = ConfigDict(json_schema_extra=_allow_short_name)

    kind: Kind | None = None
    """`KM`: one codeword per vector; `PQ`: one per sub-vector; `OPQ`: the same after a rotation that is learnt;
    `RQ`: one per stage, each stage for what the ones before left over."""
    k: Annotated[int, Field(ge=1, le=MAX_CODEWORDS)] | None = None
    """Codewords of a KM codebook."""
    m: PositiveInt | None = None
    """Sub-vectors of a PQ or OPQ codebook; must divide the dim."""
    bits: Annotated[int, Field(ge=1, le=MAX_PQ_BITS)] | None = None
    """Bits of a PQ, OPQ or RQ code, 8 unless said."""
    stages: Annotated[int, Field(ge=1, le=MAX_STAGES)] | None = None
    """Stages of an RQ codebook."""
    source: Uri | None = Field(default=None, alias="from")
    """A codebook.zarr or a FAISS PQ, OPQ or RQ index: encode with it, learn nothing."""

    @model_validator(mode="after")
    def _one_kind(self) -> CodebookConfig:
        names = ("kind", "k", "m", "bits", "stages")
        given = {name for name in names if getattr(self, name) is not None}
        if self.source is not None:
            if given:
                raise ValueError(f"`from` takes a finished codebook: leave out {sorted(given)}")
        elif self.kind is None:
            kinds = ", ".join(f"`kind: {kind}`" for kind in _SIZE)
            raise ValueError(f"say {kinds}, or `from: PATH`")
        else:
            size = _SIZE[self.kind]
            if self.kind == "KM":
                if given != {"kind", "k"}:
                    raise ValueError("`kind: KM` takes `k` and nothing else")
            elif not {"kind", size} <= given <= {"kind", size, "bits"}:
                raise ValueError(f"`kind: {self.kind}` takes `{size}` and, unless it is 8, `bits`")
        return self

    @property
    def spec(self) -> CodebookSpec | None:
        """Kind and sizes to learn; None where a finished codebook is taken."""
        if self.kind is None:
            return None
        if self.kind == "KM":
            return CodebookSpec("KM", 1, self.k or 1)
        return CodebookSpec(self.kind, self.m or 1, 1 << (self.bits or 8), self.stages or 1)


class TrainConfig(_Section):
    """How the codebook is learnt.

    Rounds are of each stage of an RQ codebook; at most 8 more, and no more than those, refine all its stages together.
    """

    rows: Rows | Literal["auto"] = "auto"
    """Rows of the training sample; auto: min(rows - heldout, max(1000 k, 500,000))."""
    heldout_rows: Count | Literal["auto"] = "auto"
    """Rows kept apart to measure on; auto: min(rows // 10, 10,000), 0 if fewer than 4 k rows remain."""
    rounds: Rows | Literal["auto"] = "auto"
    """Rounds at most; auto: 3.6 passes over the training rows, or 24 of the smallest batches."""
    batch_rows: Rows | Literal["auto"] = "auto"
    """Rows of a round; auto: 4 k at first, 8,192 at least, and growing as more is remembered."""
    init: Uri | None = None
    """A codebook to start from; the summary tells how many held-out rows changed their codes."""
    stop: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """Stop when held-out distortion no longer falls by this fraction per pass; 0: never early."""


class EncodeConfig(_Section):
    """How rows become codes."""

    shard_rows: Rows | Literal["auto"] = "auto"
    """Rows of a code shard; auto: whole source chunks, about 2^20 rows."""
    store_error: bool = False
    """Keep each row's squared error beside its codes."""
    assign: Literal["exact", "fast"] = "exact"
    """`exact`: the nearest codeword, always; `fast`: of 8,192 and more, one at most 0.2% worse on the whole."""


class EvaluateConfig(_Section):
    """How good the codes are."""

    queries: Count | FileConfig = 1000
    """That many held-out rows as queries, or a file of queries. The source's own ann-benchmarks file brings `truth`."""
    truth: FileConfig | None = None
    """Row numbers of each query's nearest rows, nearest first: then all rows are searched."""
    rows: Rows | Literal["auto"] = "auto"
    """Rows that are searched; auto: min(rows, 10^6), drawn uniformly."""
    recall_at: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 10, 100]
    """The k of recall@k."""

    @model_validator(mode="after")
    def _truth_needs_queries(self) -> EvaluateConfig:
        if self.truth is not None and not isinstance(self.queries, FileConfig):
            raise ValueError("`truth` belongs to a file of queries: give `queries: {uri: ...}` too")
        return self


class DriftConfig(_Section):
    """When to warn that new rows no longer suit the codebook."""

    distortion: Annotated[float, Field(gt=0)] | None = None
    """Warn when new rows' distortion exceeds held-out's by this factor."""


class ScaleConfig(_Section):
    """Bounds for a cluster that grows and shrinks."""

    minimum: Count = 1
    """Workers kept at all times."""
    maximum: PositiveInt
    """Workers at most."""


class ClusterConfig(_Section):
    """Where the work runs."""

    class_: str = Field(default="distributed.LocalCluster", alias="class")
    """Any subclass of distributed.deploy.Cluster by its import path."""
    options: dict[str, Any] = {}
    """Passed to the class; `security: {tls_ca_file, tls_client_cert, tls_client_key}` also holds for `address`."""
    scale: PositiveInt | ScaleConfig | None = None
    """Workers, or `{minimum, maximum}`."""
    address: str | None = None
    """Connect to a running scheduler instead."""


def _allow_no_name(schema: dict[str, Any]) -> None:
    """Let editors take a file without a name: it has its file's."""
    schema["required"].remove("name")


class Config(_Section):
    """The whole config of a run."""

    model_config = ConfigDict(json_schema_extra=_allow_no_name)

    name: Annotated[str, Field(min_length=1)]
    """What the run is called: the file's name unless said."""
    seed: Seed = 0
    """Seed of every draw: the same config on the same source gives the same bytes."""
    source: SourceConfig
    output: Uri
    """Path or URL of the output folder; what opens an object store stands in the environment alone."""
    codebook: CodebookConfig
    """KM1024, PQ16 (= PQ16x8), PQ16x4, OPQ16, RQ8, a mapping, or `{from: PATH}`."""
    train: TrainConfig = TrainConfig()
    encode: EncodeConfig = EncodeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: list[Literal["faiss", "npy", "parquet"]] = ["faiss"]
    """What to write beside the codes."""
    drift: DriftConfig = DriftConfig()
    memory_per_worker: Memory = ByteSize(2 << 30)
    """Memory of one worker, such as 2GiB: the plan is refused if it needs more."""
    keep_generations: PositiveInt = 2
    """Newest generations that `vqpipe prune` leaves, besides the current one."""
    cluster: Literal["serial"] | ClusterConfig = ClusterConfig()
    """The word `serial`, or a Dask cluster."""

    @field_validator("codebook", mode="before")
    @classmethod
    def _parse_codebook(cls, value: object) -> object:
        if isinstance(value, int | float | list):
            raise ValueError(f"names no codebook: {_NAMES}")  # noqa: TRY004 - pydantic reports ValueErrors
        return parse_codebook(value) if isinstance(value, str) else value

    @field_validator("memory_per_worker")
    @classmethod
    def _has_a_unit(cls, value: ByteSize) -> ByteSize:
        if value < LEAST_MEMORY:
            raise ValueError(f"means {int(value):,} bytes: write a unit, as in 2GiB")
        return value

    def plain(self) -> dict[str, Any]:
        """Return the config as plain values under the keys that a file has."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def settings(self, section: str) -> dict[str, Any]:
        """Return one section as plain values, for fingerprints and records."""
        plain: dict[str, Any] = self.model_dump(mode="json", by_alias=True)[section]
        return plain


def parse_codebook(text: str) -> dict[str, Any]:
    """Read a codebook's short name.

    Examples
    --------
    >>> parse_codebook("PQ16x4")
    {'kind': 'PQ', 'm': 16, 'bits': 4}
    >>> parse_codebook("RQ8")
    {'kind': 'RQ', 'stages': 8, 'bits': 8}
    """
    match = _CODEBOOK.fullmatch(text)
    if match is None:
        meant = re.sub(r"[\s_-]", "", text).upper().replace("X", "x")
        hint = f"did you mean {meant}?" if _CODEBOOK.fullmatch(meant) else _NAMES
        raise ValueError(f"names no codebook: {hint}")
    kind, size, bits = match[1], int(match[2]), match[3]
    if kind == "KM":
        if bits is not None:
            raise ValueError(f"a KM codebook has one size, its codewords: KM{size}")
        return {"kind": "KM", "k": size}
    return {"kind": kind, _SIZE[kind]: size, "bits": int(bits or 8)}
