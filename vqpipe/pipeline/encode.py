"""The encode stage: pending shards, one task each, bounded in flight."""

from __future__ import annotations

from vqpipe.errors import InvalidRowError, StageError
from vqpipe.pipeline.fast import settle_route
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.stage import Need, Stage
from vqpipe.runner import Outcome
from vqpipe.shards import Shard
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.tasks.encode import Encoded, EncodeJob, encode_shard

# So many failed shards are named.
NAMED_SHARDS = 5


def pending_shards(run: Run, codes: CodeArray) -> list[Shard]:
    """Return the shards that have no record, or one from rows that have changed since."""
    there = find_codes(codes.path)
    if there is None:
        return list(codes.shards)
    records = there.records()
    return [
        shard
        for shard in codes.shards
        if not records.done(shard.index, run.source.signature(shard.start, shard.stop))
    ]


def need(run: Run) -> Need:
    """Say whether shards must be encoded."""
    codes = run.codes()
    there = find_codes(codes.path)
    if there is None or run.digest is None:
        return Need("to do", run.news or "no shard was encoded")
    pending = pending_shards(run, codes)
    if pending and len(pending) < codes.shard_count:
        grown = (
            f", {run.source.rows - there.rows:,} rows are new"
            if run.source.rows > there.rows
            else ""
        )
        return Need(
            "partial",
            f"{len(pending)} of {codes.shard_count} shards are new, changed or unfinished{grown}",
        )
    if pending:
        return Need("to do", run.news or "no shard is encoded, or all have changed")
    if there.rows < run.source.rows or (codes.masked and not there.masked):
        return Need("partial", "all shards are encoded but not yet published")
    return Need("done", f"all {codes.shard_count} shards were encoded before")


def execute(run: Run) -> str:
    """Encode the pending shards, then show readers rows that are new."""
    codes = run.codes()
    pending = pending_shards(run, codes)
    digest = run.finished_digest()
    settle_route(run)
    facts = {"codebook": str(run.spec), "codebook_digest": digest}
    codes.prepare({**facts, "metric": run.config.source.metric})
    job = EncodeJob(
        run.source, codes, run.generation.codebook_path, digest, run.config.source.invalid_rows
    )
    run.progress.begin("encode", sum(shard.rows for shard in pending), "rows")
    failed: list[Outcome[Shard, Encoded]] = []
    encoded: list[Encoded] = []
    for outcome in run.runner.map(encode_shard, pending, job):
        if outcome.error is not None:
            failed.append(outcome)
            continue
        encoded.append(outcome.value())
        run.progress.advance(outcome.item.rows)
    if failed:
        raise _failure(failed, codes.shard_count)
    codes.publish_rows()
    run.rows_done["encode"] = sum(part.rows for part in encoded)
    run.task_seconds["encode"] = [part.seconds for part in encoded]
    run.generation.mark_done("encode", run.encode_fingerprint, rows=run.source.rows)
    run.generation.facts["latest"] = {"rows": run.source.rows, "files": run.source.files()}
    run.generation.save()
    masked = sum(part.masked_rows for part in encoded)
    left_out = f", {masked:,} masked" if masked else ""
    kept = codes.shard_count - len(pending)
    kept_shards = f"; {kept} shards were there" if kept else ""
    return f"{sum(part.rows for part in encoded):,} rows in {len(pending)} shards{left_out}{kept_shards}"


def _failure(failed: list[Outcome[Shard, Encoded]], shards: int) -> Exception:
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
    named = ", ".join(
        f"{outcome.item.index} (rows {outcome.item.start:,} to {outcome.item.stop:,})"
        for outcome in failed[:NAMED_SHARDS]
    )
    error = StageError(
        "encode",
        f"{len(failed)} of {shards} shards failed: {named}; the first one's cause: "
        f"{type(cause).__name__}: {cause}; {done}: run again to go on",
    )
    error.__cause__ = cause
    return error


STAGE = Stage("encode", need, execute)
