"""The state of a training between two rounds: all that a resumed one needs."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from vqpipe.codebook import Codebook
from vqpipe.dtypes import Float64
from vqpipe.errors import CodebookError

Phase = Literal["forgetting", "averaging", "finished"]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One line of the training history.

    Attributes
    ----------
    round : int
        Rounds taken so far.
    rows_seen : int
        Rows looked at so far, repeats counted.
    training : float
        Distortion of the round's rows, before its step.
    heldout : float or None
        Distortion of the held-out rows after its step, where it was measured.
    dead : int
        Codewords, over all columns, that no row of the batch chose.
    moved : int
        Codewords that were revived.
    """

    round: int
    rows_seen: int
    training: float
    heldout: float | None
    dead: int
    moved: int


@dataclass(frozen=True, eq=False)
class TrainState:
    """A training between two rounds. Random draws depend on seed and round alone, so none is kept.

    Attributes
    ----------
    codebook : Codebook
    sums : float64 array of shape (m, k, dim / m)
        Decayed sums of the rows nearest to each codeword, offset subtracted.
    weights : float64 array of shape (m, k)
        Decayed counts.
    round : int
        Rounds taken.
    phase : str
        ``forgetting``, ``averaging`` or ``finished``.
    averaging_from : int
        Round at which averaging began; 0 before.
    history : tuple of RoundRecord
    """

    codebook: Codebook
    sums: Float64
    weights: Float64
    round: int = 0
    phase: Phase = "forgetting"
    averaging_from: int = 0
    history: tuple[RoundRecord, ...] = ()

    @classmethod
    def begin(cls, codebook: Codebook) -> TrainState:
        """Return the state before the first round."""
        _, m, k, width = codebook.centroids.shape
        return cls(codebook, np.zeros((m, k, width)), np.zeros((m, k)))

    def recorded(self, record: RoundRecord) -> TrainState:
        """Return the state with one more line of history."""
        return replace(self, history=(*self.history, record))

    def to_bytes(self) -> bytes:
        """Return the state as one ``.npz`` file's bytes."""
        facts = {
            "kind": self.codebook.kind,
            "metric": self.codebook.metric,
            "round": self.round,
            "phase": self.phase,
            "averaging_from": self.averaging_from,
            "history": [asdict(record) for record in self.history],
        }
        buffer = io.BytesIO()
        np.savez(
            buffer,
            facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
            offset=self.codebook.offset,
            centroids=self.codebook.centroids,
            sums=self.sums,
            weights=self.weights,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> TrainState:
        """Read what `to_bytes` wrote. Nothing is unpickled.

        Raises
        ------
        ValueError
            If the bytes are not such a file.
        """
        try:
            return cls._from_npz(data)
        except (KeyError, OSError, EOFError, BadZipFile, CodebookError) as error:
            raise ValueError(f"not a training state: {error}") from error

    @classmethod
    def _from_npz(cls, data: bytes) -> TrainState:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
            codebook = Codebook(
                facts["kind"], facts["metric"], arrays["offset"], arrays["centroids"]
            )
            return cls(
                codebook,
                arrays["sums"],
                arrays["weights"],
                facts["round"],
                facts["phase"],
                facts["averaging_from"],
                tuple(RoundRecord(**record) for record in facts["history"]),
            )
