"""What a report of a fault needs: this machine, and whether a config's source, output and cluster can be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vqpipe.config import Config
from vqpipe.errors import ConfigError, VqpipeError
from vqpipe.kernels import can_compile, describe_cpu
from vqpipe.pipeline.machine import describe_machine
from vqpipe.pipeline.survey import find_fault
from vqpipe.quantizer.faiss_build import describe_faiss
from vqpipe.runner import Outcome, Runner, Worker
from vqpipe.sources import VectorArray, open_source
from vqpipe.storage.folder import Folder
from vqpipe.tasks.survey import Facts, SurveyJob, survey_worker
from vqpipe.versions import versions

# Chunks of 64 MB were read at a seventh of the rate of 4 MB ones, and single rows of them 20 to 80 times slower.
LARGE_CHUNK_BYTES = 32 << 20

# What OpenBLAS calls CPUs that it uses 256-bit vectors of.
_NARROW_CORES = ("Haswell", "Zen", "Sandybridge", "Nehalem", "Prescott", "Barcelona", "generic")


def diagnose_machine(libraries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what this process is and what it will be slow at.

    Parameters
    ----------
    libraries : list of dict
        BLAS and OpenMP, as they are loaded.

    Returns
    -------
    dict
        ``versions``, ``cpu``, ``faiss``, ``libraries``, ``machine``, ``warnings``.
    """
    found = {
        "versions": versions(),
        "cpu": describe_cpu(),
        "faiss": describe_faiss(),
        "libraries": libraries,
        "machine": describe_machine(),
    }
    return {**found, "warnings": list(_slow(found))}


def _slow(found: dict[str, Any]) -> list[str]:
    warnings = []
    machine = found["machine"]
    if not can_compile():
        warnings.append(
            "the CPU has no fused multiply-add that is used: rows are compared with codewords by FAISS, which is "
            "several times slower"
        )
    wide = "512-bit" in found["cpu"]
    warnings += [
        f"{library['file']} takes this CPU for {library['core_type']} and leaves half of its registers unused; with "
        "OPENBLAS_CORETYPE=SkylakeX in the environment searches of 128 dims were up to 1.24 times as fast"
        for library in found["libraries"]
        if library["kind"] == "blas" and wide and library["core_type"] in _NARROW_CORES
    ]
    if machine["core_limit"] is not None and machine["core_limit"] < machine["cores"]:
        warnings.append(
            f"the container may use {machine['core_limit']:g} cores of the {machine['cores']} that are seen: start "
            f"{max(1, int(machine['core_limit']))} workers (cluster.scale)"
        )
    if machine["load"] > machine["cores"]:
        warnings.append(
            f"the machine is busy already: load {machine['load']:g} on {machine['cores']} cores"
        )
    return warnings


def diagnose_config(config: Config, runner: Runner) -> dict[str, Any]:
    """Return whether a config's source, output and cluster can be reached. Changes nothing.

    Returns
    -------
    dict
        ``checks``: a mapping of ``source``, ``output`` and ``cluster`` to ``{well, found, seconds}``;
        ``warnings``.
    """
    warnings: list[str] = []
    output = Folder(config.output)
    source: list[VectorArray] = []

    def look_at_source() -> str:
        named = config.source
        source.append(open_source(named.uri, named.format, named.key, named.rows, ids=named.ids))
        there = source[0]
        for row in there.probed_rows():
            there.read(row, row + 1)
        if there.chunk_bytes > LARGE_CHUNK_BYTES:
            warnings.append(
                f"source: chunks of {there.chunk_bytes / 2**20:,.0f} MiB are read slowly, and rows drawn from them "
                "more so; about 4 MiB are best"
            )
        return f"{there.format}, {there.rows:,} rows of {there.dtype}, dim {there.dim}"

    def look_at_output() -> str:
        names = output.names()
        free = output.free_bytes()
        room = "" if free is None else f", {free / 2**30:,.1f} GiB free"
        return f"{len(names)} files and folders{room}"

    def look_at_cluster() -> str:
        return _look_at_cluster(config, runner, source, output, warnings)

    looks = {"source": look_at_source, "output": look_at_output, "cluster": look_at_cluster}
    return {"checks": {name: _checked(look) for name, look in looks.items()}, "warnings": warnings}


def _checked(look: Callable[[], str]) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        well, found = True, look()
    except (VqpipeError, OSError) as error:
        well, found = False, str(error)
    return {"well": well, "found": found, "seconds": round(time.perf_counter() - began, 3)}


def _look_at_cluster(
    config: Config, runner: Runner, source: list[VectorArray], output: Folder, warnings: list[str]
) -> str:
    if config.cluster == "serial":
        return "serial: this process does the work"
    workers = runner.workers
    if not source:
        return f"{workers} tasks at once; the source cannot be read, so what workers see of it was not asked"
    job = SurveyJob(source[0], output, None)
    here = survey_worker(None, job)
    outcomes = runner.survey(survey_worker, job)
    memory = int(config.memory_per_worker)
    faults = [
        f"worker {outcome.item.name} {fault}"
        for outcome in outcomes
        if (fault := find_fault(outcome, here, memory))
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    warnings += _slow_workers(outcomes)
    return f"{len(outcomes)} workers, {workers} tasks at once; all see the source and have the same versions"


def _slow_workers(outcomes: list[Outcome[Worker, Facts]]) -> list[str]:
    warnings = []
    crowded = [outcome.item for outcome in outcomes if outcome.item.threads > 1]
    if crowded:
        warnings.append(
            f"cluster: {len(crowded)} workers run several tasks at once ({crowded[0].name}: {crowded[0].threads}); one "
            "thread a worker is faster: NumPy's own loops hold Python's lock"
        )
    kinds = {outcome.value().cpu for outcome in outcomes}
    if len(kinds) > 1:
        warnings.append(f"cluster: CPUs of different kinds: {'; '.join(sorted(kinds))}")
    return warnings
