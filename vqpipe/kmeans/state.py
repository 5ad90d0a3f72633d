"""The state of a training between two rounds: all that a resumed one needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import IO, Any, Literal

import numpy as np

from vqpipe.codebook import Codebook
from vqpipe.dtypes import Float64

Phase = Literal["turning", "forgetting", "averaging", "finished", "refining", "refined"]


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
        Codewords, over all columns, for which less than half a row is remembered.
    moved : int
        Codewords that were moved to a place where they lower the distortion more.
    search_loss : float or None
        Where codewords are searched and not all compared: the fraction by which the codewords that
        were found for the held-out rows are farther than the nearest ones.
    """

    round: int
    rows_seen: int
    training: float
    heldout: float | None
    dead: int
    moved: int
    search_loss: float | None = None


@dataclass(frozen=True, eq=False)
class TrainState:
    """A training between two rounds. Random draws depend on seed and round alone, so none is kept.

    Attributes
    ----------
    codebook : Codebook
        With the stages that were trained so far; the last one is in training.
    sums : float64 array of shape (m, k, dim / m)
        Decayed sums of the rows nearest to each codeword of the last stage, placed; of what the stages before
        leave of them, if there are any.
    weights : float64 array of shape (m, k)
        Decayed counts.
    errors : float64 array of shape (m, k)
        Decayed sums of their squared errors.
    round : int
        Rounds taken in this leg: the search for a rotation is one, then each stage is one, and so are the rounds
        that refine all stages together.
    phase : str
        ``turning`` (the rotation is sought), ``forgetting``, ``averaging`` and ``finished`` of each stage;
        ``refining`` and ``refined`` of all residual stages together.
    averaging_from : int
        Round at which averaging began; 0 before.
    probes : int
        Groups of codewords that a row is compared with; 0 where it is compared with all codewords.
    history : tuple of RoundRecord
        Of all legs.
    leg_from : int
        Lines of history before this leg.
    rival : Codebook or None
        While the rotation is sought: where it had come to from its first start. While stages are refined: as
        they were before the last round.
    """

    codebook: Codebook
    sums: Float64
    weights: Float64
    errors: Float64
    round: int = 0
    phase: Phase = "forgetting"
    averaging_from: int = 0
    probes: int = 0
    history: tuple[RoundRecord, ...] = ()
    leg_from: int = 0
    rival: Codebook | None = None

    @classmethod
    def begin(cls, codebook: Codebook, known_rows: float = 0.0) -> TrainState:
        """Return the state before the first round of the codebook's last stage.

        Parameters
        ----------
        codebook : Codebook
        known_rows : float
            Rows that each codeword is taken to stand for already: an earlier codebook gives way to
            what the first batches say no faster than it would have in its own training.
        """
        _, m, k, width = codebook.centroids.shape
        weights = np.full((m, k), known_rows)
        sums = codebook.centred(-1) * weights[:, :, None] if known_rows else np.zeros((m, k, width))
        return cls(codebook, sums, weights, np.zeros((m, k)))

    def after(self, earlier: TrainState) -> TrainState:
        """Return this state as the beginning of the leg after ``earlier``."""
        return replace(self, history=earlier.history, leg_from=len(earlier.history))

    @property
    def leg(self) -> tuple[RoundRecord, ...]:
        """The part of the history that is of this leg."""
        return self.history[self.leg_from :]

    @property
    def rows_seen(self) -> int:
        """Rows that were looked at in all legs so far."""
        return self.history[-1].rows_seen if self.history else 0

    @property
    def rows_before(self) -> int:
        """Rows that were looked at in the legs before this one."""
        return self.history[self.leg_from - 1].rows_seen if self.leg_from else 0

    def recorded(self, record: RoundRecord) -> TrainState:
        """Return the state with one more line of history."""
        return replace(self, history=(*self.history, record))

    def looked(self, heldout: float | None, search_loss: float | None) -> TrainState:
        """Return the state with what the held-out rows say of it on the last line of history."""
        last = replace(self.history[-1], heldout=heldout, search_loss=search_loss)
        return replace(self, history=(*self.history[:-1], last))

    def write(self, file: IO[bytes]) -> None:
        """Write the state as a ``.npz`` file, array after array."""
        facts = {
            "kind": self.codebook.kind,
            "metric": self.codebook.metric,
            "leg_from": self.leg_from,
            "round": self.round,
            "phase": self.phase,
            "averaging_from": self.averaging_from,
            "probes": self.probes,
            "history": [asdict(record) for record in self.history],
        }
        np.savez(
            file,
            facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
            **_arrays_of(self.codebook, ""),
            **({} if self.rival is None else _arrays_of(self.rival, "rival_")),
            sums=self.sums,
            weights=self.weights,
            errors=self.errors,
        )

    @classmethod
    def read(cls, file: IO[bytes]) -> TrainState:
        """Read what `write` wrote. Nothing is unpickled.

        Raises
        ------
        ValueError
            If it is no such file.
        """
        try:
            return cls._from_npz(file)
        # A damaged file makes zipfile, zlib, json and numpy raise whatever they have.
        except Exception as error:
            raise ValueError(f"not a training state: {error}") from error

    @classmethod
    def _from_npz(cls, file: IO[bytes]) -> TrainState:
        with np.load(file, allow_pickle=False) as arrays:
            facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
            rival = _codebook_in(arrays, facts, "rival_") if "rival_offset" in arrays else None
            return cls(
                _codebook_in(arrays, facts, ""),
                arrays["sums"],
                arrays["weights"],
                arrays["errors"],
                facts["round"],
                facts["phase"],
                facts["averaging_from"],
                facts["probes"],
                tuple(RoundRecord(**record) for record in facts["history"]),
                facts["leg_from"],
                rival,
            )


def _arrays_of(codebook: Codebook, prefix: str) -> dict[str, Any]:
    arrays = {"offset": codebook.offset, "centroids": codebook.centroids}
    if codebook.rotation is not None:
        arrays["rotation"] = codebook.rotation
    return {f"{prefix}{name}": values for name, values in arrays.items()}


def _codebook_in(arrays: Mapping[str, Any], facts: dict[str, Any], prefix: str) -> Codebook:
    rotation = f"{prefix}rotation"
    return Codebook(
        facts["kind"],
        facts["metric"],
        arrays[f"{prefix}offset"],
        arrays[f"{prefix}centroids"],
        arrays.get(rotation),
    )
