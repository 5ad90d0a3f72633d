"""A sweep's tables, in words: the same on a terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vqpipe.report.facts import format_bytes, format_seconds

# Marks a codebook that no other one beats.
FRONT = "*"

_ROWS_NAMED = {"heldout": "held-out rows", "train": "training rows (in sample)"}


class Table(NamedTuple):
    """A table of text: its headings, and its rows."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def quality_table(sweep: Mapping[str, Any]) -> Table:
    """Return how good each codebook is: a row for vqpipe's figures, and one for FAISS's below it."""
    codebooks = sweep["codebooks"]
    searched = [one["vqpipe"]["recall"] for one in codebooks if one["vqpipe"]["recall"]]
    places = list(searched[0]) if searched else []
    rows = []
    for one in codebooks:
        size = (
            f"{one['codebook']}{' ' + FRONT if one['on_front'] else ''}",
            f"{one['bits_per_vector']:,}",
            f"{one['bytes_per_vector']:g}",
            f"{one['ratio']:.1f}",
        )
        rows.append((*size, "vqpipe", *_quality(one["vqpipe"], places)))
        if one["faiss"]:
            rows.append(("", "", "", "", "FAISS", *_quality(one["faiss"], places)))
    found = (f"recall@{places[0]}", *(f"@{k}" for k in places[1:])) if places else ()
    return Table(("codebook", "bits", "bytes", "ratio", "by", "distortion", *found), rows)


def _quality(side: Mapping[str, Any], places: Sequence[str]) -> list[str]:
    value = side["relative_distortion"]
    shares = side["recall"] or {}
    return [
        "-" if value is None else f"{value:.4f}",
        *(f"{shares[k]:.3f}" if k in shares else "-" for k in places),
    ]


def cost_table(sweep: Mapping[str, Any]) -> Table:
    """Return what each codebook takes: to learn, and on the full source."""
    with_faiss = has_faiss(sweep)
    rows = []
    for one in sweep["codebooks"]:
        full = one["full"]
        learnt = [_seconds(one["vqpipe"])] + [_seconds(one["faiss"])] * with_faiss
        rows.append(
            (
                str(one["codebook"]),
                *learnt,
                format_seconds(full["encode_seconds"]),
                format_bytes(full["bytes_codes"]),
                format_bytes(full["bytes_index"]),
            )
        )
    learning = ("training", "FAISS's") if with_faiss else ("training",)
    return Table(("codebook", *learning, "encoding", "codes", "index"), rows)


def _seconds(side: Mapping[str, Any] | None) -> str:
    known = side is not None and side["train_seconds"] is not None
    return format_seconds(side["train_seconds"]) if side is not None and known else "-"


def notes(sweep: Mapping[str, Any]) -> list[str]:
    """Return what must be known to read the tables."""
    source, sample, workers = sweep["source"], sweep["sample"], sweep["workers"]
    said = [
        f"{FRONT} no other one is at once as small, leaves as little distortion and finds as much.",
        f"distortion: of {_ROWS_NAMED[sweep['measured_on']]}, as a share of their variance."
        + (
            f" recall@k: {sweep['queries']:,} queries among {sample['database_rows']:,} rows."
            if sweep["queries"]
            else ""
        ),
        f"encoding, codes, index: of all {source['rows']:,} rows, on {_workers(workers)}, as the sample was encoded.",
    ]
    if has_faiss(sweep):
        said.append(_faiss_note(sweep))
    else:
        said.append(f"training: on {_workers(workers)}.")
    return said


def has_faiss(sweep: Mapping[str, Any]) -> bool:
    """Say whether FAISS learnt any of the codebooks."""
    return any(one["faiss"] for one in sweep["codebooks"])


def _faiss_note(sweep: Mapping[str, Any]) -> str:
    rows = sweep["sample"]["train_rows"]
    fewer = [
        f"{one['codebook']} from the first {one['faiss']['train_rows']:,}"
        for one in sweep["codebooks"]
        if one["faiss"] and one["faiss"]["train_rows"] < rows
    ]
    but = f", but {', '.join(fewer)}, which memory_per_worker holds" if fewer else ""
    return (
        f"FAISS learnt by its own training (25 iterations, one thread) from the same {rows:,} rows{but}; vqpipe learnt "
        f"on {_workers(sweep['workers'])}. One seed each: 0.1% of distortion and 0.015 of recall@1 are chance."
    )


def _workers(count: int) -> str:
    return "one worker" if count == 1 else f"{count:,} workers"
