"""Compare the peak memory of a training with what `vqpipe plan` printed for it, and tell the driver's.

    python tests/benchmarks/memory.py VECTORS CODEBOOK [--workers 2] [--set key=value ...]

The plan is asked for in a process of its own; this one is then the driver, the Dask scheduler in it. A
worker's peak is the larger of its sample and its train stage, and the plan's the larger of the two.
``memory_per_worker`` is what the plan printed, unless ``--memory`` says otherwise: a worker that takes
more is stopped by its nanny. Library pages that processes share count in each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import peak_megabytes_of, worker_processes

from vqpipe.config_file import make_config, parse_overrides
from vqpipe.engines.choose import make_runner
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.progress import Silent


def planned_megabytes(plain: dict[str, Any], settings: list[str], folder: Path) -> float:
    """Return what `vqpipe plan` prints for a worker that draws the sample and trains."""
    path = folder / "config.yaml"
    path.write_text(json.dumps({**plain, "memory_per_worker": "1TiB"}))
    command = [sys.executable, "-c", "from vqpipe.cli import main; main()", "plan", str(path)]
    command += ["--json", *(word for setting in settings for word in ("--set", setting))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    needed = {stage["name"]: stage["worker_bytes"] for stage in json.loads(out)["stages"]}
    return max(needed["sample"], needed["train"]) / 1e6


def main() -> None:
    """Print the peaks and the plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors")
    parser.add_argument("codebook")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", help="memory_per_worker")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    plain: dict[str, Any] = {
        "source": {"uri": str(Path(arguments.vectors).resolve())},
        "codebook": arguments.codebook,
        "output": "out",
        # Neither is taken here, and they would count in the plan.
        "evaluate": {"queries": 0},
        "export": [],
        "cluster": {"scale": arguments.workers},
    }
    with tempfile.TemporaryDirectory() as name:
        planned = planned_megabytes(plain, arguments.set, Path(name))
        allowed = arguments.memory or f"{int(planned * 1e6)}"
        overrides = {**parse_overrides(arguments.set), "memory_per_worker": allowed}
        config = make_config(plain, Path(name), overrides)
        with make_runner(config) as runner:
            began = time.perf_counter()
            run_pipeline(config, runner, Silent(), until="train")
            seconds = time.perf_counter() - began
            workers = [peak_megabytes_of(process) for process in worker_processes()]
            driver = peak_megabytes_of("self")
    peaks = ", ".join(f"{peak:,.0f}" for peak in sorted(workers, reverse=True)[: arguments.workers])
    print(
        f"{time.strftime('%Y-%m-%d')}, {arguments.codebook} of {Path(arguments.vectors).name} "
        f"{' '.join(arguments.set)}: planned {planned:,.0f} MB a worker; workers' peaks {peaks} MB, driver's "
        f"{driver:,.0f} MB; sample and training took {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
