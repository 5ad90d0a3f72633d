"""Checking what an output holds beside its shards: codebooks, checkpoints, figures, exports, samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from vqpipe.config import Config
from vqpipe.errors import VqpipeError
from vqpipe.kmeans.state import TrainState
from vqpipe.pipeline.drift import BASELINE_FILE, check_baseline
from vqpipe.pipeline.generation import CURRENT_FILE, EVALUATION_FILE, Generation
from vqpipe.pipeline.train import CHECKPOINT_FILE
from vqpipe.progress import Progress
from vqpipe.runner import Runner
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.code_use import read_use
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.folder import Folder
from vqpipe.storage.samples import SETS, find_sample
from vqpipe.storage.vectors import VECTORS_NAME, find_vectors
from vqpipe.tasks.export import Exported
from vqpipe.tasks.verify import ExportedFile, SamplePiece, verify_export, verify_sample
from vqpipe.tasks.verify_vectors import VectorsJob, verify_vectors
from vqpipe.urls import join, relative


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written.

    Attributes
    ----------
    what : str
        ``shard``, ``vectors``, ``codes``, ``summary``, ``codebook``, ``sample``, ``checkpoint``, ``evaluation``,
        ``baseline``, ``export``, ``generation`` or ``current``.
    path : str
        Relative to the output.
    why : str
    shard, start, stop : int or None
        Of a shard: its number and rows.
    """

    what: str
    path: str
    why: str
    shard: int | None = None
    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        rows = "" if self.shard is None else f", shard {self.shard} (rows {self.start:,} to {self.stop:,})"  # fmt: skip
        return f"{self.path}{rows}: {self.why}"


@dataclass
class Check:
    """What a verification works with, and what it has seen so far."""

    output: Folder
    config: Config | None
    runner: Runner
    progress: Progress
    rows: int
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shards: int = 0
    rows_compared: int = 0

    def found(self, what: str, path: str, why: str, shard: Shard | None = None) -> None:
        """Keep a finding; the path is said once."""
        where = relative(path, self.output.path)
        place = {} if shard is None else {"shard": shard.index, "start": shard.start, "stop": shard.stop}  # fmt: skip
        self.findings.append(Finding(what, where, why.replace(f"{path}: ", "", 1), **place))


def check_current(check: Check, names: list[str]) -> None:
    """Check that ``current`` names a generation."""
    if check.output.has(CURRENT_FILE):
        name = check.output.read_bytes(CURRENT_FILE).decode("utf-8", "replace").strip()
        if name not in names:
            path = check.output.file(CURRENT_FILE)
            check.found("current", path, f"names {name!r}, which is no generation")


def check_codebook(check: Check, generation: Generation) -> str | None:
    """Check the codebook and return its digest; None where it cannot be used."""
    wanted = generation.stage("train").get("digest")
    if wanted is None:
        return None
    try:
        digest = read_codebook(generation.codebook_path).quantizer.codebook.digest
    except VqpipeError as error:
        check.found("codebook", generation.codebook_path, str(error))
        return None
    if digest != wanted:
        why = f"has the digest {digest[:12]}, {str(wanted)[:12]} was learnt"
        check.found("codebook", generation.codebook_path, why)
        return None
    return digest


def check_checkpoint(check: Check, generation: Generation) -> None:
    """Check that an interrupted training can go on."""
    if not generation.folder.has(CHECKPOINT_FILE):
        return
    path = generation.folder.file(CHECKPOINT_FILE)
    try:
        with generation.folder.reading(CHECKPOINT_FILE) as file:
            TrainState.read(file)
    except Exception as error:
        # Damaged bytes make NumPy's and zip's readers raise whatever they meet first.
        check.found("checkpoint", path, f"cannot be read ({error})")


def check_exports(check: Check, generation: Generation) -> None:
    """Check exported files by the sizes and hashes that were written down."""
    files = [
        ExportedFile(generation.folder.file(name), Exported(**wanted))
        for name, wanted in generation.stage("export").get("files", {}).items()
    ]
    for outcome in check.runner.map(verify_export, files, None):
        if outcome.value():
            check.found("export", outcome.item.path, outcome.value())


def check_figures(check: Check, generation: Generation, codes: CodeArray | None) -> None:
    """Check the figures and the counts of codes that they were taken from."""
    why = check_baseline(generation.folder)
    if why:
        check.found("baseline", generation.folder.file(BASELINE_FILE), why)
    if generation.stage("evaluate").get("state") != "done":
        return
    path = generation.folder.file(EVALUATION_FILE)
    try:
        if not generation.folder.has(EVALUATION_FILE):
            check.found("evaluation", path, "is gone")
            return
        generation.folder.read_json(EVALUATION_FILE)
        if codes is not None:
            path = join(codes.path, "code_counts")
            read_use(codes.path)
    except VqpipeError as error:
        check.found("evaluation", path, str(error))


def check_vectors(check: Check, generations: list[Generation]) -> None:
    """Read the vectors that ingest converted, as the newest generation's source has them."""
    if not generations or not generations[0].facts["source"].get("converted"):
        return
    path = check.output.file(VECTORS_NAME)
    vectors = find_vectors(path)
    if vectors is None:
        # Codes need them no more; the next run makes them again.
        check.notes.append(f"{VECTORS_NAME}: is not there, or cannot be read")
        return
    try:
        records = vectors.records()
    except VqpipeError as error:
        check.found("vectors", path, str(error))
        return
    shards = [shard for shard in vectors.shards if records.is_done(shard.index)]
    check.progress.begin("verify", sum(shard.rows for shard in shards), "converted rows")
    faults = dict.fromkeys(records.damaged, "its record fails its checksum")
    for outcome in check.runner.map(verify_vectors, shards, VectorsJob(vectors, records)):
        faults[outcome.item.index] = outcome.value()
        check.progress.advance(outcome.item.rows)
    for shard in vectors.shards:
        if faults.get(shard.index):
            check.found("vectors", path, faults[shard.index], shard)


def check_samples(check: Check, generations: list[Generation]) -> None:
    """Read the samples that the generations refer to."""
    rows_of = {
        generation.facts["fingerprints"]["sample"][:12]: int(generation.facts["source"]["rows"])
        for generation in generations
    }
    folder = check.output / "samples"
    for name, rows in rows_of.items():
        path = folder.file(f"{name}.zarr")
        pieces: list[SamplePiece] = []
        try:
            pieces = list(_sample_pieces(path))
        except VqpipeError as error:
            check.found("sample", path, str(error))
        check.progress.begin("verify", len(pieces), "pieces of the sample")
        faults = {}
        for outcome in check.runner.map(verify_sample, pieces, rows):
            faults[outcome.item.name, outcome.item.start] = outcome.value()
            check.progress.advance(1)
        for piece in pieces:
            why = faults[piece.name, piece.start]
            if why:
                check.found("sample", path, why)


def _sample_pieces(path: str) -> Iterator[SamplePiece]:
    sample = find_sample(path)
    if sample is None:
        return
    for name in SETS:
        for shard in plan_shards(sample.rows[name], sample.shard_rows(name)):
            yield SamplePiece(sample, name, shard.start, shard.stop)
