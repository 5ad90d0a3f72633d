"""Where the stages say how far they are. What is done with it is the caller's business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by the stages what happens; must not raise and must return at once."""

    def begin(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage of ``total`` units of work (``rows``, ``rounds``)."""

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units to the stage that was begun last, with a figure worth showing."""

    def finish(self, stage: str, status: str, reason: str, seconds: float) -> None:
        """End a stage: ``done``, ``skipped`` or ``failed``, and why."""

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""


class Silent:
    """Says nothing: for tests and for use as a library."""

    def begin(self, stage: str, total: int, unit: str) -> None:
        """Say nothing."""

    def advance(self, amount: int, note: str = "") -> None:
        """Say nothing."""

    def finish(self, stage: str, status: str, reason: str, seconds: float) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""
