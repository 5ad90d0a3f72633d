"""A run's page: written by a thread, seldom, and never in the run's way."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from vqpipe.progress import Ending, Silent

page = pytest.importorskip("flows.page")

pytestmark = pytest.mark.prefect

SUMMARY = {
    "output": "/data/out",
    "generation": "v2",
    "stages": [{"name": "train", "status": "skipped", "reason": "done before", "seconds": 0.0}],
    "rows": 5,
    "recall": {"1": 0.5},
    "drift": {"ratio": 1.3},
    "warnings": ["drift: the codebook no longer suits"],
}


class Server:
    """Keeps what it is told, unless it is down."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.updates: list[Any] = []
        self.failures = 0
        self.stands_still = threading.Event()
        self.stands_still.set()

    def create_artifact(self, artifact: Any) -> Any:
        self.answer()
        self.made.append(artifact)
        return SimpleNamespace(id=uuid.uuid4())

    def update_artifact(self, artifact_id: uuid.UUID, artifact: Any) -> None:
        self.answer()
        self.updates.append(artifact)

    def answer(self) -> None:
        self.stands_still.wait(60)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server is down")

    def data(self, key: str) -> Any:
        (found,) = [artifact.data for artifact in self.made if artifact.key == key]
        return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()

    @contextmanager
    def get_client(sync_client: bool) -> Iterator[Server]:
        yield made

    monkeypatch.setattr(page, "get_client", get_client)
    monkeypatch.setattr(page, "UPDATE_SECONDS", 0.05)
    monkeypatch.setattr(page, "REST_SECONDS", 0.05)
    yield made
    made.stands_still.set()


def test_it_is_updated_seldom_and_says_the_end(server: Server) -> None:
    began = time.monotonic()
    with page.Page(Silent(), uuid.uuid4()) as told:
        told.begin("encode", 1000, "rows")
        for _ in range(1000):
            told.advance(1)
            time.sleep(0.0005)
        told.use_memory(3 << 20, 5 << 20, 2)
        described = str(told._headway)
        told.conclude(SUMMARY)
    assert "memory 3 MiB, 2 workers up to 5 MiB" in described
    most = (time.monotonic() - began) / page.UPDATE_SECONDS + 2
    assert 1 <= len(server.updates) <= most
    assert server.data("vqpipe-progress") is not None
    assert server.updates[-1].data == 100
    (row,) = json.loads(server.data("vqpipe-stages"))
    assert row == {"stage": "train", "status": "skipped", "seconds": 0.0, "why": "done before"}
    assert {"figure": "recall@1", "value": 0.5} in json.loads(server.data("vqpipe-figures"))
    assert "/data/out/v2/report.html" in server.data("vqpipe-report")
    assert "no longer suits" in server.data("vqpipe-report")


def test_a_server_that_was_down_is_told_when_it_is_back(server: Server) -> None:
    server.failures = 2
    with page.Page(Silent(), uuid.uuid4()) as told:
        told.begin("encode", 10, "rows")
        told.advance(4)
        for _ in range(200):
            if server.made:
                break
            time.sleep(0.02)
        told.conclude(SUMMARY)
    assert {artifact.key for artifact in server.made} == {
        "vqpipe-progress",
        "vqpipe-stages",
        "vqpipe-figures",
        "vqpipe-report",
    }


def test_a_server_that_stands_still_holds_nothing_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LAST_SECONDS", 0.2)
    server.stands_still.clear()
    with page.Page(Silent(), uuid.uuid4()) as told:
        told.begin("encode", 10, "rows")
        told.advance(10)
        told.conclude(SUMMARY)
    assert server.made == []


def test_without_a_run_there_is_no_page(server: Server) -> None:
    with page.Page(Silent(), None) as told:
        told.begin("encode", 10, "rows")
        told.conclude(SUMMARY)
    assert server.made == []
    assert not told._thread.is_alive()


def test_what_is_shown_elsewhere_is_told_as_well() -> None:
    heard: list[Any] = []

    class Ear(Silent):
        def begin(self, *told: Any, **named: Any) -> None:
            heard.append(("begin", *told, *named.values()))

        def advance(self, *told: Any, **named: Any) -> None:
            heard.append(("advance", *told, *named.values()))

        def use_memory(self, *told: Any) -> None:
            heard.append(("use_memory", *told))

        def finish(self, stage: str, status: Ending, reason: str, seconds: float) -> None:
            heard.append(("finish", stage, status, reason))

        def warn(self, message: str) -> None:
            heard.append(("warn", message))

    with page.Page(Ear(), None) as told:
        told.begin("encode", 10, "rows", 2, 5, 1)
        told.advance(3, "x", 1)
        told.use_memory(1 << 20, 2 << 20, 4)
        told.finish("encode", "done", "so", 1.0)
        told.warn("slow")
    assert heard == [
        ("begin", "encode", 10, "rows", 2, 5, 1),
        ("advance", 3, "x", 1),
        ("use_memory", 1 << 20, 2 << 20, 4),
        ("finish", "encode", "done", "so"),
        ("warn", "slow"),
    ]
