"""A run's page on the Prefect server: how far it is, what its stages did, its figures, the way to the report."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from vqpipe.progress import Ending, Headway, Progress

# An update costs the server about 20 ms.
UPDATE_SECONDS = 1.0

# A server that did not take an update is left alone for so long.
REST_SECONDS = 15.0

# What is not there by then is not worth waiting for: the output and its run.json say the same.
LAST_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Page:
    """Tells a run's page what the stages say, and hands it on. Use as a context.

    A thread of its own writes: no stage waits for the server, and none fails because of it.

    Parameters
    ----------
    shown : Progress
        What else is told.
    flow_run : UUID or None
        The run; None where there is no page.
    """

    def __init__(self, shown: Progress, flow_run: UUID | None) -> None:
        self._shown = shown
        self._flow_run = flow_run
        self._headway = Headway("begin", 0, "")
        self._is_new = False
        self._artifact: UUID | None = None
        self._last: list[ArtifactCreate] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, name="vqpipe-page", daemon=True)

    def __enter__(self) -> Self:
        """Begin to write."""
        if self._flow_run is not None:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Write what is left, if the server takes it soon."""
        self._ended.set()
        if self._flow_run is not None:
            self._thread.join(LAST_SECONDS)

    def begin(
        self,
        stage: str,
        total: int,
        unit: str,
        done: int = 0,
        shards: int = 0,
        shards_done: int = 0,
    ) -> None:
        """Begin a stage."""
        self._shown.begin(stage, total, unit, done, shards, shards_done)
        self._headway = Headway(stage, total, unit, done, shards, shards_done)
        self._is_new = True

    def advance(self, amount: int, note: str = "", shards: int = 0) -> None:
        """Add units that are finished."""
        self._shown.advance(amount, note, shards)
        self._headway.advance(amount, note, shards)
        self._is_new = True

    def use_memory(self, driver_bytes: int, worker_bytes: int, workers: int) -> None:
        """Say what is held."""
        self._shown.use_memory(driver_bytes, worker_bytes, workers)
        self._headway.use_memory(driver_bytes, worker_bytes, workers)
        self._is_new = True

    def finish(self, stage: str, status: Ending, reason: str, seconds: float) -> None:
        """Say what became of a stage."""
        self._shown.finish(stage, status, reason, seconds)

    def warn(self, message: str) -> None:
        """Say something that the user should act on."""
        self._shown.warn(message)
        _log.warning("%s", message)

    def conclude(self, summary: dict[str, Any]) -> None:
        """Keep what came of the run for the page: its stages, its figures, its report."""
        # The pages take tables as JSON text.
        stages, figures = json.dumps(stages_table(summary)), json.dumps(figures_table(summary))
        self._last += [
            self._made("vqpipe-stages", "table", stages, "What each stage did, and why"),
            self._made("vqpipe-figures", "table", figures, "Figures"),
            self._made("vqpipe-report", "markdown", report_text(summary), "Where it is"),
        ]
        self._headway = Headway("done", 1, "run", done=1)
        self._is_new = True

    def _made(self, key: str, kind: str, data: Any, description: str) -> ArtifactCreate:
        return ArtifactCreate(
            key=key, type=kind, data=data, description=description, flow_run_id=self._flow_run
        )

    def _write(self) -> None:
        """Write what is new until the run has ended, and then once more."""
        while True:
            is_last = self._ended.is_set()
            try:
                with get_client(sync_client=True) as client:
                    while not self._ended.wait(UPDATE_SECONDS):
                        self._update(client)
                    self._update(client)
                    while self._last:
                        client.create_artifact(self._last[0])
                        del self._last[0]
            except Exception as error:
                # Whatever the server answers, or does not, the run goes on.
                _log.info("the run's page cannot be written now: %s", error)
                self._is_new = True
            else:
                return
            if is_last:
                return
            self._ended.wait(REST_SECONDS)

    def _update(self, client: SyncPrefectClient) -> None:
        if not self._is_new:
            return
        self._is_new = False
        share, words = 100.0 * self._headway.share, str(self._headway)
        if self._artifact is None:
            made = client.create_artifact(self._made("vqpipe-progress", "progress", share, words))
            self._artifact = made.id
        else:
            client.update_artifact(self._artifact, ArtifactUpdate(data=share, description=words))


def stages_table(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each stage: what became of it, and why.

    Examples
    --------
    >>> stages_table({"stages": [{"name": "train", "status": "skipped", "reason": "done before", "seconds": 0.0}]})
    [{'stage': 'train', 'status': 'skipped', 'seconds': 0.0, 'why': 'done before'}]
    """
    return [
        {
            "stage": stage["name"],
            "status": stage["status"],
            "seconds": round(stage["seconds"], 1),
            "why": stage["reason"],
        }
        for stage in summary["stages"]
    ]


def figures_table(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each figure that there is; of figures per column the worst.

    Examples
    --------
    >>> figures_table({"dead": [0, 2], "recall": {"1": 0.5}, "perplexity": None})
    [{'figure': 'dead (most of a column)', 'value': 2}, {'figure': 'recall@1', 'value': 0.5}]
    """
    names = (
        "rows",
        "masked_rows",
        "bytes_in",
        "bytes_codes",
        "distortion",
        "relative_distortion",
        "codewords",
    )
    found = {name: summary.get(name) for name in names}
    for name, worst, word in (
        ("perplexity", min, "least"),
        ("dead", max, "most"),
        ("imbalance", max, "most"),
    ):
        if summary.get(name):
            found[f"{name} ({word} of a column)"] = worst(summary[name])
    found |= {f"recall@{k}": share for k, share in (summary.get("recall") or {}).items()}
    if summary.get("drift"):
        found["drift: new rows' distortion over what it is compared with"] = summary["drift"][
            "ratio"
        ]
    return [{"figure": name, "value": value} for name, value in found.items() if value is not None]


def report_text(summary: dict[str, Any]) -> str:
    """Return where output and report are, and the warnings, as Markdown.

    Examples
    --------
    >>> print(report_text({"output": "/o", "generation": "v1", "warnings": []}))
    Output: `/o`, generation `v1`
    <BLANKLINE>
    Report: [`/o/v1/report.html`](file:///o/v1/report.html)
    """
    path = f"{summary['output']}/{summary['generation']}/report.html"
    link = path if "://" in path else f"file://{path}"
    lines = [
        f"Output: `{summary['output']}`, generation `{summary['generation']}`",
        f"Report: [`{path}`]({link})",
        *(f"- warning: {message}" for message in summary["warnings"]),
    ]
    return "\n\n".join(lines)
