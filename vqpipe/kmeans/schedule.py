"""How many rounds there are, how many rows each takes, and how long rounds are remembered."""

from __future__ import annotations

from dataclasses import dataclass

from vqpipe.codebook import CodebookSpec
from vqpipe.shards import ceil_div

# Batches of 16 rows a codeword make every codeword's share of a batch worth taking.
BATCH_ROWS_PER_CODEWORD = 16
# Below this a round is all overhead.
LEAST_BATCH_ROWS = 8_192
MOST_SLICES = 64

# Fewer rounds leave codewords where the seeding put them, however many rows a round has.
LEAST_ROUNDS = 40
# The sample is walked through at most this often; the stop rule usually ends training before.
MOST_PASSES = 6

# The statistics remember this many rows a codeword while they forget: fewer is noise, more is inertia.
MEMORY_ROWS_PER_CODEWORD = 20
# After this share of the rounds nothing is forgotten any more and the noise averages out.
FORGETTING_SHARE = 0.7

# Held-out rows are looked at this often a pass: the stop rule compares whole passes.
CHECKS_PER_PASS = 4


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rounds of a training, fixed before it begins.

    Attributes
    ----------
    rows : int
        Rows of the training sample, walked through in order and over again.
    batch_rows : int
        Rows of a round.
    rounds : int
        Rounds at most.
    decay : float
        What the statistics are multiplied by before each forgetting round.
    """

    rows: int
    batch_rows: int
    rounds: int
    decay: float

    @property
    def forgetting_rounds(self) -> int:
        """Rounds that forget, if the stop rule does not end them sooner."""
        return round(FORGETTING_SHARE * self.rounds)

    @property
    def averaging_rounds(self) -> int:
        """Rounds that only average, after those that forget."""
        return self.rounds - self.forgetting_rounds

    @property
    def check_rounds(self) -> int:
        """Rounds between two looks at the held-out rows."""
        return max(1, ceil_div(self.rows, self.batch_rows) // CHECKS_PER_PASS)


def plan_schedule(
    spec: CodebookSpec, rows: int, batch_rows: int | None = None, rounds: int | None = None
) -> Schedule:
    """Return the schedule for a codebook and a sample.

    Exponential forgetting of the statistics first, plain averaging after: the first finds the place
    of the codewords, the second takes the noise of single batches out of them.

    Parameters
    ----------
    spec : CodebookSpec
    rows : int
        Rows of the training sample.
    batch_rows, rounds : int, optional
        What the config says, if it says anything.
    """
    wanted = batch_rows or max(LEAST_BATCH_ROWS, BATCH_ROWS_PER_CODEWORD * spec.k)
    batch = min(wanted, rows)
    most = rounds or max(LEAST_ROUNDS, ceil_div(MOST_PASSES * rows, batch))
    decay = max(0.0, 1.0 - batch / (MEMORY_ROWS_PER_CODEWORD * spec.k))
    return Schedule(rows, batch, most, decay)
