"""Exports after the fact: a file of the current generation's codes that the config did not ask for."""

from __future__ import annotations

from typing import Any

from vqpipe.errors import OutputError
from vqpipe.pipeline.export import (
    drop_other_index,
    keep_added,
    plan_files,
    tell_codes,
    write_files,
)
from vqpipe.pipeline.finished import Finished, find_finished
from vqpipe.progress import Progress
from vqpipe.runner import Runner
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import PATIENCE, Patience, take_lease
from vqpipe.storage.parquet_file import check_parquet
from vqpipe.storage.target import check_free, choose_target
from vqpipe.tasks.export import FORMATS, ExportFile, ExportJob, Format
from vqpipe.urls import split

# About what one core writes.
ROWS_PER_SECOND = 5e6


def check_format(name: str) -> Format:
    """Return a format by its name.

    Raises
    ------
    OutputError
        If there is none of that name, or it needs what is not installed.
    """
    for known in FORMATS:
        if name == known:
            if known == "parquet":
                check_parquet()
            return known
    raise OutputError(f"--to {name}: is no format; write {', '.join(FORMATS)}")


def export_inside(
    output: Folder,
    format: Format,
    runner: Runner,
    progress: Progress,
    *,
    overwrite: bool,
    patience: Patience = PATIENCE,
) -> dict[str, Any]:
    """Write an export beside the codes, where the export stage would, and record it as that does.

    `vqpipe verify` checks it, and the next run whose codes are others removes it.

    Returns
    -------
    dict
        ``output``, ``generation``, ``rows`` and ``files``: by their paths, each with ``rows, bytes, sha256``.

    Raises
    ------
    OutputError
        If there is nothing to export, or a file is there already.
    LeaseError
        If a run works in the output.
    """
    # Refused before the lease of another is watched.
    find_finished(output)
    with take_lease(output, progress.warn, patience) as lease:
        found = find_finished(output)
        generation = found.generation
        generation.guard = lease.check
        files = plan_files(found.codes, found.codebook.spec, [format])
        for file in files:
            check_free(generation.folder.file(file.name), overwrite=overwrite)
        written = write_files(files, _job(found, generation.folder), runner, progress)
        drop_other_index(generation, files)
        now = tell_codes(found.codes, found.codes.records())
        record = generation.stage("export") or {"state": "added"}
        # What the stage itself wrote stays the stage's.
        own = {
            name: facts
            for name, facts in record.get("files", {}).items()
            if name not in record.get("added", [])
        }
        added = {**keep_added(generation, now, written), **written}
        generation.facts["stages"]["export"] = {
            **record,
            "files": {**own, **added},
            "added": sorted(added.keys() - own.keys()),
            "codes": now,
        }
        generation.save()
    return _said(found, {generation.folder.file(name): facts for name, facts in written.items()})


def export_elsewhere(
    output: Folder, format: Format, out: str, runner: Runner, progress: Progress, *, overwrite: bool
) -> dict[str, Any]:
    """Write an export to a file of the user's, whole, as one file whatever its size; see `export_inside`.

    Raises
    ------
    OutputError
        If there is nothing to export, or the file is there already, or it lies in the output.
    """
    found = find_finished(output)
    target = choose_target(out, (), overwrite=overwrite)
    if target.path.startswith(f"{output.path.rstrip('/')}/"):
        raise OutputError(
            f"--out {out}: lies in the output {output.path}, whose files vqpipe keeps; leave out --out, and the file "
            "is written beside the codes"
        )
    folder, name = split(target.path)
    file = ExportFile(name, format, 0, found.codes.rows)
    written = write_files([file], _job(found, Folder(folder)), runner, progress)
    return _said(found, {target.path: written[name]})


def _job(found: Finished, folder: Folder) -> ExportJob:
    codebook = found.generation.codebook_path
    return ExportJob(folder.path, found.codes, codebook, found.digest, _masked_rows(found.codes))


def _masked_rows(codes: CodeArray) -> int:
    if not codes.masked:
        return 0
    return sum(int((~codes.read_valid(shard)).sum()) for shard in codes.shards)


def _said(found: Finished, files: dict[str, Any]) -> dict[str, Any]:
    return {
        "output": found.output.path,
        "generation": found.generation.name,
        "rows": found.codes.rows,
        "files": files,
    }
