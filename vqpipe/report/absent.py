"""What is not on the page, and why."""

from __future__ import annotations

from vqpipe.report.facts import ReportFacts
from vqpipe.report.headlines import recall_at
from vqpipe.report.measured import read_histogram, read_increments, read_pace


def absent(facts: ReportFacts) -> list[str]:
    """Say which figures and plots are left out, and why."""
    reasons = []
    if not facts.bytes_codes:
        reasons.append("Compression: there are no codes.")
    if facts.evaluation.get("relative_distortion") is None:
        reasons.append(f"Relative distortion: {_why_no_relative(facts)}.")
    if not recall_at(facts):
        why = "no queries were searched"
        if facts.codebook.startswith("KM"):
            why = "one codeword per row is a label, not something to search by"
        reasons.append(f"Recall: {why}.")
    if not facts.history:
        reasons.append("Training: this codebook was not trained here.")
    if read_histogram(facts.evaluation.get("error_histogram")) is None:
        reasons.append(f"Errors of rows: {_why_no_errors(facts)}.")
    if read_pace(facts.pace) is None:
        reasons.append("Pace of encoding: it was not recorded.")
    if not read_increments(facts.evaluation):
        reasons.append("Drift: no rows came or changed since the first figures were taken.")
    return reasons


def _why_no_relative(facts: ReportFacts) -> str:
    if facts.evaluation.get("distortion") is None:
        return "no rows were measured"
    if facts.evaluation.get("distortion_rows") == "all":
        return "the codebook was given, so no rows were held out"
    return "the rows measured have no variance"


def _why_no_errors(facts: ReportFacts) -> str:
    if facts.evaluation.get("distortion") == 0:
        return "every row is restored exactly"
    if facts.evaluation.get("distortion_rows") == "all":
        return "the codebook was given, so no rows were held out"
    return "these figures were taken by a version that did not count them"
