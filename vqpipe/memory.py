"""What a run will take: memory of one worker per stage, bytes on the disk. Planned with integers alone."""

from __future__ import annotations

from dataclasses import dataclass

from vqpipe.codebook import CodebookSpec
from vqpipe.errors import LimitError

# A worker that has imported what it needs and done nothing yet, with room for the allocator's slack.
PROCESS_BYTES = 400_000_000

# Decoding a chunk holds its stored and its decoded bytes for a moment.
READ_COPIES = 2

# What decoding a file takes beside the rows that come of it.
CONVERTING_BYTES = 100_000_000

# Codes are decoded, and searched, this many rows at a time.
DECODED_ROWS = 4096
SEARCH_BLOCK_ROWS = 2048

FLOAT32_BYTES = 4
FLOAT64_BYTES = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that memory depends on.

    Attributes
    ----------
    dim : int
    row_bytes, chunk_bytes : int
        Of the source, as stored.
    spec : CodebookSpec
    shard_rows : int
        Rows of a code shard.
    batch_rows, slice_rows : int
        Rows of the largest training batch and of one of its slices.
    window_rows : int
        Rows that are encoded at a time.
    sample_shard_rows : int
        Rows of the largest target shard of the sample.
    scatter_rows : int
        Most rows that one scatter task may keep.
    listed_rows : int
        Drawn rows that a worker lists, each with its place.
    queries : int
    places : int
        Nearest rows that are kept per query.
    beam_bytes, beam : int
        What a search of residual stages looks up, and a block of its scores; choices that it keeps.
    converted_shard_bytes : int
        Rows of a shard that a source is converted to.
    ids_bytes : int
        Ids that are held together.
    """

    dim: int
    row_bytes: int
    chunk_bytes: int
    spec: CodebookSpec
    shard_rows: int
    batch_rows: int
    slice_rows: int
    window_rows: int
    sample_shard_rows: int
    scatter_rows: int
    listed_rows: int
    queries: int
    places: int
    beam_bytes: int = 0
    beam: int = 1
    converted_shard_bytes: int = 0
    ids_bytes: int = 0

    @property
    def codebook_bytes(self) -> int:
        """Bytes of the centroids in float32."""
        return codebook_bytes(self.spec, self.dim)

    @property
    def copies_left(self) -> int:
        """Copies of a training row that is rotated; of what all in a beam leave, with their parts summed up."""
        return 2 if self.spec.stages == 1 else 4 * self.beam

    @property
    def rotation_bytes(self) -> int:
        """Bytes of the rotation in float32."""
        return self.dim * self.dim * FLOAT32_BYTES if self.spec.kind == "OPQ" else 0


def worker_bytes(sizes: Sizes) -> dict[str, int]:
    """Return the peak memory of a worker, in bytes, per stage.

    A codebook is held three times: as it is, moved by the offset, and laid out for the products; residual
    stages once more, without surplus codewords. In training all stages but the last are held beside them.
    """
    copies = 4 if sizes.spec.stages > 1 else 3
    piece = max(sizes.chunk_bytes * READ_COPIES, 16 << 20)
    row_floats = sizes.dim * FLOAT32_BYTES
    codebook = copies * sizes.codebook_bytes + 2 * sizes.rotation_bytes + sizes.beam_bytes
    stages_before = codebook if sizes.spec.stages > 1 else 0
    # Placed by another product, or what is left of it.
    moved = row_floats if sizes.spec.kind in ("OPQ", "RQ") else 0
    # A row as read, as float32, centred, and in float64 for its error.
    working = sizes.window_rows * (sizes.row_bytes + 3 * row_floats + moved)
    shard = sizes.shard_rows * (2 * sizes.spec.row_code_bytes + 1 + FLOAT64_BYTES)
    search = search_bytes(sizes.queries, sizes.places, sizes.dim)
    decoded = DECODED_ROWS * 3 * row_floats
    database = sizes.sample_shard_rows * (sizes.row_bytes + 2 * row_floats) if sizes.queries else 0
    return {
        # Twice a listed row and its place: they are sorted once.
        "sample": PROCESS_BYTES
        + piece
        + 4 * sizes.listed_rows * FLOAT64_BYTES
        + max(
            3 * sizes.scatter_rows * (sizes.row_bytes + 16),
            sizes.sample_shard_rows * (3 * sizes.row_bytes + 2 * sizes.dim * FLOAT64_BYTES),
        ),
        # For the rows that judge, the codebook is laid out once more.
        "train": PROCESS_BYTES
        + piece
        + codebook
        + sizes.codebook_bytes
        + max(
            2 * tally_bytes(sizes.spec, sizes.dim, sizes.slice_rows)
            + 3 * tally_bytes(sizes.spec, sizes.dim, sizes.batch_rows),
            5 * refining_bytes(sizes.spec, sizes.dim),
        )
        + stages_before
        # The products that a rotation follows from: two sums of them, one to come, and what solves them.
        + 16 * sizes.rotation_bytes
        + sizes.slice_rows * (sizes.row_bytes + 4 * row_floats + sizes.copies_left * moved),
        # The rows, their chunks as they are stored, and the shard that these make; pages, and what they decode to.
        "ingest": PROCESS_BYTES
        + 4 * sizes.converted_shard_bytes
        + CONVERTING_BYTES
        + 2 * sizes.ids_bytes,
        "encode": PROCESS_BYTES + piece + codebook + working + shard + 2 * sizes.ids_bytes,
        "evaluate": PROCESS_BYTES + codebook + shard + search + max(database, decoded),
        "export": PROCESS_BYTES + sizes.codebook_bytes + 3 * shard,
    }


def search_bytes(queries: int, places: int, dim: int) -> int:
    """Return the memory that a search of so many queries, for so many rows each, takes beside the rows."""
    # A block of distances, candidates as many as that if all are equal, and the lists they enter.
    searched = SEARCH_BLOCK_ROWS * (2 * FLOAT32_BYTES + 6 * FLOAT64_BYTES)
    return queries * (searched + places * 4 * FLOAT64_BYTES + dim * FLOAT32_BYTES)


def codebook_bytes(spec: CodebookSpec, dim: int) -> int:
    """Return the bytes of the centroids in float32."""
    return spec.stages * spec.k * dim * FLOAT32_BYTES


def tally_bytes(spec: CodebookSpec, dim: int, rows: int) -> int:
    """Return the most that the tally of so many rows takes: it holds touched codewords alone.

    Of each the sums in float64, count, error and place.
    """
    return min(spec.k, rows) * (dim + 3 * spec.m) * FLOAT64_BYTES


def refining_bytes(spec: CodebookSpec, dim: int) -> int:
    """Return what the tally of all residual stages together takes; 0 of a single one, which is not refined."""
    return spec.stages * tally_bytes(spec, dim, spec.k) if spec.stages > 1 else 0


def check_memory(needed: dict[str, int], allowed_bytes: int) -> None:
    """Refuse a plan of which a stage needs more memory than a worker has.

    Raises
    ------
    LimitError
        With both numbers and what to change.
    """
    if allowed_bytes <= PROCESS_BYTES:
        raise LimitError(
            f"memory_per_worker: {_size(allowed_bytes)} are allowed and a worker's process alone needs "
            f"{_size(PROCESS_BYTES)}; raise memory_per_worker"
        )
    stage = max(needed, key=lambda name: needed[name])
    if needed[stage] > allowed_bytes:
        raise LimitError(
            f"memory_per_worker: {stage} needs {_size(needed[stage])} on a worker and "
            f"{_size(allowed_bytes)} are allowed; raise memory_per_worker, or lower encode.shard_rows, "
            "train.batch_rows or the codebook's size"
        )


def check_chunk(source: str, chunk_bytes: int, chunk_rows: int, allowed_bytes: int) -> None:
    """Refuse a source of which one decoded chunk takes more than a quarter of a worker's memory.

    Raises
    ------
    LimitError
    """
    if chunk_bytes > allowed_bytes // 4:
        raise LimitError(
            f"source {source}: one chunk of {chunk_rows:,} rows takes {_size(chunk_bytes)} once decoded, more than a "
            f"quarter of memory_per_worker ({_size(allowed_bytes)}); rechunk the source (about 4 MB a "
            "chunk serves best) or raise memory_per_worker"
        )


def check_disk(needed_bytes: int, free_bytes: int, where: str) -> None:
    """Refuse a plan that does not fit the disk.

    Raises
    ------
    LimitError
    """
    if needed_bytes > free_bytes:
        raise LimitError(
            f"output {where}: the run writes up to {_size(needed_bytes)} and {_size(free_bytes)} are "
            "free; make room or name an output on another disk"
        )


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1_000_000 else f"{count / 1e3:,.0f} kB"
