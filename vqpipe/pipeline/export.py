"""The export stage: what other programs search and read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vqpipe.codebook import CodebookSpec
from vqpipe.config import Config
from vqpipe.pipeline.generation import EVALUATION_FILE, Generation, fingerprint, say_changes
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.progress import Progress
from vqpipe.quantizer.faiss_index import packed_row_bytes
from vqpipe.runner import Runner
from vqpipe.shards import plan_shards
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.parquet_file import check_parquet
from vqpipe.storage.place import place_of
from vqpipe.storage.records import Records
from vqpipe.tasks.export import ExportFile, ExportJob, export_file

# Above this many bytes of packed codes the index is written in parts, by as many tasks.
SINGLE_INDEX_BYTES = 4 << 30


def export_fingerprint(run: Run, codes: CodeArray) -> str:
    """Return the fingerprint: the shards' records and what is asked for."""
    before = (run.records().digest, run.encode_fingerprint)
    return fingerprint([sorted(run.config.export), codes.rows], *before)


def need(run: Run) -> Need:
    """Say whether files must be written."""
    if not run.config.export:
        if _has_outlived(run):
            return Need("to do", "files that were added are of codes before these")
        return Need("done", "nothing is asked for")
    if run.digest is None or find_codes(run.generation.codes_path) is None:
        return Need("to do", "follows from encode")
    if "export" in run.redo:
        return Need("to do", "forced")
    files = _files(run, run.codes())
    done = run.generation.is_done("export", export_fingerprint(run, run.codes()))
    if done:
        lost = [file.name for file in files if not _is_there(run, file)]
        if lost:
            return Need("to do", f"{', '.join(lost)} is gone or cut")
        return Need("done", "neither the codes nor the export settings have changed")
    record = run.generation.stage("export")
    before = [name for name in record.get("files", {}) if name not in record.get("added", [])]
    changes = say_changes("export", {"files": before}, {"files": [file.name for file in files]})
    return Need("to do", changes if before and changes else "the codes are new")


def execute(run: Run) -> str:
    """Write the files that the config asks for."""
    codes = run.finished_codes()
    files = _files(run, codes)
    masked_rows = run.generation.folder.read_json(EVALUATION_FILE)["masked_rows"]
    job = ExportJob(
        run.generation.folder.path,
        codes,
        run.generation.codebook_path,
        run.finished_digest(),
        masked_rows,
    )
    written = write_files(files, job, run.runner, run.progress)
    drop_other_index(run.generation, files)
    now = tell_codes(codes, run.records())
    kept = keep_added(run.generation, now, written)
    run.generation.mark_done(
        "export",
        export_fingerprint(run, codes),
        files={**written, **kept},
        added=sorted(kept),
        codes=now,
    )
    return ", ".join(file.name for file in files) or "files that were added are removed"


def _has_outlived(run: Run) -> bool:
    """Say whether files were added of codes that have changed since."""
    record = run.generation.stage("export")
    if not record.get("added") or find_codes(run.generation.codes_path) is None:
        return False
    return record.get("codes") != tell_codes(run.codes(), run.records())


def tell_codes(codes: CodeArray, records: Records) -> str:
    """Return what tells the codes that files are made from."""
    return fingerprint([codes.rows], records.digest)


def keep_added(
    generation: Generation, now: str, written: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the records of files that `vqpipe export` added before, and that are still right.

    Those of codes that have changed since are removed: they would be taken for files of these.
    """
    record = generation.stage("export")
    others = {
        name: facts
        for name, facts in record.get("files", {}).items()
        if name in record.get("added", []) and name not in written
    }
    if record.get("codes") == now:
        return others
    for name in others:
        generation.folder.remove(name)
    return {}


def write_files(
    files: Sequence[ExportFile], job: ExportJob, runner: Runner, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Write files of one format or several, each whole, and return what was written by their names."""
    folder = Folder(job.folder)
    if any("/" in file.name for file in files):
        (folder / "index").create()
    progress.begin("export", sum(file.stop - file.start for file in files), "rows")
    written: dict[str, dict[str, Any]] = {}
    for outcome in runner.map(export_file, files, job):
        written[outcome.item.name] = asdict(outcome.value())
        progress.advance(outcome.item.stop - outcome.item.start)
    return {file.name: written[file.name] for file in files}


def drop_other_index(generation: Generation, files: Sequence[ExportFile]) -> None:
    """Remove the parts of an index that is one file now, or the one file of an index that is in parts.

    What rows that were added have replaced would be searched as if it were all.
    """
    for file in files[:1]:
        if file.format == "faiss":
            generation.folder.remove("index.faiss" if file.is_part else "index")


def check_formats(config: Config) -> None:
    """Refuse a format that nothing here can write, before anything is computed.

    Raises
    ------
    OutputError
    """
    if "parquet" in config.export:
        check_parquet()


def _is_there(run: Run, file: ExportFile) -> bool:
    """Say whether an exported file has the size that was written."""
    path = run.generation.folder.file(file.name)
    wanted = run.generation.stage("export").get("files", {}).get(file.name)
    try:
        return wanted is not None and place_of(path).size(path) == wanted["bytes"]
    except FileNotFoundError:
        return False


def _files(run: Run, codes: CodeArray) -> list[ExportFile]:
    return plan_files(codes, run.spec, run.config.export)


def plan_files(codes: CodeArray, spec: CodebookSpec, formats: Collection[str]) -> list[ExportFile]:
    """Return the files of a generation's folder that formats ask for; the index comes first."""
    files: list[ExportFile] = []
    if "faiss" in formats:
        row_bytes = packed_row_bytes(spec.columns, spec.k)
        part_rows = SINGLE_INDEX_BYTES // row_bytes
        if codes.rows <= part_rows:
            files.append(ExportFile("index.faiss", "faiss", 0, codes.rows))
        else:
            whole = max(1, part_rows // codes.shard_rows) * codes.shard_rows
            files += [
                ExportFile(f"index/{part.start}.faiss", "faiss", part.start, part.stop, True)
                for part in plan_shards(codes.rows, whole)
            ]
    if "npy" in formats:
        files.append(ExportFile("codes.npy", "npy", 0, codes.rows))
    if "parquet" in formats:
        files.append(ExportFile("codes.parquet", "parquet", 0, codes.rows))
    return files


STAGE = Stage("export", need, execute)
