"""Verifying an output: everything that is stored is read, and rows are encoded again."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from vqpipe.config import Config
from vqpipe.errors import InputError, OutputError, VqpipeError
from vqpipe.pipeline.check import (
    Check,
    check_checkpoint,
    check_codebook,
    check_current,
    check_exports,
    check_figures,
    check_samples,
    check_vectors,
)
from vqpipe.pipeline.generation import EVALUATION_FILE, STAGES_FILE, Generation, find_generations
from vqpipe.pipeline.repair import repair_output
from vqpipe.progress import Progress
from vqpipe.runner import Runner
from vqpipe.shards import Shard
from vqpipe.sources import VectorArray, open_source
from vqpipe.sources.conversion import by_way_of_vectors
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import PATIENCE, Patience, take_lease
from vqpipe.storage.records import Records
from vqpipe.storage.summary import check_summary, summary_path
from vqpipe.storage.vectors import VECTORS_NAME
from vqpipe.tasks.verify import ShardCheck, VerifyJob, verify_shard

ROWS_PER_SHARD = 100


def verify_output(
    output: Folder,
    config: Config | None,
    runner: Runner,
    progress: Progress,
    *,
    rows: int = ROWS_PER_SHARD,
    repair: bool = False,
    patience: Patience = PATIENCE,
) -> dict[str, Any]:
    """Check all generations of an output, and set pending what is damaged if asked to.

    Parameters
    ----------
    output : Folder
    config : Config or None
        Of the last run, to open the source by; None where it is not known: then no row is encoded again.
    runner : Runner
    progress : Progress
    rows : int
        Rows of each shard that are encoded again.
    repair : bool
        Under the lease on the output.
    patience : Patience
        How long another run's lease is watched.

    Returns
    -------
    dict
        ``output``, ``well``, ``shards``, ``rows_compared``, ``findings`` (each ``what, path, why, shard,
        start, stop``), ``notes``, ``repaired``.

    Raises
    ------
    OutputError
        If there is no output of a run.
    LeaseError
        If it is to be repaired while a run works in it.
    """
    generations, damaged = find_generations(output)
    if not generations and not damaged:
        raise OutputError(
            f"output {output.path}: there is no generation of a run in it; name the folder that a config calls output"
        )
    with take_lease(output, progress.warn, patience) if repair else nullcontext():
        return _verify(Check(output, config, runner, progress, rows), repair=repair)


def _verify(check: Check, *, repair: bool) -> dict[str, Any]:
    output = check.output
    generations, damaged = find_generations(output)
    for folder, why in damaged:
        check.found("generation", folder.file(STAGES_FILE), why)
    check_current(check, [generation.name for generation in generations])
    for generation in generations:
        _check_generation(check, generation)
    check_vectors(check, generations)
    check_samples(check, generations)
    repaired = bool(repair and check.findings)
    if repaired:
        repair_output(output, [asdict(finding) for finding in check.findings])
    return {
        "output": output.path,
        "well": not check.findings,
        "shards": check.shards,
        "rows_compared": check.rows_compared,
        "findings": [asdict(finding) for finding in check.findings],
        "notes": check.notes,
        "repaired": repaired,
    }


def _check_generation(check: Check, generation: Generation) -> None:
    digest = check_codebook(check, generation)
    check_checkpoint(check, generation)
    codes = _check_codes(check, generation, digest)
    check_figures(check, generation, codes)
    check_exports(check, generation)


def _check_codes(check: Check, generation: Generation, digest: str | None) -> CodeArray | None:
    complete = generation.stage("encode").get("state") == "done"
    try:
        codes = find_codes(generation.codes_path)
        records = None if codes is None else codes.stored_records()
    except VqpipeError as error:
        check.found("codes", generation.codes_path, str(error))
        return None
    if codes is None or records is None:
        if complete:
            check.found("codes", generation.codes_path, "is gone")
        return None
    wanted = generation.stage("encode").get("rows")
    if complete and codes.rows != wanted:
        check.found("codes", generation.codes_path, f"has {codes.rows:,} rows, {wanted:,} were encoded")  # fmt: skip
        return None
    why = "" if digest is None else _unlike(generation, codes, digest)
    if why:
        check.found("codes", generation.codes_path, why)
        return None
    why = check_summary(codes.path, records)
    if why:
        check.found("summary", summary_path(codes.path), why)
    shards = [shard for shard in codes.shards if complete or records.is_done(shard.index)]
    _check_shards(check, generation, (codes, records, digest), shards)
    return codes


def _unlike(generation: Generation, codes: CodeArray, digest: str) -> str:
    """Say what in the metadata of the codes is not as it was written."""
    # A codebook that was given is named together with its digest.
    codebook = generation.facts["settings"]["train"]["codebook"].split()[0]
    metric = generation.facts["source"]["metric"]
    try:
        return codes.unlike_written(
            {"codebook": codebook, "codebook_digest": digest, "metric": metric}
        )
    except VqpipeError as error:
        return str(error)


def _check_shards(
    check: Check,
    generation: Generation,
    stored: tuple[CodeArray, Records, str | None],
    shards: list[Shard],
) -> None:
    codes, records, digest = stored
    source = _source(check, generation)
    seed = 0 if check.config is None else check.config.seed
    book = None if digest is None else generation.codebook_path
    job = VerifyJob(codes, records, book, digest, source, check.rows, seed)
    check.progress.begin("verify", sum(shard.rows for shard in shards), "rows")
    found: dict[Shard, ShardCheck] = {}
    for outcome in check.runner.map(verify_shard, shards, job):
        found[outcome.item] = outcome.value()
        check.progress.advance(outcome.item.rows)
    masked = sum(part.masked_rows for part in found.values())
    lost = _masks_lost(generation, codes, masked)
    for shard in shards:
        part = found[shard]
        faults = list(part.faults)
        if lost and part.lacks_valid and not faults:
            faults.append(f"its mask is gone: {lost}")
        for why in faults:
            check.found("shard", codes.path, why, shard)
    check.shards += len(shards)
    check.rows_compared += sum(part.rows_compared for part in found.values())
    _note(check, generation, list(found.values()))


def _masks_lost(generation: Generation, codes: CodeArray, masked_rows: int) -> str:
    """Say that fewer rows are masked than were counted; empty where that is not known."""
    if not codes.masked or not generation.folder.has(EVALUATION_FILE):
        return ""
    try:
        counted = generation.folder.read_json(EVALUATION_FILE).get("masked_rows")
    except InputError:
        return ""
    if generation.stage("evaluate").get("state") != "done" or counted == masked_rows:
        return ""
    return f"{masked_rows:,} rows are masked, {counted:,} were counted"


def _note(check: Check, generation: Generation, found: list[ShardCheck]) -> None:
    stale = sum(part.stale for part in found)
    if stale:
        check.notes.append(
            f"{generation.name}: the rows of {stale} of {len(found)} shards have changed in the source since they "
            "were encoded; the next run encodes them again"
        )
    unread = [part.unread for part in found if part.unread]
    if unread:
        check.notes.append(
            f"{generation.name}: the rows of {len(unread)} shards were not compared: {unread[0]}"
        )


def _source(check: Check, generation: Generation) -> VectorArray | None:
    """Return the source of a generation, where the config still names it."""
    if check.config is None or not check.rows:
        return None
    named = check.config.source
    was = generation.facts["source"]
    try:
        source = open_source(
            named.uri, named.format, named.key, named.rows, generation.known_files, ids=named.ids
        )
        source = by_way_of_vectors(source, check.output.file(VECTORS_NAME))
    except InputError as error:
        check.notes.append(f"{generation.name}: rows were not compared: {error}")
        return None
    now = {
        "uri": list(named.uri) if isinstance(named.uri, list) else named.uri,
        "key": source.key,
        "metric": named.metric,
        "dim": source.dim,
        "dtype": source.dtype,
    }
    if any(was[key] != now[key] for key in now):
        check.notes.append(
            f"{generation.name}: rows were not compared: it was made from another source"
        )
        return None
    return source
