"""How many rows are drawn: for training, kept apart to measure on, and to be searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqpipe.config import Config
from vqpipe.errors import ConfigError
from vqpipe.sources import VectorArray

MOST_HELDOUT_ROWS = 10_000
MOST_DATABASE_ROWS = 1_000_000
TRAIN_ROWS_PER_CODEWORD = 1_000
LEAST_TRAIN_ROWS = 500_000

# With fewer training rows a codeword than this, none are spared for measuring.
LEAST_ROWS_PER_CODEWORD = 4


@dataclass(frozen=True, slots=True)
class SampleSizes:
    """Rows of the three sets of a sample."""

    train: int
    heldout: int
    database: int


def plan_sample(config: Config, rows: int, k: int) -> SampleSizes:
    """Return how many rows to draw of a source of ``rows`` rows.

    Raises
    ------
    ConfigError
        If the config asks for more rows than there are.
    """
    heldout = min(rows // 10, MOST_HELDOUT_ROWS)
    if rows - heldout < LEAST_ROWS_PER_CODEWORD * k:
        heldout = 0
    if config.train.heldout_rows != "auto":
        heldout = config.train.heldout_rows
    train = min(rows - heldout, max(TRAIN_ROWS_PER_CODEWORD * k, LEAST_TRAIN_ROWS))
    if config.train.rows != "auto":
        train = config.train.rows
    if heldout >= rows:
        raise ConfigError(
            f"train.heldout_rows: {heldout:,} rows are to be kept apart and the source has {rows:,}, so none would be "
            "left to learn from; lower it or write auto"
        )
    if train + heldout > rows:
        raise ConfigError(
            f"train.rows + train.heldout_rows: {train:,} + {heldout:,} rows are wanted, each row once, and the "
            f"source has {rows:,}; lower them or write auto"
        )
    return SampleSizes(train, heldout, min(rows, MOST_DATABASE_ROWS))


def sample_settings(config: Config, source: VectorArray, rows: int, k: int) -> dict[str, Any]:
    """Return what the sample depends on, for a source that had ``rows`` rows when it was drawn."""
    sizes = plan_sample(config, rows, k)
    return {
        "uri": list(source.uri) if isinstance(source.uri, tuple) else source.uri,
        "key": source.key,
        "format": source.format,
        "metric": config.source.metric,
        "seed": config.seed,
        "train rows": sizes.train,
        "heldout rows": sizes.heldout,
        "dim": source.dim,
        "dtype": source.dtype,
        "rows": rows,
    }
