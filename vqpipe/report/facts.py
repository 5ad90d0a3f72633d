"""What the report tells, and how sizes and durations are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReportFacts:
    """What the page tells, in plain types.

    Attributes
    ----------
    name, generation : str
        The config's name and the generation's, e.g. ``v1``.
    rows, dim : int
    source, source_dtype : str
        Where the vectors are, and their stored dtype.
    codebook, codebook_digest, metric, route : str
        E.g. ``PQ16x8``, SHA-256 in hex, ``l2``, and the assignment route's name.
    bytes_in, bytes_codes : int
        The vectors and the codes.
    evaluation : mapping
        ``distortion``, ``relative_distortion``, ``distortion_rows`` (``heldout``, ``train`` or
        ``all``), ``in_sample``, per column ``perplexity``, ``dead``, ``starved``, ``imbalance``, ``surplus``,
        ``recall`` (share by k, or None), ``database_rows``, ``queries``. What is missing or None
        is left out of the page, with a word why.
    code_counts : sequence of sequences of int
        Rows per codeword, for each column: as many counts as the column has codewords.
    history : sequence of mappings
        Per round ``round``, ``rows_seen``, ``training``, ``heldout`` (may be None), ``dead``,
        ``moved``.
    config_text : str
        The config as YAML.
    versions : mapping of str to str
        Of Python and the libraries.
    files : sequence of (path, bytes, what it is)
        Paths are relative to the output folder.
    seconds : mapping of str to float
        Per stage.
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
    codebook_digest: str
    metric: str
    route: str
    bytes_in: int
    bytes_codes: int
    evaluation: Mapping[str, Any]
    code_counts: Sequence[Sequence[int]]
    history: Sequence[Mapping[str, Any]]
    config_text: str
    versions: Mapping[str, str]
    files: Sequence[tuple[str, int, str]]
    seconds: Mapping[str, float]
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
