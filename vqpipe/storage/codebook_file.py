"""``codebook.zarr``: a codebook, its route and its history in one Zarr group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from vqpipe.codebook import SURPLUS, Codebook, are_usable
from vqpipe.errors import CodebookError
from vqpipe.quantizer import Quantizer, Route
from vqpipe.storage.arrays import make_floats, make_group, open_group, read_floats


@dataclass(frozen=True, slots=True)
class CodebookFile:
    """What a ``codebook.zarr`` holds.

    Attributes
    ----------
    quantizer : Quantizer
    history : list of dict
        One entry a round of training; empty for a codebook that came from elsewhere.
    """

    quantizer: Quantizer
    history: list[dict[str, Any]]


def write_codebook(path: str, quantizer: Quantizer, history: Sequence[dict[str, Any]]) -> None:
    """Write a codebook; its digest, written last, says that it is all there."""
    codebook = quantizer.codebook
    group = make_group(path)
    arrays = {"centroids": codebook.centroids, "offset": codebook.offset}
    if codebook.rotation is not None:
        arrays["rotation"] = codebook.rotation
    for name, values in arrays.items():
        array = make_floats(group, name, values.shape, "float32")
        array[...] = values
    group.attrs.update(
        {
            "kind": codebook.kind,
            "metric": codebook.metric,
            "route": asdict(quantizer.route),
            "training_history": list(history),
            "digest": codebook.digest,
        }
    )


def write_route(path: str, route: Route) -> None:
    """Keep another assignment route with a codebook: the attributes are written anew, whole."""
    open_group(path, writable=True).attrs.update({"route": asdict(route)})


def read_codebook(path: str) -> CodebookFile:
    """Read a ``codebook.zarr`` and check it against its digest.

    Raises
    ------
    CodebookError
        If it is missing, incomplete or not what its digest says.
    """
    try:
        group = open_group(path)
        facts = dict(group.attrs)
        names = ("offset", "centroids", "rotation")
        arrays = [read_floats(group, name) for name in names if name in group]
        codebook = Codebook(facts["kind"], facts["metric"], *arrays)  # type: ignore[arg-type]
        route = Route(**facts["route"])  # type: ignore[arg-type]
        history: list[Any] = list(facts["training_history"])  # type: ignore[arg-type]
    except CodebookError as error:
        raise CodebookError(f"codebook {path}: {error}") from error
    except Exception as error:
        raise CodebookError(
            f"codebook {path}: is damaged, incomplete, or no codebook.zarr that vqpipe wrote "
            f"({type(error).__name__}); restore it, or learn it again"
        ) from error
    if not all(map(are_usable, arrays)):
        raise CodebookError(
            f"codebook {path}: has values that are NaN or beyond {SURPLUS:g}, so no distance to them can be told; "
            "restore it, or learn it again"
        )
    if codebook.digest != facts.get("digest"):
        raise CodebookError(
            f"codebook {path}: its contents have the digest {codebook.digest[:12]} but it is marked "
            f"{str(facts.get('digest'))[:12]}: it was damaged or never finished; restore it, or learn "
            "it again"
        )
    return CodebookFile(Quantizer(codebook, route), history)


@lru_cache(maxsize=2)
def cached_quantizer(path: str, digest: str) -> Quantizer:
    """Return a codebook's quantizer, read once per process and digest.

    Raises
    ------
    CodebookError
        If the file does not hold the codebook of that digest.
    """
    quantizer = read_codebook(path).quantizer
    if quantizer.codebook.digest != digest:
        raise CodebookError(f"codebook {path}: is not the one of digest {digest[:12]}; run again")
    return quantizer
