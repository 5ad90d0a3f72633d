"""Compare the rate of a training on several workers with that of as many independent processes.

    python tests/benchmarks/workers.py VECTORS CODEBOOK [--workers 2] [--repeats 3] [--set key=value ...]

Independent processes each train the whole codebook serially, all at once, so both sides have the same
cores and the same memory to share. The ratio is the workers' rows a second over the processes' together;
1 would mean that sending work and folding tallies cost nothing. Sides take turns; medians of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(folder: Path, arguments: argparse.Namespace, cluster: str) -> subprocess.Popen[str]:
    """Start a run up to its train stage."""
    folder.mkdir()
    config = {
        "source": {"uri": str(Path(arguments.vectors).resolve())},
        "codebook": arguments.codebook,
        "output": "out",
        "evaluate": {"queries": 0},
        "export": [],
        # Every planned round, so that both sides look at the same rows.
        "train": {"stop": 0},
        "cluster": "serial" if cluster == "serial" else {"scale": arguments.workers},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-c", "from vqpipe.cli import main; main()", "run"]
    command += [str(folder / "config.yaml"), "--direct", "--json", "--until", "train"]
    for setting in arguments.set:
        command += ["--set", setting]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def train_seconds(process: subprocess.Popen[str]) -> float:
    """Wait for a run and return what its train stage took."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run failed with exit status {process.returncode}")
    stages = json.loads(out)["stages"]
    return float(next(stage["seconds"] for stage in stages if stage["name"] == "train"))


def main() -> None:
    """Print the seconds of either side and the ratio of their rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors")
    parser.add_argument("codebook")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    together: list[float] = []
    alone: list[float] = []
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            together.append(train_seconds(start(Path(folder) / "workers", arguments, "dask")))
            processes = [
                start(Path(folder) / str(number), arguments, "serial")
                for number in range(arguments.workers)
            ]
            alone.append(statistics.mean(train_seconds(process) for process in processes))
        print(
            f"repeat {repeat}: {arguments.workers} workers {together[-1]:.1f} s, "
            f"{arguments.workers} processes {alone[-1]:.1f} s each",
            file=sys.stderr,
            flush=True,
        )
    ratio = statistics.median(alone) / statistics.median(together) / arguments.workers
    print(
        f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores, {arguments.codebook} of "
        f"{Path(arguments.vectors).name}: {arguments.workers} workers reach {ratio:.3f} of the rate of "
        f"{arguments.workers} independent processes"
    )


if __name__ == "__main__":
    main()
