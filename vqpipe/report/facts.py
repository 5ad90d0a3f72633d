"""What the report tells, and how sizes and durations are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vqpipe.dtypes import Int64


@dataclass(frozen=True, eq=False)
class ReportFacts:
    """What the page tells, in plain types.

    Attributes
    ----------
    name, generation : str
        The config's name and the generation's, e.g. ``v1``.
    rows, dim : int
    source, source_dtype : str
        Where the vectors are, and their stored dtype.
    codebook, metric, route : str
        E.g. ``PQ16x8``, ``l2``, and the assignment route's name.
    code_dtype : str
        Of the codes as they are stored.
    bytes_in, bytes_codes : int
        The vectors and the codes.
    evaluation : mapping
        ``distortion``, ``relative_distortion``, ``distortion_rows`` (``heldout``, ``train`` or
        ``all``), ``in_sample``, per column ``perplexity``, ``dead``, ``starved``, ``imbalance``, ``surplus``,
        ``recall`` (share by k, or None), ``database_rows``, ``queries``, ``error_histogram``, ``drift``,
        ``increments``. What is missing or None is left out of the page, with a word why.
    code_counts : int64 array of shape (columns, k)
        Rows per codeword.
    history : sequence of mappings
        Per round ``round``, ``rows_seen``, ``training``, ``heldout`` (may be None), ``dead``,
        ``moved``.
    pace : mapping or None
        How fast shards were encoded, when they last were: what `measure_pace` returns.
    config_text : str
        The config as YAML.
    versions, digests : mapping of str to str
        Of Python and the libraries; of the codebook, the stages and what was exported.
    files : sequence of (path, bytes, what it is)
        Paths are relative to the output folder. Bytes are None of what later runs write again.
    seconds : mapping of str to float
        Per stage that this run ran.
    stage_rows : mapping of str to int
        Rows that such a stage went through, where that is known.
    drift_allowed : float or None
        The ratio of distortions past which a run warns.
    masked_rows : int
        Rows without a nearest codeword.
    warnings : sequence of str
    output : str
        The output folder, as the lines that load it should name it.
    """

    name: str
    generation: str
    rows: int
    dim: int
    source: str
    source_dtype: str
    codebook: str
    metric: str
    route: str
    code_dtype: str
    bytes_in: int
    bytes_codes: int
    evaluation: Mapping[str, Any]
    code_counts: Int64
    history: Sequence[Mapping[str, Any]]
    pace: Mapping[str, Any] | None
    config_text: str
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    files: Sequence[tuple[str, int | None, str]]
    seconds: Mapping[str, float]
    stage_rows: Mapping[str, int]
    drift_allowed: float | None = None
    masked_rows: int = 0
    warnings: Sequence[str] = ()
    output: str = "OUTPUT"


def format_bytes(size: int) -> str:
    """Return a size in binary units.

    Examples
    --------
    >>> format_bytes(512), format_bytes(3 << 20)
    ('512 B', '3.0 MiB')
    """
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:,.1f} PiB"


def format_seconds(seconds: float) -> str:
    """Return a duration as people read it.

    Examples
    --------
    >>> format_seconds(0.25), format_seconds(75), format_seconds(7260)
    ('0.25 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def format_number(value: float) -> str:
    """Return a figure with as many digits as people read.

    Examples
    --------
    >>> format_number(0.140766), format_number(11284.93), format_number(2.5e-9)
    ('0.1408', '11,285', '2.5e-09')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def format_share(share: float) -> str:
    """Return a share in per cent; what is not all is not called all.

    Examples
    --------
    >>> format_share(0.1538), format_share(1.0), format_share(0.9999)
    ('15.4%', '100%', '99.9%')
    """
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f}%"
    return f"{min(percent, 99.9) if percent < 100 else percent:.1f}%"
