"""Which shards must be encoded: told by their records, their stored sizes and the state of the source."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from vqpipe.pipeline.run import Run
from vqpipe.pipeline.unconverted import find_unconverted
from vqpipe.shards import Shard
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.objects.view import viewing

# So many shards are named in a message.
NAMED_SHARDS = 5


@dataclass(frozen=True, slots=True)
class Pending:
    """What an encode stage has to do.

    Attributes
    ----------
    shards : tuple of Shard
        To encode: without a record, from objects that changed, or damaged.
    doubtful : tuple of Shard
        Done, but the file that they share with others was written since: their bytes tell.
    damaged : tuple of Shard
        Those of `shards` that were done and are no longer whole.
    """

    shards: tuple[Shard, ...]
    doubtful: tuple[Shard, ...] = ()
    damaged: tuple[Shard, ...] = ()

    @property
    def count(self) -> int:
        """Shards to look at."""
        return len(self.shards) + len(self.doubtful)

    @property
    def rows(self) -> int:
        """Their rows."""
        return sum(shard.rows for shard in (*self.shards, *self.doubtful))


@viewing()
def find_pending(run: Run, codes: CodeArray) -> Pending:
    """Compare every shard's record with its codes and with the source. Reads no row."""
    if find_codes(codes.path) is None or codes.codebook_digest() != run.digest:
        return Pending(tuple(codes.shards))
    records, sizes = run.records(), codes.stored_sizes()
    unconverted = find_unconverted(run)
    ends = [one.stop for one in unconverted]
    pending: list[Shard] = []
    doubtful: list[Shard] = []
    damaged: list[Shard] = []
    for shard in codes.shards:
        if shard.index in records.damaged or (
            records.is_done(shard.index) and sizes[shard.index] != records.stored_bytes[shard.index]
        ):
            damaged.append(shard)
            pending.append(shard)
        elif not records.is_done(shard.index):
            pending.append(shard)
        elif _meet(unconverted, ends, shard):
            doubtful.append(shard)
        elif records.stamp(shard.index) != run.source.stamp(shard.start, shard.stop):
            shared = run.source.shares_objects(shard.start, shard.stop)
            (doubtful if shared else pending).append(shard)
    return Pending(tuple(pending), tuple(doubtful), tuple(damaged))


def _meet(stretches: tuple[Shard, ...], ends: list[int], shard: Shard) -> bool:
    """Say whether a shard has rows in common with any of the stretches, which are in order and end at ``ends``."""
    place = bisect_right(ends, shard.start)
    return place < len(ends) and stretches[place].start < shard.stop


def name_shards(shards: tuple[Shard, ...] | list[Shard]) -> str:
    """Return shards and their rows in words; of many, the first few.

    Examples
    --------
    >>> name_shards([Shard(0, 0, 1000)])
    'shard 0 (rows 0 to 1,000)'
    """
    named = [
        f"shard {shard.index} (rows {shard.start:,} to {shard.stop:,})"
        for shard in shards[:NAMED_SHARDS]
    ]
    more = f" and {len(shards) - NAMED_SHARDS:,} more" if len(shards) > NAMED_SHARDS else ""
    return ", ".join(named) + more
