"""Run a config at several sizes and tell what each took; or kill its driver half-way and go on.

    python tests/benchmarks/rehearsal.py CONFIG [--rows 1e7 1e8 1e9] [--workers 2] [--folder FOLDER]
        [--set KEY=VALUE ...]
    python tests/benchmarks/rehearsal.py CONFIG --kill [--rows 1e8] ...

The scheduler, its workers and the driver are processes of their own, so each one's memory is told apart (the
peak of what is resident, shared library pages included). A size is the source's first rows. The output of each lies
in FOLDER, a temporary one unless said, and is removed once it is measured.

Without ``--kill`` a table of the stages and a line for the processes is printed for each size, and in the end
what a row costs encode's tasks at each. With it the run is made twice: once undisturbed, and once with a
kill -9 of the driver when half of the shards are done, then run again. Printed is how many shards the second
driver encoded, and whether the codes have the same digest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from peers import peak_megabytes_of

POLL_SECONDS = 0.5
START_SECONDS = 60

Cluster = dict[str, subprocess.Popen[bytes]]


@contextmanager
def cluster_of(workers: int, memory: str, folder: Path) -> Iterator[tuple[str, Cluster]]:
    """Start a scheduler and workers of one thread each; stop them by their process numbers."""
    contact = folder / "scheduler.json"
    contact.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    log = (folder / "cluster.log").open("ab")
    quiet = {"stdout": log, "stderr": log}
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    started = {
        "scheduler": subprocess.Popen([*scheduler, "--scheduler-file", str(contact)], **quiet)
    }
    worker = [*dask, "worker", "--scheduler-file", str(contact), "--nthreads", "1", "--no-nanny"]
    worker += ["--no-dashboard", "--memory-limit", memory, "--local-directory", str(folder)]
    try:
        for number in range(workers):
            started[f"worker {number}"] = subprocess.Popen(
                worker, **quiet, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
        waited = time.monotonic()
        while not contact.exists():
            if time.monotonic() - waited > START_SECONDS:
                raise TimeoutError("the scheduler did not start")
            time.sleep(POLL_SECONDS)
        yield json.loads(contact.read_text())["address"], started
    finally:
        # A worker would wait for its scheduler to come back; nothing here is needed any more.
        for process in started.values():
            process.kill()
            process.wait()
        log.close()


def command(arguments: argparse.Namespace, rows: int, output: Path, address: str) -> list[str]:
    """Return the command of one run."""
    settings = [f"source.rows={rows}", f"output={output}", *arguments.set]
    settings += ["cluster.scale=null", f"cluster.address={address}"]
    run = [sys.executable, "-c", "from vqpipe.cli import main; main()", "run", arguments.config]
    return [*run, "--direct", "--json", *(word for one in settings for word in ("--set", one))]


def peaks(processes: Cluster) -> dict[str, float]:
    """Return the peak memory, in MB, of every process that still lives."""
    found: dict[str, float] = {}
    for name, process in processes.items():
        if process.poll() is None:
            try:
                found[name] = peak_megabytes_of(str(process.pid))
            except FileNotFoundError:
                continue
    return found


def drive(run: list[str], others: Cluster, output: Path, kill_at: float = 2.0) -> dict[str, float]:
    """Run a driver to its end, or kill it when that share of the shards is done; return peak memories."""
    driver = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    most: dict[str, float] = {}
    while driver.poll() is None:
        for name, peak in peaks({"driver": driver, **others}).items():
            most[name] = max(peak, most.get(name, 0.0))
        if kill_at < 1 and done_share(output) >= kill_at:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            return most
        time.sleep(POLL_SECONDS)
    if driver.returncode:
        said = driver.stderr.read().decode() if driver.stderr else "the run failed"
        # Why a worker is gone stands there.
        log = (output.parent / "cluster.log").read_text().splitlines()[-40:]
        raise RuntimeError("\n".join([said, *log]))
    return most


def done_share(output: Path) -> float:
    """Return the share of the shards that have a record."""
    records = output / "v1" / "codes.zarr" / "shards" / "squared_error"
    if not (records / "zarr.json").exists():
        return 0.0
    count = json.loads((records / "zarr.json").read_text())["shape"][0]
    return len(list(records.glob("c/*"))) / count


def print_stages(record: dict[str, Any], rows: int) -> None:
    """Print a table of what each stage took."""
    print(
        f"\n{rows:,} rows\n\n| stage | seconds | rows | rows per second | tasks | µs a row | of CPU |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, work in record["work"].items():
        done = work.get("rows")
        rate = f"{done / work['seconds']:,.0f}" if done and work["seconds"] else ""
        tasks = f"{work['tasks']:,}" if "tasks" in work else ""
        each = " | ".join(
            f"{work[key] / done * 1e6:.3f}" if done and key in work else ""
            for key in ("task_seconds", "task_cpu_seconds")
        )
        told = f"{done:,}" if done else ""
        print(f"| {name} | {work['seconds']:,.1f} | {told} | {rate} | {tasks} | {each} |")


def sizes(output: Path) -> str:
    """Return the bytes of what the output holds."""
    parts = {"codes": output / "v1/codes.zarr", "samples": output / "samples", "all": output}
    held = {
        name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for name, path in parts.items()
    }
    return ", ".join(f"{name} {size / 1e9:.3f} GB" for name, size in held.items())


def codes_digest(output: Path) -> str:
    """Return the SHA-256 of the code values, read with plain Zarr a shard at a time."""
    codes = zarr.open_array(str(output / "v1/codes.zarr/codes"), mode="r")
    step = (codes.shards or codes.chunks)[0]
    sha = hashlib.sha256()
    for start in range(0, codes.shape[0], step):
        sha.update(codes[start : start + step].tobytes())
    return sha.hexdigest()


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Run each size and print what it took."""
    costs = {}
    for rows in (int(float(text)) for text in arguments.rows):
        output = folder / f"rows-{rows}"
        with cluster_of(arguments.workers, arguments.memory, folder) as (address, processes):
            began = time.perf_counter()
            most = drive(command(arguments, rows, output, address), processes, output)
            seconds = time.perf_counter() - began
        record = json.loads((output / "run.json").read_text())
        print_stages(record, rows)
        memory = ", ".join(f"{name} {peak:,.0f}" for name, peak in sorted(most.items()))
        print(
            f"\nin all {seconds:,.0f} s; peak memory in MB: {memory}; on disk: {sizes(output)}; relative "
            f"distortion {record['summary']['relative_distortion']:.4f}",
            flush=True,
        )
        encode = record["work"]["encode"]
        costs[rows] = encode["task_cpu_seconds"] / encode["rows"] * 1e6
        shutil.rmtree(output)
    print(
        "\nencode's tasks, µs of CPU a row:",
        {f"{n:.0e}": round(cost, 3) for n, cost in costs.items()},
    )


def kill(arguments: argparse.Namespace, folder: Path) -> None:
    """Kill a driver half-way, go on, and compare with an undisturbed run."""
    rows = int(float(arguments.rows[0]))
    with cluster_of(arguments.workers, arguments.memory, folder) as (address, processes):
        whole, killed = folder / "undisturbed", folder / "killed"
        drive(command(arguments, rows, whole, address), processes, whole)
        run = command(arguments, rows, killed, address)
        drive(run, processes, killed, kill_at=0.5)
        shards = killed / "v1" / "codes.zarr" / "shards" / "squared_error" / "c"
        # Tasks that the workers had begun end a little later, unseen.
        time.sleep(20)
        before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
        drive(run, processes, killed)
        after = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    again = sum(after[name] != stamp for name, stamp in before.items())
    record = json.loads((killed / "run.json").read_text())
    same = codes_digest(whole) == codes_digest(killed)
    print(
        f"{rows:,} rows, {len(after):,} shards: {len(before):,} were done when the driver had been killed; run again, "
        f"{record['work']['encode']['tasks']:,} were encoded, {again} of them for the second time; the code values "
        f"have {'the same digest as' if same else 'ANOTHER digest than'} an undisturbed run's"
    )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--rows", nargs="+", default=["1e7", "1e8", "1e9"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="1GiB", help="limit of each worker")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        (kill if arguments.kill else measure)(arguments, Path(name))


if __name__ == "__main__":
    main()
