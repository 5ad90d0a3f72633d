"""The parameters of synthetic vectors, as a URI gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from vqpipe.config import SYNTHETIC_SCHEME
from vqpipe.errors import SourceError

_EXAMPLE = f"{SYNTHETIC_SCHEME}mixture?rows=1e9&dim=96&seed=0"

# More values than this would take a worker's memory for centres alone: 32 MiB of float32.
MAX_CENTRE_VALUES = 1 << 23
# Each cluster has its place in a table of 2^16 labels.
MAX_CLUSTERS = 1 << 16
# No embedding comes near this, and a block holds a row at least.
MAX_MIXTURE_DIM = 1 << 16
# Their bytes can still be counted in 64 bits.
MAX_ROWS = 10**12
MAX_SPREAD = 100.0

_DTYPES = ("float32", "uint8", "int8")
_WHOLE = re.compile(r"\d+(\.\d+)?([eE]\+?\d{1,3})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of clusters; the same parameters give the same rows, wherever they are computed.

    Attributes
    ----------
    dim : int
    seed : int
    clusters : int
        Clusters: the largest has about sqrt(clusters) times the rows of the smallest; their centres lie in
        about sqrt(clusters) groups, with a variance of 1 per dim, more in the first dims than in the last.
    spread : float
        Standard deviation of rows around their cluster's centre, that of the centres being 1.
    dtype : str
        ``float32``, ``uint8`` or ``int8``; integers are scaled to use their range.
    """

    dim: int
    seed: int = 0
    clusters: int = 4096
    spread: float = 0.5
    dtype: str = "float32"

    @property
    def uri(self) -> str:
        """All parameters but the rows, in one order: what tells this mixture from others."""
        return (
            f"{SYNTHETIC_SCHEME}mixture?dim={self.dim}&seed={self.seed}&clusters={self.clusters}"
            f"&spread={self.spread!r}&dtype={self.dtype}"
        )


_LIMITS: Final[dict[str, tuple[int, int]]] = {
    "rows": (1, MAX_ROWS),
    "dim": (1, MAX_MIXTURE_DIM),
    "seed": (0, 2**63 - 1),
    "clusters": (1, MAX_CLUSTERS),
}
PARAMETERS = (*_LIMITS, "spread", "dtype")


def parse_mixture(uri: str) -> tuple[Mixture, int]:
    """Read a URI such as ``synthetic:mixture?rows=1e9&dim=96&seed=0``.

    Returns
    -------
    mixture : Mixture
    rows : int

    Raises
    ------
    SourceError
        For another name, and for parameters that are unknown, given twice, missing or out of bounds.

    Examples
    --------
    >>> parse_mixture("synthetic:mixture?rows=1e3&dim=8&spread=0.7")
    (Mixture(dim=8, seed=0, clusters=4096, spread=0.7, dtype='float32'), 1000)
    """
    where = f"source {uri}"
    name, _, query = uri.partition("?")
    if name != f"{SYNTHETIC_SCHEME}mixture":
        raise SourceError(
            f"{where}: names no synthetic vectors; the one kind is a mixture: write {_EXAMPLE}"
        )
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise SourceError(
            f"{where}: {query!r} is no list of name=value joined by &; write {_EXAMPLE}"
        ) from None
    found: dict[str, Any] = {}
    for parameter, text in pairs:
        if parameter not in PARAMETERS:
            raise SourceError(
                f"{where}: there is no parameter {parameter!r}; known are {', '.join(PARAMETERS)}"
            )
        if parameter in found:
            raise SourceError(f"{where}: {parameter} stands twice and only one can hold; leave one")
        found[parameter] = _parse_value(where, parameter, text)
    for parameter in ("rows", "dim"):
        if parameter not in found:
            raise SourceError(f"{where}: {parameter} is missing; write {_EXAMPLE}")
    rows: int = found.pop("rows")
    mixture = Mixture(**found)
    if mixture.clusters * mixture.dim > MAX_CENTRE_VALUES:
        raise SourceError(
            f"{where}: {mixture.clusters} clusters of dim {mixture.dim} have "
            f"{mixture.clusters * mixture.dim} values, which every worker holds, and at most "
            f"{MAX_CENTRE_VALUES} are held; lower clusters to {MAX_CENTRE_VALUES // mixture.dim} or dim"
        )
    return mixture, rows


def lasting_uri(uri: str) -> str:
    """Return what tells a source from others: of a mixture all parameters but its rows, which may grow."""
    return parse_mixture(uri)[0].uri if uri.startswith(SYNTHETIC_SCHEME) else uri


def _parse_value(where: str, parameter: str, text: str) -> int | float | str:
    if parameter == "dtype":
        if text not in _DTYPES:
            raise SourceError(f"{where}: dtype {text!r} is not one of {', '.join(_DTYPES)}")
        return text
    if parameter == "spread":
        value = float(text) if _WHOLE.fullmatch(text) else -1.0
        if not 0 <= value <= MAX_SPREAD:
            raise SourceError(f"{where}: spread {text!r} is no number from 0 to {MAX_SPREAD}")
        return value
    least, most = _LIMITS[parameter]
    # Digits are taken as they are: a float would round a large seed.
    whole = int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None
    if whole is None and _WHOLE.fullmatch(text) and float(text).is_integer():
        whole = int(float(text))
    if whole is None or not least <= whole <= most:
        raise SourceError(
            f"{where}: {parameter} {text!r} is no whole number from {least} to {most}"
        )
    return whole
