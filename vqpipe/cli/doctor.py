"""``vqpipe doctor``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer

from vqpipe.config_file import load_config, parse_overrides
from vqpipe.engines.choose import make_runner
from vqpipe.engines.libraries import thread_libraries
from vqpipe.pipeline.doctor import diagnose_config, diagnose_machine
from vqpipe.report.facts import format_bytes


def execute(config: str | None, overrides: list[str], *, as_json: bool) -> None:
    """Print what this machine is, and whether what a config names can be reached."""
    found = diagnose_machine(thread_libraries())
    found["checks"] = {}
    if config is not None:
        loaded = load_config(config, parse_overrides(overrides))
        with make_runner(loaded) as runner:
            reached = diagnose_config(loaded, runner)
        found["checks"] = reached["checks"]
        found["warnings"] += reached["warnings"]
    found["well"] = all(check["well"] for check in found["checks"].values())
    typer.echo(json.dumps(found, allow_nan=False) if as_json else "\n".join(_lines(found)))
    if not found["well"]:
        raise typer.Exit(1)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    yield "versions   " + ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    yield f"system     {machine['system']}, {machine['libc']}"
    yield f"cpu        {found['cpu']}"
    limit = "" if machine["core_limit"] is None else f", the container {machine['core_limit']:g}"
    yield f"cores      {machine['cores']} that this process may use{limit}; load {machine['load']:g}"
    yield f"memory     {_memory(machine)}"
    faiss = found["faiss"]
    yield f"faiss      {faiss['version']}, SIMD {faiss['simd']} (built with {faiss['options']})"
    for library in found["libraries"]:
        core = f", core type {library['core_type']}" if library["core_type"] else ""
        named = f"{library['file']} {library['version']}".strip()
        yield f"{library['kind']:<9}  {named}{core}, {library['threads']} threads (1 in a task)"
    for name, value in machine["settings"].items():
        yield f"setting    {name}={value}"
    for name, check in found["checks"].items():
        yield f"{name:<9}  {'' if check['well'] else 'NOT REACHED: '}{check['found']} ({check['seconds']:.2f} s)"
    yield from (f"warning    {message}" for message in found["warnings"])


def _memory(machine: dict[str, Any]) -> str:
    names = {"memory_bytes": "", "memory_free_bytes": " free", "memory_limit_bytes": " allowed"}
    known = (
        f"{format_bytes(machine[name])}{what}" for name, what in names.items() if machine[name]
    )
    return ", ".join(known) or "not known"
