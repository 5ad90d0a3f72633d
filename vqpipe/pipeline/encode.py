"""The encode stage: pending shards, one task each, bounded in flight."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from vqpipe.errors import InvalidRowError, StageError
from vqpipe.pipeline.fast import settle_route
from vqpipe.pipeline.pace import Finish, measure_pace
from vqpipe.pipeline.pending import Pending, find_pending, name_shards
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.runner import Outcome
from vqpipe.shards import Shard
from vqpipe.sources.source import describe_objects
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.summary import drop_summary, read_summary, write_summary
from vqpipe.tasks.compare import CompareJob, Doubtful, compare_rows
from vqpipe.tasks.encode import Encoded, EncodeJob, encode_shard

_log = logging.getLogger(__name__)

# Shards go out after a look at the lease that is at most this old.
LOOK_SECONDS = 1.0


def need(run: Run) -> Need:
    """Say whether shards must be encoded."""
    codes = run.codes()
    there = find_codes(codes.path)
    if there is None or run.digest is None:
        return Need("to do", run.news or "no shard was encoded")
    pending = find_pending(run, codes)
    if 0 < pending.count < codes.shard_count or pending.doubtful:
        return Need("partial", _in_words(run, codes, there.rows, pending))
    if pending.count:
        return Need("to do", run.news or "no shard is encoded, or all have changed")
    if codes.masked and not there.masked:
        return Need("partial", "source.invalid_rows is mask now: a mask of valid rows is added")
    if there.rows < run.source.rows:
        return Need("partial", "all shards are encoded but not yet published")
    return Need("done", f"all {codes.shard_count} shards were encoded before")


def _in_words(run: Run, codes: CodeArray, rows_there: int, pending: Pending) -> str:
    parts = []
    if pending.shards:
        parts.append(
            f"{len(pending.shards)} of {codes.shard_count} shards are new, changed or unfinished"
        )
    if pending.doubtful:
        parts.append(
            f"{len(pending.doubtful)} of {codes.shard_count} shards lie in a file that was written since, so "
            "their bytes are compared"
        )
    if pending.damaged:
        parts.append(f"damaged: {name_shards(pending.damaged)}")
    if run.source.rows > rows_there:
        parts.append(f"{run.source.rows - rows_there:,} rows are new")
    return ", ".join(parts)


def execute(run: Run) -> str:
    """Encode the pending shards, then show readers rows that are new."""
    codes = run.codes()
    pending = find_pending(run, codes)
    if pending.damaged:
        run.warn(
            f"encode: {name_shards(pending.damaged)} of {codes.path}: the record or the codes were damaged or lost; "
            "encoded again from the source"
        )
    digest = run.finished_digest()
    settle_route(run)
    facts = {"codebook": str(run.spec), "codebook_digest": digest}
    drop_summary(codes.path)
    codes.prepare({**facts, "metric": run.config.source.metric})
    _begin_count(run, codes, pending)
    failed: list[Outcome[Shard, Any]] = []
    shards = [*pending.shards, *_changed(run, codes, pending.doubtful, failed)]
    job = EncodeJob(
        run.source, codes, run.generation.codebook_path, digest, run.config.source.invalid_rows
    )
    finishes, encoded = _encode(run, shards, job, failed)
    run.forget_records()
    if failed:
        raise _failure(failed, codes.shard_count)
    run.may_write()
    codes.publish_rows()
    run.rows_done["encode"] = sum(part.rows for part in encoded)
    run.task_seconds["encode"] = [(part.seconds, part.cpu_seconds) for part in encoded]
    # Where no shard was encoded, only published, the last ones' pace stands.
    pace = measure_pace(finishes) or run.generation.stage("encode").get("pace")
    run.generation.mark_done("encode", run.encode_fingerprint, rows=run.source.rows, pace=pace)
    run.generation.facts["latest"] = {"rows": run.source.rows, "files": run.source.files()}
    described = describe_objects(run.source)
    if described:
        run.generation.facts["described"] = described
    run.generation.save()
    masked = sum(part.masked_rows for part in encoded)
    left_out = f", {masked:,} masked" if masked else ""
    kept = codes.shard_count - len(shards)
    kept_shards = f"; {kept} shards were there" if kept else ""
    same = len(pending.doubtful) - (len(shards) - len(pending.shards))
    compared = f", {same} of them compared with the source" if pending.doubtful else ""
    return (
        f"{run.rows_done['encode']:,} rows in {len(shards)} shards{left_out}{kept_shards}{compared}"
    )


def _begin_count(run: Run, codes: CodeArray, pending: Pending) -> None:
    done = codes.shard_count - pending.count
    run.shards_done = [done, codes.shard_count]
    run.progress.begin("encode", pending.rows, "rows", 0, codes.shard_count, done)


def _encode(
    run: Run, shards: Sequence[Shard], job: EncodeJob, failed: list[Outcome[Shard, Any]]
) -> tuple[list[Finish], list[Encoded]]:
    """Encode shards; return when each came back, and what it is; what fails goes into ``failed``."""
    finishes: list[Finish] = []
    encoded: list[Encoded] = []
    began = time.perf_counter()
    for outcome in run.runner.map(encode_shard, _sent(run, shards), job):
        shard = outcome.item
        if outcome.error is not None:
            failed.append(outcome)
            _log.error(
                "encode: %s failed: %s",
                name_shards([shard]),
                outcome.error,
                extra={"shard": shard.index},
            )
            continue
        part = outcome.value()
        ended = time.perf_counter() - began
        finishes.append(Finish(shard.index, part.rows, part.seconds, ended))
        encoded.append(part)
        _count(run, shard)
    return finishes, encoded


def _count(run: Run, shard: Shard) -> None:
    run.shards_done[0] += 1
    run.progress.advance(shard.rows, shards=1)


def _sent(run: Run, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Yield shards in order, as long as this run may write them."""
    for shard in sorted(shards, key=attrgetter("index")):
        # A look per shard would be most of what a rerun asks of an object store.
        run.may_write(LOOK_SECONDS)
        yield shard


def _changed(
    run: Run, codes: CodeArray, doubtful: Sequence[Shard], failed: list[Outcome[Shard, Any]]
) -> list[Shard]:
    """Return which shards' rows are other ones than they were; what fails goes into ``failed``."""
    found = []
    records = run.records() if doubtful else None
    job = CompareJob(run.source, codes)
    items = [Doubtful(shard, records.signature(shard.index)) for shard in doubtful if records]
    for outcome in run.runner.map(compare_rows, items, job):
        shard = outcome.item.shard
        if outcome.error is not None:
            failed.append(Outcome(shard, None, outcome.error))
        elif outcome.value():
            _count(run, shard)
        else:
            found.append(shard)
    return found


def _failure(failed: list[Outcome[Shard, Any]], shards: int) -> Exception:
    """Return the error that says what failed: the user's rows first, since only they can mend them."""
    failed.sort(key=lambda outcome: outcome.item.index)
    errors = [outcome.error for outcome in failed]
    done = f"the other {shards - len(failed)} of {shards} shards are encoded and stay so"
    invalid = [error for error in errors if isinstance(error, InvalidRowError)]
    if len(invalid) == len(errors):
        more = f" ({len(invalid)} shards hold such rows)" if len(invalid) > 1 else ""
        return InvalidRowError(f"{invalid[0]}{more}; {done}", invalid[0].rows)
    first = next(outcome for outcome in failed if not isinstance(outcome.error, InvalidRowError))
    cause = first.error
    if getattr(cause, "exit_status", 1) == 2 and cause is not None:
        return cause
    named = name_shards([outcome.item for outcome in failed])
    error = StageError(
        "encode",
        f"{len(failed)} of {shards} shards failed: {named}; the first one's cause: "
        f"{_say_cause(cause)}; {done}: run again to go on",
    )
    error.__cause__ = cause
    return error


def _say_cause(cause: Exception | None) -> str:
    advice = ""
    if isinstance(cause, MemoryError):
        advice = "; lower encode.shard_rows, or raise memory_per_worker to what the machine has"
    return f"{type(cause).__name__}: {cause}{advice}"


def summarize(run: Run) -> None:
    """Have the records in one object, where that spares requests, for the runs to come."""
    codes = run.finished_codes()
    if read_summary(codes.path) is None:
        write_summary(codes.path, run.records())


def kept(run: Run) -> str:
    """Say what an interrupted encoding leaves."""
    if not run.shards_done:
        return "the shards that are encoded stay so"
    return "{:,} of {:,} shards are encoded and stay so".format(*run.shards_done)


STAGE = Stage("encode", need, execute, remind=summarize, kept=kept)
