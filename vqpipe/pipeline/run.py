"""A run: the config turned into nouns, the generation it works on, and what it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from vqpipe.codebook import CodebookSpec
from vqpipe.config import Config
from vqpipe.errors import CodebookError
from vqpipe.kmeans.schedule import MOST_SLICES, Schedule, plan_schedule
from vqpipe.pipeline.generation import Generation, fingerprint
from vqpipe.pipeline.sizes import SampleSizes, plan_sample
from vqpipe.progress import Progress
from vqpipe.quantizer import (
    Quantizer,
    Route,
    choose_route,
    choose_search,
    compared_codewords,
    first_probes,
)
from vqpipe.runner import Runner
from vqpipe.shards import Shard, ceil_div, choose_shard_rows, choose_slice_rows
from vqpipe.sources import VectorArray
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import Lease
from vqpipe.storage.objects.view import View
from vqpipe.storage.records import Records
from vqpipe.storage.samples import Sample, find_sample

# A slice is about so much work on one core, some 80 ms, and so many rows at most: less would cost more to send
# and to add up than to compute, and more would leave workers waiting for the last one.
SLICE_FLOPS = 8_000_000_000
TARGET_SLICE_ROWS = 8_192
# A multiple of so many slices: as much work for each of two or four workers.
EVEN_SLICES = 4


@dataclass
class Run:
    """Everything that the stages of one run share.

    Attributes
    ----------
    config : Config
    source : VectorArray
    output : Folder
    generation : Generation
    spec : CodebookSpec
        Of the codebook to learn, or of the one that is given.
    given : Quantizer or None
        The codebook that the config takes from elsewhere.
    runner : Runner
    progress : Progress
    redo : frozenset of str
        Stages that are taken as never done.
    news : str
        Why the generation is a new one; empty for one that was there.
    warnings : list of str
    seconds : dict of str to float
        What each stage took, as far as this run has come.
    rows_done : dict of str to int
        Rows that a stage went through, for the next plan's rates.
    task_seconds : dict of str to list of (float, float)
        What each task of a stage took on its worker, where tasks tell.
    memory_bytes : dict of str to dict
        The most that the driver and any worker had held when a stage ended.
    begun_from : str
        The state of the output's generations that the run was planned from.
    lease : Lease or None
        On the output; None for a run that is only planned.
    view : View
        What the driver has seen of object stores since a stage last ran.
    unconverted : tuple of Shard or None
        Shards of ``vectors.zarr`` that must be converted; None before anybody has looked.
    """

    config: Config
    source: VectorArray
    output: Folder
    generation: Generation
    spec: CodebookSpec
    given: Quantizer | None
    runner: Runner
    progress: Progress
    redo: frozenset[str] = frozenset()
    news: str = ""
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    rows_done: dict[str, int] = field(default_factory=dict)
    task_seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    memory_bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    begun_from: str = ""
    lease: Lease | None = None
    view: View = field(default_factory=View, repr=False)
    unconverted: tuple[Shard, ...] | None = field(default=None, repr=False)
    _records: Records | None = field(default=None, repr=False)

    def warn(self, message: str) -> None:
        """Keep a warning for the summary and say it now."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.progress.warn(message)

    def hold(self, lease: Lease) -> None:
        """Write under a lease from here on."""
        self.lease = lease
        # Whoever had the output before may have converted meanwhile.
        self.unconverted = None
        self.generation.guard = self.may_write

    def may_write(self, seconds: float = 0.0) -> None:
        """Stop before a write if the output is another run's now; a look so many seconds ago is enough.

        Raises
        ------
        LeaseError
        """
        if self.lease is not None:
            self.lease.check(seconds)

    @property
    def rows_at_begin(self) -> int:
        """Rows of the source when the generation began: the sample is drawn from these."""
        rows: int = self.generation.facts["source"]["rows"]
        return rows

    @cached_property
    def sizes(self) -> SampleSizes:
        """Rows of the sample's sets."""
        return plan_sample(self.config, self.rows_at_begin, self.spec.k)

    @property
    def sample_fingerprint(self) -> str:
        """Fingerprint of the sample stage."""
        return str(self.generation.facts["fingerprints"]["sample"])

    @property
    def train_fingerprint(self) -> str:
        """Fingerprint of the train stage."""
        return str(self.generation.facts["fingerprints"]["train"])

    @property
    def sample_path(self) -> str:
        """Path of the sample, which generations share."""
        return (self.output / "samples").file(f"{self.sample_fingerprint[:12]}.zarr")

    @property
    def digest(self) -> str | None:
        """Digest of the generation's codebook; None before it is there."""
        return self.generation.stage("train").get("digest")

    @property
    def encode_fingerprint(self) -> str:
        """Fingerprint of the encode stage."""
        return fingerprint(self.generation.facts["settings"]["encode"], self.digest or "")

    @property
    def route(self) -> Route:
        """Exact assignment route of the codebook: as the generation keeps it, or as it is likely to be."""
        return self.generation.route or choose_route(self.spec, self.source.dim)

    @property
    def encode_route(self) -> Route:
        """Assignment route by which rows are encoded: a search, where the config allows its loss."""
        kept = self.generation.facts.get("encode_route")
        if kept:
            return Route(**kept)
        probes = first_probes(self.spec)
        return (
            choose_search(probes) if probes and self.config.encode.assign == "fast" else self.route
        )

    @property
    def search(self) -> Route:
        """Assignment route of the first rounds of training."""
        return choose_search(first_probes(self.spec))

    @property
    def schedule(self) -> Schedule:
        """Rounds of training, for the planned sample."""
        return self.schedule_for(self.sizes.train)

    def schedule_for(self, train_rows: int) -> Schedule:
        """Return the rounds of training for a sample of so many rows."""
        train = self.config.train
        return plan_schedule(
            self.spec,
            train_rows,
            None if train.batch_rows == "auto" else train.batch_rows,
            None if train.rounds == "auto" else train.rounds,
            known_rows=0 if train.init is None else train_rows,
        )

    def slice_rows(self, rows: int) -> int:
        """Return the rows of a slice when ``rows`` of the sample are cut into slices."""
        # Of a residual stage the ones before are searched as well.
        work = 2 * compared_codewords(self.spec, self.search) * self.source.dim * self.spec.stages
        target = min(TARGET_SLICE_ROWS, max(1, SLICE_FLOPS // work))
        # Fewer than may be: a batch that crosses the sample's end is cut there as well.
        count = min(MOST_SLICES - EVEN_SLICES, EVEN_SLICES * ceil_div(rows, EVEN_SLICES * target))
        return choose_slice_rows(rows, self.search.block_rows, count)

    def sample(self) -> Sample | None:
        """Return the sample, if it is finished."""
        return find_sample(self.sample_path)

    def finished_sample(self) -> Sample:
        """Return the sample.

        Raises
        ------
        CodebookError
            If it is not finished, or holds too few rows for the codebook.
        """
        sample = self.sample()
        if sample is None:
            raise CodebookError(f"{self.sample_path}: is not finished; run the sample stage")
        if sample.rows["train"] < 1:
            raise CodebookError(
                f"source {self.source.uri}: all {sample.invalid_rows:,} rows that were drawn hold NaN or Inf, or are "
                "zero under cosine, so there is nothing to learn from; mend the source"
            )
        return sample

    def finished_digest(self) -> str:
        """Return the digest of the generation's codebook.

        Raises
        ------
        CodebookError
            If there is none yet.
        """
        if self.digest is None:
            path = self.generation.codebook_path
            raise CodebookError(f"{path}: there is no codebook; run the train stage")
        return self.digest

    def codes(self) -> CodeArray:
        """Return the description of the generation's codes as they are to be."""
        encode = self.config.encode
        there = find_codes(self.generation.codes_path)
        shard_rows = there.shard_rows if there else encode.shard_rows
        if shard_rows == "auto":
            shard_rows = choose_shard_rows(
                self.source.rows,
                self.source.unit_rows,
                self.spec.row_code_bytes,
                self.config.memory_per_worker,
            )
        masked = self.config.source.invalid_rows == "mask" or (there is not None and there.masked)
        return CodeArray(
            self.generation.codes_path,
            self.source.rows,
            self.spec.columns,
            self.spec.code_dtype,
            shard_rows,
            masked,
            encode.store_error,
            self.source.ids_dtype,
        )

    def records(self) -> Records:
        """Return the records of the generation's codes, read once: every stage asks for them."""
        if self._records is None:
            self._records = self.finished_codes().records()
        return self._records

    def forget_records(self) -> None:
        """Have the records read anew, since shards were encoded."""
        self._records = None

    def finished_codes(self) -> CodeArray:
        """Return the description of the generation's codes as they are.

        Raises
        ------
        CodebookError
            If there are none.
        """
        codes = find_codes(self.generation.codes_path)
        if codes is None:
            path = self.generation.codes_path
            raise CodebookError(f"{path}: there are no codes; run the encode stage")
        return codes
