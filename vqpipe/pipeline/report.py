"""The report stage: the figures as a page that a person can read."""

from __future__ import annotations

import yaml

from vqpipe.pipeline.drift import drift_warning
from vqpipe.pipeline.generation import EVALUATION_FILE, fingerprint
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.report import ReportFacts, render_report
from vqpipe.storage.code_use import read_use
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.storage.place import place_of
from vqpipe.versions import versions

REPORT_FILE = "report.html"

_CONTENTS = (
    ("codebook.zarr", "the codebook: centroids, offset, training history"),
    ("codes.zarr", "the codes, and a record for every shard"),
    (EVALUATION_FILE, "the figures above"),
    ("index.faiss", "a FAISS index of all rows"),
    ("index", "FAISS indexes of parts of the rows"),
    ("codes.npy", "the codes as one plain array"),
)


def report_fingerprint(run: Run) -> str:
    """Return the fingerprint: the figures and what was exported."""
    before = (run.generation.stage(name).get("fingerprint", "") for name in ("evaluate", "export"))
    return fingerprint([run.config.name, drift_warning(run)], *before)


def need(run: Run) -> Need:
    """Say whether the page must be written."""
    if not run.generation.stage("evaluate"):
        return Need("to do", "follows from evaluate")
    if "report" in run.redo:
        return Need("to do", "forced")
    there = run.generation.folder.has(REPORT_FILE)
    if there and run.generation.is_done("report", report_fingerprint(run)):
        return Need("done", "the figures have not changed")
    return Need("to do", "the figures, the exports or the name are new")


def execute(run: Run) -> str:
    """Render the page and write it."""
    page = render_report(_facts(run))
    run.generation.folder.write_bytes(REPORT_FILE, page.encode())
    run.generation.mark_done("report", report_fingerprint(run))
    return run.generation.folder.file(REPORT_FILE)


def _facts(run: Run) -> ReportFacts:
    codes = run.finished_codes()
    codebook = read_codebook(run.generation.codebook_path)
    evaluation = run.generation.folder.read_json(EVALUATION_FILE)
    uri = run.source.uri
    return ReportFacts(
        name=run.config.name,
        generation=run.generation.name,
        rows=codes.rows,
        dim=run.source.dim,
        source=uri if isinstance(uri, str) else ", ".join(uri),
        source_dtype=run.source.dtype,
        codebook=str(run.spec),
        codebook_digest=codebook.quantizer.codebook.digest,
        metric=run.config.source.metric,
        route=codebook.quantizer.route.name,
        bytes_in=codes.rows * run.source.row_bytes,
        bytes_codes=int(run.records().stored_bytes.sum()),
        evaluation=evaluation,
        code_counts=read_use(codes.path).tolist(),
        history=codebook.history,
        config_text=yaml.safe_dump(run.config.plain(), sort_keys=False),
        versions=versions(),
        files=_files(run),
        seconds=run.seconds,
        masked_rows=evaluation["masked_rows"],
        warnings=tuple(run.warnings),
        output=run.output.path,
    )


def _files(run: Run) -> list[tuple[str, int, str]]:
    folder, files = run.generation.folder, []
    for name, what in _CONTENTS:
        if folder.has(name):
            path = folder.file(name)
            place = place_of(path)
            size = (folder / name).size_bytes() if place.is_folder(path) else place.size(path)
            files.append((f"{run.generation.name}/{name}", size, what))
    return files


STAGE = Stage("report", need, execute)
