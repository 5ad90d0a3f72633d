"""Which of several codebooks are worth taking: those that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """What a codebook costs and what it is good for.

    Attributes
    ----------
    bits : int
        Of a row's codes.
    distortion : float
    recall : float or None
        At one k; None for a KM codebook.
    """

    bits: int
    distortion: float
    recall: float | None

    def beats(self, other: Standing) -> bool:
        """Say whether this is nowhere worse and somewhere better. Recall counts where both have it."""
        pairs = [(self.bits, other.bits), (self.distortion, other.distortion)]
        if self.recall is not None and other.recall is not None:
            pairs.append((-self.recall, -other.recall))
        return all(mine <= theirs for mine, theirs in pairs) and any(
            mine < theirs for mine, theirs in pairs
        )


def on_front(standings: Sequence[Standing]) -> list[bool]:
    """Return, for each, whether no other one beats it: the Pareto front.

    Examples
    --------
    >>> on_front([Standing(64, 0.3, 0.5), Standing(128, 0.2, 0.8), Standing(128, 0.25, 0.7)])
    [True, True, False]
    """
    return [not any(other.beats(one) for other in standings) for one in standings]
