"""One sentence of advice from the figures of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# A list of ten that holds the nearest row nine times of ten is what is worth ranking again by the vectors themselves.
GOOD_RECALL = 0.9

# Codebooks of the same bits are compared in words where one leaves so much less: less is chance.
_MUCH_LESS = 0.02


def recall_place(recalls: Sequence[Mapping[str, float] | None]) -> str | None:
    """Return the k, of those that were asked for, which is nearest to 10; None where there is no recall.

    Examples
    --------
    >>> recall_place([None, {"1": 0.4, "10": 0.9, "100": 1.0}])
    '10'
    """
    there = [recall for recall in recalls if recall]
    return min(there[0], key=lambda k: (abs(int(k) - 10), int(k))) if there else None


def advise(codebooks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return which codebook to take, and why, in one sentence: what follows from the figures.

    Parameters
    ----------
    codebooks : sequence of mappings
        By rising bits; each with ``codebook``, ``bytes_per_vector`` and ``vqpipe`` (``relative_distortion``,
        ``distortion``, ``recall``).

    Examples
    --------
    >>> one = {"codebook": "PQ8x8", "bytes_per_vector": 8.0, "bits_per_vector": 64}
    >>> one["vqpipe"] = {"relative_distortion": 0.3, "distortion": 3.0, "recall": {"10": 0.93}}
    >>> advise([one])
    ('PQ8x8', 'PQ8x8 is the smallest with recall@10 of at least 0.9 (0.930, in 8 bytes a vector).')
    """
    place = recall_place([one["vqpipe"]["recall"] for one in codebooks])
    best, said = _by_distortion(codebooks) if place is None else _by_recall(codebooks, place)
    return best, f"{said}{_same_bits(codebooks)}."


def _by_recall(codebooks: Sequence[Mapping[str, Any]], place: str) -> tuple[str, str]:
    searched = [one for one in codebooks if one["vqpipe"]["recall"]]
    good = [one for one in searched if one["vqpipe"]["recall"][place] >= GOOD_RECALL]
    if not good:
        best = max(searched, key=lambda one: float(one["vqpipe"]["recall"][place]))
        return str(best["codebook"]), (
            f"None reaches recall@{place} of {GOOD_RECALL}; {best['codebook']} comes nearest "
            f"({best['vqpipe']['recall'][place]:.3f}, in {best['bytes_per_vector']:g} bytes a vector): try more bytes"
        )
    smallest = min(one["bits_per_vector"] for one in good)
    best = max(
        (one for one in good if one["bits_per_vector"] == smallest),
        key=lambda one: float(one["vqpipe"]["recall"][place]),
    )
    return str(best["codebook"]), (
        f"{best['codebook']} is the smallest with recall@{place} of at least {GOOD_RECALL} "
        f"({best['vqpipe']['recall'][place]:.3f}, in {best['bytes_per_vector']:g} bytes a vector)"
    )


def _by_distortion(codebooks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    best = min(codebooks, key=lambda one: float(one["vqpipe"]["distortion"]))
    share = best["vqpipe"]["relative_distortion"]
    of_variance = "" if share is None else f" ({share:.1%} of the variance)"
    return str(best["codebook"]), (
        f"{best['codebook']} leaves the least distortion{of_variance}, in {best['bits_per_vector']:,} bits a vector; "
        "no recall was measured to choose by"
    )


def _same_bits(codebooks: Sequence[Mapping[str, Any]]) -> str:
    """Return what the best of several codebooks of the same bits spares, where that is much."""
    by_bits: dict[int, list[Mapping[str, Any]]] = {}
    for one in codebooks:
        by_bits.setdefault(one["bits_per_vector"], []).append(one)
    found = []
    for same in by_bits.values():
        ordered = sorted(same, key=lambda one: float(one["vqpipe"]["distortion"]))
        best, worst = ordered[0], ordered[-1]
        least, most = best["vqpipe"]["distortion"], worst["vqpipe"]["distortion"]
        if most and 1 - least / most >= _MUCH_LESS:
            found.append(
                f"in the same {best['bytes_per_vector']:g} bytes {best['codebook']} leaves {1 - least / most:.0%} less "
                f"distortion than {worst['codebook']}"
            )
    return "".join(f"; {said}" for said in found)
