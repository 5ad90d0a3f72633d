"""The plan: what each stage would do, read, write and take. Changes nothing."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vqpipe.codebook import Codebook
from vqpipe.pipeline.ingest import plan_stretches
from vqpipe.pipeline.legs import plan_rounds, planned_rows
from vqpipe.pipeline.limits import plan_disk, plan_memory
from vqpipe.pipeline.pending import find_pending
from vqpipe.pipeline.pipeline import ROUTE
from vqpipe.pipeline.record import read_run_file
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sample import plan_draws, scatter_shards
from vqpipe.pipeline.stage import Need
from vqpipe.pipeline.unconverted import find_unconverted
from vqpipe.quantizer import Quantizer, compared_codewords
from vqpipe.shards import ceil_div
from vqpipe.storage.objects.view import viewing
from vqpipe.tasks.encode import window_rows

CALIBRATION_SECONDS = 2.0

# Rows that are calibrated on: enough that the machine's caches do not hold them all.
CALIBRATION_ROWS = 16_384


# Stages whose results these are made from: when those run, so do these.
_FOLLOWS = {
    "evaluate": ("train", "encode"),
    "export": ("train", "encode"),
    "report": ("train", "encode", "evaluate", "export"),
}


@viewing()
def plan_run(run: Run) -> dict[str, Any]:
    """Return what a run would do.

    Returns
    -------
    dict
        ``generation``, ``rows``, ``memory_per_worker``, ``disk_free_bytes`` and ``stages``: for each
        ``name, state, reason, rows, tasks, bytes_read, bytes_written, worker_bytes, seconds``
        (seconds on one core; None where nobody can tell).
    """
    memory, disk = plan_memory(run), plan_disk(run)
    work = _work(run)
    rates = _rates(run) if any(need.state != "done" for _, need in plan_needs(run)) else {}
    stages = []
    for name, need in plan_needs(run):
        rows, tasks, bytes_read = work.get(name, (0, 0, 0))
        if need.state == "done":
            rows, tasks, bytes_read = 0, 0, 0
        stages.append(
            {
                "name": name,
                "state": need.state,
                "reason": need.reason,
                "rows": rows,
                "tasks": tasks,
                "bytes_read": bytes_read,
                "bytes_written": 0 if need.state == "done" else disk.get(name, 0),
                "worker_bytes": 0 if need.state == "done" else memory.get(name, 0),
                "seconds": rows / rates[name] if name in rates and rows else None,
            }
        )
    return {
        "output": run.output.path,
        "generation": run.generation.name,
        "rows": run.source.rows,
        "memory_per_worker": int(run.config.memory_per_worker),
        "disk_free_bytes": run.output.free_bytes(),
        "stages": stages,
    }


def plan_needs(run: Run) -> list[tuple[str, Need]]:
    """Return whether each stage must run: what follows from work to do is to do itself."""
    plan: dict[str, Need] = {}
    for stage in ROUTE:
        need = stage.need(run)
        for before in _FOLLOWS.get(stage.name, ()):
            if need.state == "done" and plan[before].state != "done":
                need = Need("to do", f"follows from {before}")
        plan[stage.name] = need
    return list(plan.items())


def _work(run: Run) -> dict[str, tuple[int, int, int]]:
    """Return rows, tasks and bytes read per stage."""
    codes, source = run.codes(), run.source
    pending = find_pending(run, codes)
    encode_rows = pending.rows
    stored = source.rows * run.spec.row_code_bytes
    work = {
        "encode": (encode_rows, pending.count, encode_rows * source.row_bytes),
        "evaluate": (source.rows, min(codes.shard_count, 256), stored),
        "export": (source.rows, len(run.config.export), stored * len(run.config.export)),
    }
    if source.converted is not None:
        new = find_unconverted(run)
        rows = sum(shard.rows for shard in new)
        work["ingest"] = (rows, len(plan_stretches(run, new)), rows * source.row_bytes)
    if run.given is None:
        schedule = run.schedule
        rounds = plan_rounds(run.spec, schedule)
        tasks = sum(ceil_div(rows, run.slice_rows(cut)) for rows, cut in rounds)
        rows = planned_rows(run.spec, schedule)
        targets = sum(draw.shard_count for draw in plan_draws(run))
        read = run.rows_at_begin
        work["sample"] = (read, len(scatter_shards(run)) + targets, read * source.row_bytes)
        work["train"] = (rows, tasks, rows * source.row_bytes)
    return work


def _rates(run: Run) -> dict[str, float]:
    """Return rows per second: as the last run measured them, else by a short trial of the arithmetic."""
    rates: dict[str, float] = {}
    rates.update(read_run_file(run.output).get("rows_per_second", {}))
    if "encode" not in rates:
        rates["encode"] = _calibrate(run)
    # A training row costs what an encoded row costs, less what its search spares, and its share of the tally. Over
    # residual stages it is encoded by the stages so far.
    spared = run.spec.k / compared_codewords(run.spec, run.search)
    spared *= 2 * run.spec.stages / (run.spec.stages + 1)
    rates.setdefault("train", rates["encode"] * 0.7 * spared)
    return rates


def _calibrate(run: Run) -> float:
    """Encode made-up rows with a made-up codebook of this shape for two seconds."""
    rng = np.random.default_rng(0)
    spec, dim = run.spec, run.source.dim
    shape = (spec.stages, spec.m, spec.k, dim // spec.m)
    centroids = rng.standard_normal(shape, dtype=np.float32)
    rotation = np.eye(dim, dtype=np.float32) if spec.kind == "OPQ" else None
    codebook = Codebook(spec.kind, "l2", np.zeros(dim, np.float32), centroids, rotation)
    quantizer = Quantizer(codebook, run.route)
    rows = rng.standard_normal(
        (min(CALIBRATION_ROWS, window_rows(dim, run.route.block_rows)), dim), dtype=np.float32
    )
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < CALIBRATION_SECONDS:
        placed = quantizer.rotate(rows)
        quantizer.squared_errors(placed, quantizer.assign(placed))
        done += len(rows)
    return done / (time.perf_counter() - began)
