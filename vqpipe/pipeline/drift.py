"""Drift: rows that are new or changed since the last evaluation, against the rows that were learnt from."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqpipe.dtypes import Int64
from vqpipe.errors import InputError
from vqpipe.evaluation.drift import jensen_shannon
from vqpipe.evaluation.measures import CodeUse
from vqpipe.pipeline.generation import EVALUATION_FILE
from vqpipe.pipeline.run import Run
from vqpipe.shards import Shard, plan_shards
from vqpipe.storage.codes import CodeArray
from vqpipe.storage.folder import Folder
from vqpipe.tasks.drift import NewRowsJob, measure_new_rows

# What drift is measured from: written whole, as the last thing of an evaluation but its mark.
BASELINE_FILE = "drift.npz"

# So many increments are kept: three years of nightly ones, in a plot of at most 2,000 points.
MOST_INCREMENTS = 1000

# What NumPy and zip raise for damaged bytes.
BASELINE_ERRORS = (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)

_NAMES = {"heldout": "held-out rows", "train": "training rows", "before": "the rows before"}


@dataclass(frozen=True, eq=False)
class News:
    """What has come or changed since the figures were taken.

    Attributes
    ----------
    shards : tuple of Shard
        Stretches of rows, each within a shard: all of a shard that is new or whose rows changed, and the new
        rows of the one that was the last. Changes among that one's old rows are not told from its growth.
    counts : int64 array of shape (columns, k)
        How often each codeword was used by the rows before.
    """

    shards: tuple[Shard, ...]
    counts: Int64


def find_news(run: Run, codes: CodeArray) -> News | None:
    """Return what is new since the last evaluation; None before the first and if nothing is."""
    folder = run.generation.folder
    if not folder.has(BASELINE_FILE):
        return None
    try:
        rows_before, counts, signatures = _read_baseline(folder)
    except BASELINE_ERRORS as error:
        run.warn(f"{BASELINE_FILE} cannot be read ({error}); drift is told from the next run on")
        return None
    records = run.records()
    found = []
    for shard in codes.shards:
        new = shard.start >= rows_before
        if not new and signatures[shard.index].tobytes() == records.signature(shard.index):
            continue
        grown = not new and shard.stop > rows_before
        found.append(Shard(shard.index, rows_before, shard.stop) if grown else shard)
    return News(tuple(found), counts) if found else None


def check_baseline(folder: Folder) -> str:
    """Say what is wrong with the baseline; empty if nothing is, or there is none."""
    if not folder.has(BASELINE_FILE):
        return ""
    try:
        _read_baseline(folder)
    except BASELINE_ERRORS as error:
        return f"cannot be read ({error})"
    return ""


def _read_baseline(folder: Folder) -> tuple[int, Int64, NDArray[np.uint8]]:
    # NumPy does not close a file that it cannot read.
    with (
        folder.reading(BASELINE_FILE) as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        return int(stored["rows"]), stored["counts"], stored["signatures"]


def keep_baseline(run: Run, codes: CodeArray, use: CodeUse) -> None:
    """Write down what the next run's drift is measured from."""
    with run.generation.folder.writing(BASELINE_FILE) as file:
        signatures = run.records().source_signature[: codes.shard_count]
        np.savez(file, rows=codes.rows, counts=use.counts, signatures=signatures)


def measure_drift(
    run: Run, codes: CodeArray, news: News | None, use: CodeUse, figures: dict[str, Any]
) -> dict[str, Any] | None:
    """Compare new rows with held-out ones and with the rows before.

    Parameters
    ----------
    run : Run
    codes : CodeArray
    news : News or None
    use : CodeUse
        Of the new rows.
    figures : dict
        ``distortion``, ``distortion_rows`` and ``distortion_all_rows`` of this evaluation, ``rows`` and
        ``masked_rows``.

    Returns
    -------
    dict or None
        ``rows``, ``distortion``, ``compared_with`` (``heldout``, ``train``, or ``before`` where the codebook was
        given), ``compared_distortion``, ``ratio`` (None where that is 0), ``divergence`` (bits per column). What was
        found last where nothing is new; None where nothing ever was.
    """
    if news is None:
        return _found_last(run)
    rows = int(use.counts[0].sum())
    if not rows or not news.counts[0].sum():
        return None
    error = _squared_error(run, codes, news)
    compared, named = figures["distortion"], figures["distortion_rows"]
    if named == "all":
        others = figures["rows"] - figures["masked_rows"] - rows
        total = figures["distortion_all_rows"] * (others + rows)
        compared, named = max(0.0, total - error) / max(1, others), "before"
    distortion = error / rows
    return {
        "rows": rows,
        "distortion": distortion,
        "compared_with": named,
        "compared_distortion": compared,
        "ratio": distortion / compared if compared else None,
        "divergence": [float(bits) for bits in jensen_shannon(news.counts, use.counts)],
    }


def list_increments(
    run: Run, codes: CodeArray, drift: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Return how every increment so far differed, oldest first; of very many the latest.

    Parameters
    ----------
    run : Run
    codes : CodeArray
    drift : dict or None
        What `measure_drift` returned.

    Returns
    -------
    list of dict
        ``increment`` (from 1), ``rows`` (new or changed), ``rows_after`` (all, with them), ``distortion``,
        ``compared_distortion``, ``ratio``, and of ``divergence`` the ``mean`` and the ``largest`` column's.
    """
    kept = _evaluated_last(run).get("increments")
    found = [one for one in kept if isinstance(one, dict)] if isinstance(kept, list) else []
    if drift is None:
        return found
    bits = drift["divergence"]
    figures = {name: drift[name] for name in ("rows", "distortion", "compared_distortion", "ratio")}
    figures["divergence"] = {"mean": sum(bits) / len(bits), "largest": max(bits)}
    last = found[-1] if found else {}
    # The same increment again: nothing is new, or a run was killed before it wrote what the next is measured from.
    if all(last.get(name) == figure for name, figure in figures.items()):
        return found
    number = last.get("increment", 0)
    number = number + 1 if isinstance(number, int) else len(found) + 1
    increment = {"increment": number, "rows_after": codes.rows, **figures}
    return [*found, increment][-MOST_INCREMENTS:]


def _squared_error(run: Run, codes: CodeArray, news: News) -> float:
    """Return the squared error of new rows: recorded for whole shards, else measured again."""
    recorded = run.records().squared_error
    error, parts = 0.0, []
    for shard in news.shards:
        if shard.start % codes.shard_rows == 0:
            error += float(recorded[shard.index])
        else:
            cut = plan_shards(shard.rows, max(1, codes.shard_rows // 16))
            parts += [Shard(part.index, shard.start + part.start, shard.start + part.stop) for part in cut]  # fmt: skip
    if parts:
        job = NewRowsJob(run.source, run.generation.codebook_path, run.finished_digest())
        error += run.runner.fold(measure_new_rows, parts, job)
    return error


def _found_last(run: Run) -> dict[str, Any] | None:
    found = _evaluated_last(run).get("drift")
    return found if isinstance(found, dict) else None


def _evaluated_last(run: Run) -> dict[str, Any]:
    """Return the figures that were taken last; none where there are none, or they are damaged."""
    try:
        return run.generation.folder.read_json(EVALUATION_FILE)
    except (InputError, FileNotFoundError):
        return {}


def warn_of_drift(run: Run) -> None:
    """Warn where new rows are farther from their codewords than ``drift.distortion`` allows."""
    message = drift_warning(run)
    if message:
        run.warn(message)


def drift_warning(run: Run) -> str:
    """Return the warning; empty where there is nothing to warn of."""
    allowed, drift = run.config.drift.distortion, _found_last(run)
    if allowed is None or drift is None or drift["ratio"] is None or drift["ratio"] <= allowed:
        return ""
    against = f"{_NAMES[drift['compared_with']]} ({drift['compared_distortion']:.6g})"
    return (
        f"drift: {drift['rows']:,} new or changed rows have a distortion of {drift['distortion']:.6g}, "
        f"{drift['ratio']:.3g} times that of {against}, and drift.distortion allows {allowed:g}: the codebook no "
        "longer suits what comes in. Learn it again with --force train (it starts the next generation and encodes "
        "all rows), or raise drift.distortion"
    )
