"""Progress of a sweep: what the stages of one codebook say is said of that codebook."""

from __future__ import annotations

from vqpipe.progress import Ending, Progress


class Named:
    """Progress of one codebook: what its stages say is said of the codebook, whose name is wanted."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def begin(
        self,
        stage: str,
        total: int,
        unit: str,
        done: int = 0,
        shards: int = 0,
        shards_done: int = 0,
    ) -> None:
        """Begin a stage."""
        named = self._name if stage == "train" else stage
        self._progress.begin(named, total, unit, done, shards, shards_done)

    def advance(self, amount: int, note: str = "", shards: int = 0) -> None:
        """Add finished units."""
        self._progress.advance(amount, note, shards)

    def use_memory(self, driver_bytes: int, worker_bytes: int, workers: int) -> None:
        """Say what is held."""
        self._progress.use_memory(driver_bytes, worker_bytes, workers)

    def finish(self, stage: str, status: Ending, reason: str, seconds: float) -> None:
        """Say what became of a stage."""
        own = stage in ("train", "measure")
        self._progress.finish(self._name if own else stage, status, reason, seconds)

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""
        self._progress.warn(message)
