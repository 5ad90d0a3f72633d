"""Whether the result is good: the sentence and the figures that stand above everything else."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from vqpipe.evaluation.health import find_poor_use
from vqpipe.evaluation.measures import CodeUse
from vqpipe.report.facts import ReportFacts, format_bytes, format_share
from vqpipe.report.measured import read_increments

_ROWS_NAMED = {"heldout": "held-out rows", "train": "training rows", "all": "all rows"}

# Recall among the 10 nearest by code. From 90% on a search that ranks a few more rows again by their vectors loses
# next to nothing; below 60% hardly any ranking makes good what the codes have lost.
GOOD_RECALL, FAIR_RECALL = 0.9, 0.6

# Recall is judged among so many rows, or the next fewer that it was taken for.
_JUDGED_AT = 10

Grade = Literal["good", "fair", "poor", "open"]


class Card(NamedTuple):
    """One headline figure."""

    label: str
    figure: str
    note: str


class Verdict(NamedTuple):
    """The result in one sentence: a grade, what it rests on, and why it is not better (or what it means)."""

    grade: Grade
    sentence: str
    why: str


def recall_at(facts: ReportFacts) -> dict[int, float]:
    """Return recall by k, in order; empty where there is none."""
    recall = facts.evaluation.get("recall") or {}
    return {int(at): float(recall[at]) for at in sorted(recall, key=int)}


def judged_recall(facts: ReportFacts) -> tuple[int, float] | None:
    """Return the k that recall is judged at, and the recall there; None where there is none."""
    recall = recall_at(facts)
    if not recall:
        return None
    at = max((k for k in recall if k <= _JUDGED_AT), default=min(recall))
    return at, recall[at]


def rows_measured(facts: ReportFacts) -> str:
    """Return the words for the rows that distortion is measured on."""
    rows = facts.evaluation.get("distortion_rows")
    return _ROWS_NAMED.get(str(rows), "rows")


def drift_against(facts: ReportFacts) -> str:
    """Return the words for the rows that new ones are compared with."""
    drift = facts.evaluation.get("drift") or {}
    rows = drift.get("compared_with")
    return "the rows before" if rows == "before" else _ROWS_NAMED.get(str(rows), "rows")


def least_even(facts: ReportFacts) -> int:
    """Return the column whose codewords are used least evenly."""
    return int(np.argmin(CodeUse(facts.code_counts).perplexity))


def verdict(facts: ReportFacts) -> Verdict:
    """Judge the result."""
    judged, faults = judged_recall(facts), _faults(facts)
    sentence = _sentence(facts)
    if not sentence:
        return Verdict("open", "Nothing was measured.", "")
    grade: Grade = "fair" if faults else "good"
    if judged is not None:
        at, share = judged
        if share < GOOD_RECALL:
            grade, limit = ("poor", FAIR_RECALL) if share < FAIR_RECALL else ("fair", GOOD_RECALL)
            faults.insert(0, _recall_advice(facts, at, limit))
    elif not facts.code_counts.any():
        grade = "open"
    if faults:
        return Verdict(grade, sentence, " ".join(faults))
    if judged is None:
        return Verdict(
            grade, sentence, "Judged by the use of codewords and by drift: there is no recall."
        )
    means = f"recall@{judged[0]:,} of {GOOD_RECALL:.0%} or more, codewords well used, no drift"
    return Verdict(grade, sentence, f"Good means: {means}.")


def _recall_advice(facts: ReportFacts, at: int, limit: float) -> str:
    larger = max(recall_at(facts))
    again = f", or ranking the first {larger:,} again by their vectors," if larger > at else ""
    return f"Recall@{at:,} is below {limit:.0%}: a codebook of more bytes a row{again} finds more."


def _faults(facts: ReportFacts) -> list[str]:
    """Say what is poor besides recall."""
    faults = []
    surplus = facts.evaluation.get("surplus") or [0] * len(facts.code_counts)
    if len(surplus) == len(facts.code_counts):
        poor = find_poor_use(CodeUse(facts.code_counts), surplus)
        if poor:
            faults.append(f"Codewords are used poorly: {'; '.join(map(str, poor))}.")
    increments = read_increments(facts.evaluation)
    ratio = increments[-1].ratio if increments else None
    if ratio is not None and facts.drift_allowed is not None and ratio > facts.drift_allowed:
        faults.append(
            f"New rows are unlike those learnt from: they have {ratio:.3g} times the distortion, and "
            f"{facts.drift_allowed:g} times is allowed."
        )
    return faults


def _sentence(facts: ReportFacts) -> str:
    parts = []
    if facts.bytes_codes:
        parts.append(f"the codes are {facts.bytes_in / facts.bytes_codes:,.1f} times smaller")
    lost = facts.evaluation.get("relative_distortion")
    if lost is not None:
        parts.append(f"{format_share(1 - lost)} of the variance is kept")
    judged = judged_recall(facts)
    if judged is not None:
        at, share = judged
        nearest = "is the nearest by code" if at == 1 else f"is among the {at:,} nearest by code"
        parts.append(f"the exact nearest row {nearest} for {format_share(share)} of queries")
    dead = facts.evaluation.get("dead")
    if dead is not None and facts.code_counts.size:
        unused, codewords = sum(dead), facts.code_counts.size
        used = f"{codewords - unused:,} of {codewords:,}" if unused else f"all {codewords:,}"
        if codewords > 1:
            parts.append(f"{used} codewords are in use")
    if not parts:
        return ""
    *others, last = parts
    joined = f"{', '.join(others)}, and {last}" if others else last
    return f"{joined[0].upper()}{joined[1:]}."


def cards(facts: ReportFacts) -> list[Card]:
    """Return the headline figures that there are."""
    found = []
    if facts.bytes_codes:
        sizes = (
            f"{format_bytes(facts.bytes_in)} of vectors, {format_bytes(facts.bytes_codes)} of codes"
        )
        found.append(Card("Compression", f"{facts.bytes_in / facts.bytes_codes:,.1f}×", sizes))
    lost = facts.evaluation.get("relative_distortion")
    if lost is not None:
        note = f"{lost:.4g} of the variance of {rows_measured(facts)}"
        if facts.evaluation.get("in_sample"):
            note += "; in sample, so new rows will do a little worse"
        found.append(Card("Relative distortion", format_share(lost), note))
    judged = judged_recall(facts)
    if judged is not None:
        at, share = judged
        others = [
            f"@{k:,} {format_share(other)}" for k, other in recall_at(facts).items() if k != at
        ]
        parts = [", ".join(others)] if others else []
        if facts.evaluation.get("queries") and facts.evaluation.get("database_rows"):
            queries, rows = facts.evaluation["queries"], facts.evaluation["database_rows"]
            parts.append(f"{queries:,} queries among {rows:,} rows")
        found.append(Card(f"Recall@{at:,}", format_share(share), "; ".join(parts)))
    return [*found, *_use_card(facts)]


def _use_card(facts: ReportFacts) -> list[Card]:
    """Return how well the codewords are used."""
    perplexity = facts.evaluation.get("perplexity") or ()
    columns, codewords = facts.code_counts.shape
    if len(perplexity) != columns or not facts.code_counts.size:
        return []
    shares = [value / codewords for value in perplexity]
    note = "perplexity over codewords"
    if columns > 1:
        note = f"mean of {columns:,} columns, the worst {format_share(min(shares))}"
    dead, starved = (sum(facts.evaluation.get(key) or ()) for key in ("dead", "starved"))
    note += f"; {dead:,} of {facts.code_counts.size:,} dead, {starved:,} starved"
    surplus = sum(facts.evaluation.get("surplus") or ())
    if surplus:
        note += f"; {surplus:,} of them surplus: there were no more distinct rows to learn from"
    return [Card("Code use", format_share(sum(shares) / columns), note)]


def drift_figures(facts: ReportFacts) -> list[tuple[str, str]]:
    """Return the figures of rows that are new; none where there are none."""
    drift = facts.evaluation.get("drift")
    if not drift:
        return []
    bits = drift["divergence"]
    worst = max(range(len(bits)), key=lambda column: float(bits[column]))
    ratio = "not known: theirs is 0" if drift["ratio"] is None else f"{drift['ratio']:.4g}"
    return [
        ("new or changed rows", f"{drift['rows']:,}"),
        ("their distortion", f"{drift['distortion']:.6g}"),
        (f"that of {drift_against(facts)}", f"{drift['compared_distortion']:.6g}"),
        ("ratio", ratio),
        (
            "Jensen-Shannon divergence of codes, mean of columns",
            f"{sum(bits) / len(bits):.4f} bits",
        ),
        (f"the same, largest (column {worst:,})", f"{bits[worst]:.4f} bits"),
    ]
