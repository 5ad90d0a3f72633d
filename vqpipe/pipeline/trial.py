"""Trials: codebooks that a sweep learnt and measured, kept beside the generations of an output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqpipe.codebook import CodebookSpec
from vqpipe.errors import CodebookError, OutputError
from vqpipe.pipeline.generation import Generation, read_generation
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.folder import Folder

# Of an output: holds no generation, so neither `current` nor a run's choice of one is touched.
SWEEP_FOLDER = "sweep"


def trial_name(spec: CodebookSpec, train_fingerprint: str) -> str:
    """Return the name of a trial's folder: other settings make another trial.

    Examples
    --------
    >>> trial_name(CodebookSpec("PQ", 8, 256), "0123456789abcdef")
    'PQ8x8-0123456789ab'
    """
    return f"{spec}-{train_fingerprint[:12]}"


def find_trial(folder: Folder, spec: CodebookSpec, train_fingerprint: str) -> Generation | None:
    """Return the trial of a codebook; None where it was never begun, or what is known of it is damaged.

    A trial is a generation without codes: stages and fingerprints, a checkpoint, a codebook.
    """
    name = trial_name(spec, train_fingerprint)
    try:
        trial = read_generation(folder / name, f"{SWEEP_FOLDER}/{name}")
    except OutputError:
        # Nothing is lost that cannot be learnt again.
        return None
    if trial is None or trial.facts["fingerprints"]["train"] != train_fingerprint:
        return None
    return trial


def find_trained(folder: Folder, spec: CodebookSpec, train_fingerprint: str) -> Generation | None:
    """Return the trial of a codebook if it was learnt there to its end, and can be used."""
    trial = find_trial(folder, spec, train_fingerprint)
    if trial is None or not trial.is_done("train", train_fingerprint):
        return None
    return trial if is_codebook(trial.codebook_path, trial.stage("train").get("digest")) else None


def is_codebook(path: str, digest: str | None) -> bool:
    """Say whether a path holds the codebook of a digest, whole."""
    try:
        return read_codebook(path).quantizer.codebook.digest == digest
    except CodebookError:
        return False


def known_figures(record: Mapping[str, Any], wanted: Mapping[str, type | tuple[type, ...]]) -> bool:
    """Say whether a stage's record holds figures of these names and types: the file may have been tampered with."""
    return all(
        isinstance(record.get(name), kind) and _is_plain(record[name])
        for name, kind in wanted.items()
    )


def _is_plain(value: object) -> bool:
    """Say whether what is in a list or an object are numbers."""
    parts: list[Any] = []
    if isinstance(value, list | dict):
        parts = list(value.values() if isinstance(value, dict) else value)
    return all(isinstance(part, int | float) for part in parts)
