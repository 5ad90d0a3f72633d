"""How many rounds there are, how many rows each takes, and how long rounds are remembered."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from vqpipe.codebook import CodebookSpec
from vqpipe.shards import ceil_div

# Rows a codeword that the statistics remember: at first few, so that codewords move far and the noise of
# single batches shakes them out of poor places; then more and more, so that the noise averages out. The
# square root of the rows seen ended lowest, or within 0.1% of it, for 90 to 800 rows a codeword and 8 to
# 784 dims, where a constant memory of 20 costs up to 1% more.
LEAST_MEMORY = 10.0
MEMORY_GROWTH = 2.0

# A batch is this share of what is remembered: smaller ones gain nothing but rounds.
BATCH_SHARE = 0.4
# Below this a round is all overhead.
LEAST_BATCH_ROWS = 8_192
MOST_SLICES = 64

# The last rounds, with this share of the rows, forget nothing, and move no codeword for its being starved.
AVERAGING_SHARE = 0.2

# The sample is walked through at most this often; the stop rule may end training before. With the held-out
# looks it makes four passes: where FAISS's 25 over the same rows have ended, or lower.
MOST_PASSES = 3.6
# Fewer rounds leave codewords where the seeding put them, however many rows a round has.
LEAST_ROUNDS = 24

# Held-out rows are looked at this often a pass: the stop rule compares whole passes.
CHECKS_PER_PASS = 2


@dataclass(frozen=True)
class Schedule:
    """The rounds of a training, fixed before it begins.

    Attributes
    ----------
    rows : int
        Rows of the training sample, walked through in order and over again.
    k : int
        Codewords of a column.
    batches : tuple of int
        Rows of each round.
    known_rows : int
        Rows that an earlier codebook has seen, where training starts from one.
    """

    rows: int
    k: int
    batches: tuple[int, ...]
    known_rows: int = 0

    @property
    def rounds(self) -> int:
        """Rounds at most."""
        return len(self.batches)

    @property
    def largest_batch(self) -> int:
        """Rows of the largest round."""
        return max(self.batches)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Rows seen before each round, and after the last."""
        return (0, *accumulate(self.batches))

    @cached_property
    def forgetting_rounds(self) -> int:
        """Rounds that forget, if the stop rule does not end them sooner: at least one."""
        return max(1, bisect_left(self.starts, (1 - AVERAGING_SHARE) * self.starts[-1]))

    def decay(self, taken: int) -> float:
        """Return what the statistics are multiplied by before the next round, after so many.

        No more than one pass is remembered: a row would count twice.
        """
        memory = memory_rows(self.k, self.known_rows + self.starts[taken])
        return max(0.0, 1.0 - self.batches[taken] / min(memory, self.rows))

    def averaging_decay(self, taken: int) -> float:
        """Return the same for a round that averages: a whole pass is remembered."""
        return 1.0 - self.batches[taken] / self.rows

    def averaging_ends(self, averaging_from: int) -> int:
        """Return the round with which averaging ends, if it began after round ``averaging_from``."""
        wanted = self.starts[averaging_from] / (1 - AVERAGING_SHARE)
        return min(self.rounds, max(averaging_from + 1, bisect_left(self.starts, wanted)))

    def looks_after(self, taken: int) -> bool:
        """Say whether held-out rows are looked at after so many rounds."""
        stride = max(1, self.rows // CHECKS_PER_PASS)
        crossed = self.starts[taken] // stride > self.starts[taken - 1] // stride
        return taken > 0 and (crossed or taken == self.rounds)


def memory_rows(k: int, seen_rows: int) -> float:
    """Return how many rows the statistics of ``k`` codewords remember after so many seen."""
    return k * max(LEAST_MEMORY, MEMORY_GROWTH * math.sqrt(seen_rows / k))


def plan_schedule(
    spec: CodebookSpec,
    rows: int,
    batch_rows: int | None = None,
    rounds: int | None = None,
    known_rows: int = 0,
) -> Schedule:
    """Return the schedule for a codebook and a sample.

    Exponential forgetting of the statistics, ever slower, and a short stretch that forgets nothing:
    the first finds the place of the codewords, the second takes the noise of single batches out.

    Parameters
    ----------
    spec : CodebookSpec
    rows : int
        Rows of the training sample.
    batch_rows, rounds : int, optional
        What the config says, if it says anything.
    known_rows : int
        Rows that the codebook to start from has seen: its statistics are as slow as it left them.

    Examples
    --------
    >>> schedule = plan_schedule(CodebookSpec("KM", 1, 1024), 190_000)
    >>> schedule.rounds, schedule.batches[0], schedule.largest_batch
    (53, 8192, 20658)
    """
    least = min(rows, max(LEAST_BATCH_ROWS, round(BATCH_SHARE * LEAST_MEMORY * spec.k)))
    wanted = max(ceil_div(round(10 * MOST_PASSES) * rows, 10), LEAST_ROUNDS * least)
    batches: list[int] = []
    seen = 0
    while len(batches) < rounds if rounds else seen < wanted:
        grown = round(BATCH_SHARE * memory_rows(spec.k, known_rows + seen))
        batch = min(rows, batch_rows or max(least, grown))
        if not rounds:
            batch = min(batch, wanted - seen)
        batches.append(batch)
        seen += batch
    return Schedule(rows, spec.k, tuple(batches), known_rows)
