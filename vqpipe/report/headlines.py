"""Whether the result is good: the sentence and the figures that stand above everything else."""

from __future__ import annotations

from typing import NamedTuple

from vqpipe.report.facts import ReportFacts, format_bytes

_ROWS_NAMED = {"heldout": "held-out rows", "train": "training rows", "all": "all rows"}


class Card(NamedTuple):
    """One headline figure."""

    label: str
    figure: str
    note: str


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def recall_at(facts: ReportFacts) -> dict[int, float]:
    """Return recall by k, in order; empty where there is none."""
    recall = facts.evaluation.get("recall") or {}
    return {int(at): float(recall[at]) for at in sorted(recall, key=int)}


def rows_measured(facts: ReportFacts) -> str:
    """Return the words for the rows that distortion is measured on."""
    rows = facts.evaluation.get("distortion_rows")
    return _ROWS_NAMED.get(str(rows), "rows")


def drift_against(facts: ReportFacts) -> str:
    """Return the words for the rows that new ones are compared with."""
    drift = facts.evaluation.get("drift") or {}
    rows = drift.get("compared_with")
    return "the rows before" if rows == "before" else _ROWS_NAMED.get(str(rows), "rows")


def verdict(facts: ReportFacts) -> str:
    """Return the result in one sentence."""
    parts = []
    if facts.bytes_codes:
        parts.append(f"the codes are {facts.bytes_in / facts.bytes_codes:,.1f} times smaller")
    lost = facts.evaluation.get("relative_distortion")
    if lost is not None:
        parts.append(f"{_percent(1 - lost)} of the variance is kept")
    recall = recall_at(facts)
    if recall:
        at = min(recall, key=lambda k: abs(k - 10))
        nearest = "the nearest row by code" if at == 1 else f"among the {at:,} nearest by code"
        parts.append(f"for {_percent(recall[at])} of queries the exact nearest row is {nearest}")
    sentence = "; ".join(parts) or "nothing was measured"
    return sentence[0].upper() + sentence[1:] + "."


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
        note = f"{_percent(lost)} lost: relative distortion {lost:.4g}, on {rows_measured(facts)}"
        if facts.evaluation.get("in_sample"):
            note += "; in sample, so new rows will do a little worse"
        found.append(Card("Variance kept", _percent(1 - lost), note))
    recall = recall_at(facts)
    if recall:
        note = "the exact nearest row is among the k nearest by code"
        if facts.evaluation.get("queries") and facts.evaluation.get("database_rows"):
            note = (
                f"{facts.evaluation['queries']:,} queries among "
                f"{facts.evaluation['database_rows']:,} rows: {note}"
            )
        label = "Recall" + " · ".join(f"@{at:,}" for at in recall)
        found.append(Card(label, " · ".join(map(_percent, recall.values())), note))
    return [*found, *_use_cards(facts)]


def _use_cards(facts: ReportFacts) -> list[Card]:
    """Return how well the codewords are used."""
    found = []
    shares = [
        perplexity / len(counts)
        for perplexity, counts in zip(
            facts.evaluation.get("perplexity") or (), facts.code_counts, strict=False
        )
        if len(counts)
    ]
    if shares:
        note = "perplexity as a share of the codewords"
        if len(shares) > 1:
            note += f", mean of {len(shares):,} columns; the worst has {_percent(min(shares))}"
        found.append(Card("Code use", _percent(sum(shares) / len(shares)), note))
    dead = facts.evaluation.get("dead")
    if dead is not None:
        codewords = sum(map(len, facts.code_counts))
        starved = sum(facts.evaluation.get("starved") or ())
        note = f"of {codewords:,} never used; {starved:,} starved (under a tenth of the mean)"
        surplus = sum(facts.evaluation.get("surplus") or ())
        if surplus:
            note += f"; {surplus:,} of them surplus: there were no more distinct rows to learn from"
        found.append(Card("Dead codewords", f"{sum(dead):,}", note))
    return found


def absent(facts: ReportFacts) -> list[str]:
    """Say which figures are left out, and why."""
    reasons = []
    if not facts.bytes_codes:
        reasons.append("Compression is left out: there are no codes.")
    if facts.evaluation.get("relative_distortion") is None:
        why = "the rows measured have no variance"
        if facts.evaluation.get("distortion") is None:
            why = "no rows were measured"
        reasons.append(f"Relative distortion is left out: {why}.")
    if not recall_at(facts):
        why = "no queries were searched"
        if facts.codebook.startswith("KM"):
            why = "one codeword per row is a label, not something to search by"
        reasons.append(f"Recall is left out: {why}.")
    if not facts.history:
        reasons.append("The training curve is left out: this codebook was not trained here.")
    return reasons
