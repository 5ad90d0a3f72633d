"""Progress of a sweep: what the stages of one codebook say is said of that codebook."""

from __future__ import annotations

from vqpipe.progress import Progress


class Named:
    """Progress of one codebook: what its stages say is said of the codebook, whose name is wanted."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def begin(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage."""
        self._progress.begin(self._name if stage == "train" else stage, total, unit)

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units."""
        self._progress.advance(amount, note)

    def finish(self, stage: str, status: str, reason: str, seconds: float) -> None:
        """Say what became of a stage."""
        own = stage in ("train", "measure")
        self._progress.finish(self._name if own else stage, status, reason, seconds)

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""
        self._progress.warn(message)
