"""The report stage: the figures as a page that a person can read."""

from __future__ import annotations

import yaml

from vqpipe.pipeline.contents import REPORT_FILE, list_contents
from vqpipe.pipeline.drift import drift_warning
from vqpipe.pipeline.generation import EVALUATION_FILE, fingerprint
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.report import ReportFacts, render_report
from vqpipe.storage.code_use import read_use
from vqpipe.storage.codebook_file import read_codebook
from vqpipe.versions import versions

# Of a page: another version's is made again.
PAGE_VERSION = 2

# Of a source of more places than this the first are named.
_PLACES_NAMED = 5


def report_fingerprint(run: Run) -> str:
    """Return the fingerprint: the figures and what was exported.

    Not the pace of encoding: shards that were lost and come out as they were leave the page as it is.
    """
    before = (run.generation.stage(name).get("fingerprint", "") for name in ("evaluate", "export"))
    return fingerprint([PAGE_VERSION, run.config.name, drift_warning(run)], *before)


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
    return ReportFacts(
        name=run.config.name,
        generation=run.generation.name,
        rows=codes.rows,
        dim=run.source.dim,
        source=_source(run),
        source_dtype=run.source.dtype,
        codebook=str(run.spec),
        metric=run.config.source.metric,
        route=codebook.quantizer.route.name,
        code_dtype=codes.dtype,
        bytes_in=codes.rows * run.source.row_bytes,
        bytes_codes=int(run.records().stored_bytes.sum()),
        evaluation=evaluation,
        code_counts=read_use(codes.path),
        history=codebook.history,
        pace=run.generation.stage("encode").get("pace"),
        config_text=yaml.safe_dump(run.config.plain(), sort_keys=False),
        versions=versions(),
        digests=_digests(run, codebook.quantizer.codebook.digest),
        files=list_contents(run),
        seconds=run.seconds,
        stage_rows=run.rows_done,
        drift_allowed=run.config.drift.distortion,
        masked_rows=evaluation["masked_rows"],
        warnings=tuple(run.warnings),
        output=run.output.path,
    )


def _source(run: Run) -> str:
    """Return where the vectors are; of very many places how many more there are."""
    uri = run.source.uri
    places = [uri] if isinstance(uri, str) else list(uri)
    more = len(places) - _PLACES_NAMED
    return ", ".join(places[:_PLACES_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _digests(run: Run, codebook_digest: str) -> dict[str, str]:
    """Return what tells this generation's parts from any other's."""
    found = {"codebook": codebook_digest}
    for stage in ("sample", "train", "encode", "evaluate"):
        if "fingerprint" in run.generation.stage(stage):
            found[f"{stage} fingerprint"] = run.generation.stage(stage)["fingerprint"]
    found["records of the shards"] = run.records().digest
    for name, file in run.generation.stage("export").get("files", {}).items():
        found[name] = file["sha256"]
    return found


STAGE = Stage("report", need, execute)
