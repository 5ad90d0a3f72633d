"""Generations: one (sample, train, encode) each, found again by their fingerprints."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from vqpipe.errors import OutputError
from vqpipe.quantizer import Route
from vqpipe.storage.folder import Folder

# What a generation records, each an object of its own.
_FACTS = ("source", "settings", "fingerprints", "stages")

STAGES_FILE = "stages.json"
CURRENT_FILE = "current"


def fingerprint(settings: Any, *before: str) -> str:
    """Return the SHA-256 of a stage's settings and of the fingerprints before it."""
    text = json.dumps([settings, *before], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Generation:
    """One folder of an output, and what its ``stages.json`` says.

    Attributes
    ----------
    folder : Folder
    name : str
        ``v1``, ``v2``, ...
    facts : dict
        ``source`` (as it was when the generation began), ``settings`` (per stage, to say in words what
        changed), ``stages`` (per stage: fingerprint and state).
    """

    folder: Folder
    name: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The number in the name."""
        return int(self.name[1:])

    @property
    def route(self) -> Route | None:
        """The assignment route that the generation keeps to, if it has one."""
        kept = self.facts.get("route")
        return Route(**kept) if kept else None

    @property
    def codebook_path(self) -> str:
        """Path of ``codebook.zarr``."""
        return self.folder.file("codebook.zarr")

    @property
    def codes_path(self) -> str:
        """Path of ``codes.zarr``."""
        return self.folder.file("codes.zarr")

    def stage(self, name: str) -> dict[str, Any]:
        """Return what is recorded of a stage; empty if it was never done."""
        found: dict[str, Any] = self.facts["stages"].get(name, {})
        return found

    def is_done(self, name: str, stage_fingerprint: str) -> bool:
        """Say whether a stage was done with these settings."""
        record = self.stage(name)
        return record.get("state") == "done" and record.get("fingerprint") == stage_fingerprint

    def mark_done(self, name: str, stage_fingerprint: str, **facts: Any) -> None:
        """Record that a stage is done."""
        record = {"state": "done", "fingerprint": stage_fingerprint, **facts}
        self.facts["stages"][name] = record
        self.save()

    def save(self) -> None:
        """Write ``stages.json``."""
        self.folder.write_json(STAGES_FILE, self.facts)


def list_generations(output: Folder) -> list[Generation]:
    """Return the generations of an output, newest first.

    Raises
    ------
    OutputError
        If a ``stages.json`` cannot be read.
    """
    found = []
    for name in output.names():
        if name[:1] == "v" and name[1:].isdigit() and (output / name).has(STAGES_FILE):
            folder = output / name
            facts = folder.read_json(STAGES_FILE)
            if not all(isinstance(facts.get(key), dict) for key in _FACTS):
                raise OutputError(
                    f"{folder.file(STAGES_FILE)}: lacks what a generation records; restore the file or remove "
                    f"{folder.path}"
                )
            found.append(Generation(folder, name, facts))
    return sorted(found, key=lambda generation: -generation.number)


def next_generation(output: Folder, facts: dict[str, Any]) -> Generation:
    """Return a generation that is not on the disk yet."""
    taken = [int(name[1:]) for name in output.names() if name[:1] == "v" and name[1:].isdigit()]
    name = f"v{max(taken, default=0) + 1}"
    return Generation(output / name, name, facts)


def current_name(output: Folder) -> str | None:
    """Return the name of the generation that readers should use."""
    if not output.has(CURRENT_FILE):
        return None
    return output.read_bytes(CURRENT_FILE).decode().strip()


def set_current(output: Folder, name: str) -> None:
    """Point readers at a generation."""
    output.write_bytes(CURRENT_FILE, f"{name}\n".encode())
