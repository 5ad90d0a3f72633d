"""Generations: one (sample, train, encode) each, found again by their fingerprints."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vqpipe.errors import CodebookError, OutputError
from vqpipe.quantizer import Route
from vqpipe.storage.folder import Folder

# What a generation records, each an object of its own.
_FACTS = ("source", "settings", "fingerprints", "stages")

_HEX = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"v[0-9]+")
_EXPORTED = re.compile(r"codes\.(npy|parquet)|index\.faiss|index/[0-9]+\.faiss")

STAGES_FILE = "stages.json"
CURRENT_FILE = "current"
EVALUATION_FILE = "evaluation.json"


def fingerprint(settings: Any, *before: str) -> str:
    """Return the SHA-256 of a stage's settings and of the fingerprints before it."""
    text = json.dumps([settings, *before], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def say_changes(stage: str, was: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words which settings of a stage have changed; empty if none has.

    Examples
    --------
    >>> say_changes("train", {"codebook": "PQ16", "stop": 0}, {"codebook": "PQ8", "stop": 0})
    'train: codebook changed PQ16 -> PQ8'
    """
    return "; ".join(
        f"{stage}: {key} changed {was.get(key)} -> {now.get(key)}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    )


def _no_guard() -> None:
    """Let everybody write: where nothing was begun there is no lease."""


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
    guard : callable
        Called before anything is recorded; raises where that is not allowed (any more).
    """

    folder: Folder
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    guard: Callable[[], None] = field(default=_no_guard, compare=False)

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
    def known_files(self) -> list[str]:
        """Paths of the source's files in the order of their rows, which no later file changes."""
        files = self.facts["source"].get("files", ())
        known: list[str] = self.facts.get("known_files") or [path for path, _ in files]
        return known

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
        self.guard()
        self.folder.write_json(STAGES_FILE, self.facts)


def list_generations(output: Folder) -> list[Generation]:
    """Return the generations of an output, newest first.

    Raises
    ------
    OutputError
        If a ``stages.json`` cannot be read.
    """
    found, damaged = find_generations(output)
    if damaged:
        _, why = damaged[0]
        raise OutputError(
            f"{why}; restore the file, or have `vqpipe verify {output.path} --repair` remove it: the next run then "
            "starts a generation of its own"
        )
    return found


def state_of(generations: Sequence[Generation]) -> str:
    """Return what tells whether generations are still as they were: a run begins from what it read of them."""
    return fingerprint([[generation.name, generation.facts] for generation in generations])


def find_generations(output: Folder) -> tuple[list[Generation], list[tuple[Folder, str]]]:
    """Return the generations, newest first, and the folders whose ``stages.json`` is damaged, with a word why."""
    found: list[Generation] = []
    damaged: list[tuple[Folder, str]] = []
    for name in output.names():
        folder = output / name
        if not (name[:1] == "v" and name[1:].isdigit()):
            continue
        try:
            generation = read_generation(folder, name)
        except OutputError as error:
            damaged.append((folder, str(error)))
            continue
        if generation is not None:
            found.append(generation)
    return sorted(found, key=lambda generation: -generation.number), damaged


def read_generation(folder: Folder, name: str) -> Generation | None:
    """Return the generation in a folder; None where there is none.

    Raises
    ------
    OutputError
        If its ``stages.json`` is damaged.
    """
    try:
        facts = folder.read_json(STAGES_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not _is_whole(facts):
        raise OutputError(f"{folder.file(STAGES_FILE)}: lacks what a generation records")
    return Generation(folder, name, facts)


def _is_whole(facts: dict[str, Any]) -> bool:
    """Say whether all is there that stages take for granted: the file may have been tampered with."""
    if not all(isinstance(facts.get(key), dict) for key in _FACTS):
        return False
    settings, prints, source = facts["settings"], facts["fingerprints"], facts["source"]
    latest = facts.get("latest", {"files": [], "rows": 0})
    known = facts.get("known_files", [])
    return (
        all(_is_stage(record) for record in facts["stages"].values())
        and all(_HEX.fullmatch(str(prints.get(key))) for key in ("sample", "train"))
        and all(isinstance(settings.get(key), dict) for key in ("sample", "train", "encode"))
        and isinstance(settings["train"].get("codebook"), str)
        and all(key in source for key in ("uri", "key", "format", "metric", "dim", "dtype"))
        and isinstance(latest, dict)
        and all(
            _are_files(of.get("files")) and _is_count(of.get("rows")) for of in (source, latest)
        )
        and all(_is_route(facts.get(key)) for key in ("route", "encode_route"))
        and isinstance(known, list)
        and all(isinstance(path, str) for path in known)
    )


def _is_route(kept: object) -> bool:
    if not kept:
        return True
    try:
        Route(**kept)  # type: ignore[arg-type]
    except (TypeError, CodebookError):
        return False
    return True


def _is_stage(record: object) -> bool:
    if not isinstance(record, dict):
        return False
    warnings = record.get("warnings", [])
    files, added = record.get("files", {}), record.get("added", [])
    return (
        isinstance(record.get("state"), str)
        and isinstance(record.get("fingerprint", ""), str)
        and isinstance(record.get("digest", ""), str)
        and _is_count(record.get("rows", 0))
        and isinstance(warnings, list)
        and all(isinstance(message, str) for message in warnings)
        and isinstance(files, dict)
        and isinstance(record.get("settings", {}), dict)
        and isinstance(added, list)
        and all(isinstance(name, str) for name in added)
        # Names of exported files: they stay inside the generation.
        and all(_EXPORTED.fullmatch(name) and _is_export(files[name]) for name in files)
    )


def _is_export(record: object) -> bool:
    return (
        isinstance(record, dict)
        and set(record) == {"rows", "bytes", "sha256"}
        and _is_count(record["rows"])
        and _is_count(record["bytes"])
        and isinstance(record["sha256"], str)
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_files(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(file, list)
        and len(file) == 2
        and isinstance(file[0], str)
        and _is_count(file[1])
        for file in value
    )


def next_generation(output: Folder, facts: dict[str, Any]) -> Generation:
    """Return a generation that is not on the disk yet."""
    taken = [int(name[1:]) for name in output.names() if name[:1] == "v" and name[1:].isdigit()]
    name = f"v{max(taken, default=0) + 1}"
    return Generation(output / name, name, facts)


def current_name(output: Folder) -> str | None:
    """Return the name of the generation that readers should use; None if there is none of such a name."""
    if not output.has(CURRENT_FILE):
        return None
    name = output.read_bytes(CURRENT_FILE).decode("utf-8", "replace").strip()
    return name if _NAME.fullmatch(name) and output.has(name) else None


def set_current(output: Folder, name: str) -> None:
    """Point readers at a generation."""
    output.write_bytes(CURRENT_FILE, f"{name}\n".encode())
