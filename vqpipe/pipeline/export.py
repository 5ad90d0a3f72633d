"""The export stage: what other programs search and read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vqpipe.pipeline.generation import EVALUATION_FILE, fingerprint, say_changes
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.quantizer.faiss_index import packed_row_bytes
from vqpipe.shards import plan_shards
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.place import place_of
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
        return Need("done", "nothing is asked for")
    if run.digest is None or find_codes(run.generation.codes_path) is None:
        return Need("to do", "follows from encode")
    if "export" in run.redo:
        return Need("to do", "forced")
    files = plan_files(run, run.codes())
    done = run.generation.is_done("export", export_fingerprint(run, run.codes()))
    if done:
        lost = [file.name for file in files if not _is_there(run, file)]
        if lost:
            return Need("to do", f"{', '.join(lost)} is gone or cut")
        return Need("done", "neither the codes nor the export settings have changed")
    was = {"files": list(run.generation.stage("export").get("files", {}))}
    changes = say_changes("export", was, {"files": [file.name for file in files]})
    return Need("to do", changes if was["files"] and changes else "the codes are new")


def execute(run: Run) -> str:
    """Write the files that the config asks for."""
    codes = run.finished_codes()
    files = plan_files(run, codes)
    if any("/" in file.name for file in files):
        (run.generation.folder / "index").create()
    masked_rows = run.generation.folder.read_json(EVALUATION_FILE)["masked_rows"]
    job = ExportJob(
        run.generation.folder.path,
        codes,
        run.generation.codebook_path,
        run.finished_digest(),
        masked_rows,
    )
    run.progress.begin("export", sum(file.stop - file.start for file in files), "rows")
    written: dict[str, dict[str, Any]] = {}
    for outcome in run.runner.map(export_file, files, job):
        written[outcome.item.name] = asdict(outcome.value())
        run.progress.advance(outcome.item.stop - outcome.item.start)
    if "faiss" in run.config.export:
        # One index or parts of it: what rows that were added have replaced would be searched as if it were all.
        run.generation.folder.remove("index.faiss" if files[0].is_part else "index")
    ordered = {file.name: written[file.name] for file in files}
    run.generation.mark_done("export", export_fingerprint(run, codes), files=ordered)
    return ", ".join(file.name for file in files)


def _is_there(run: Run, file: ExportFile) -> bool:
    """Say whether an exported file has the size that was written."""
    path = run.generation.folder.file(file.name)
    wanted = run.generation.stage("export").get("files", {}).get(file.name)
    try:
        return wanted is not None and place_of(path).size(path) == wanted["bytes"]
    except FileNotFoundError:
        return False


def plan_files(run: Run, codes: CodeArray) -> list[ExportFile]:
    """Return the files that the config asks for, and the rows of each."""
    files: list[ExportFile] = []
    if "faiss" in run.config.export:
        row_bytes = packed_row_bytes(run.spec.columns, run.spec.k)
        part_rows = SINGLE_INDEX_BYTES // row_bytes
        if codes.rows <= part_rows:
            files.append(ExportFile("index.faiss", "faiss", 0, codes.rows))
        else:
            whole = max(1, part_rows // codes.shard_rows) * codes.shard_rows
            files += [
                ExportFile(f"index/{part.start}.faiss", "faiss", part.start, part.stop, True)
                for part in plan_shards(codes.rows, whole)
            ]
    if "npy" in run.config.export:
        files.append(ExportFile("codes.npy", "npy", 0, codes.rows))
    return files


STAGE = Stage("export", need, execute)
