"""The lease: one of two works, the other is refused and told by whom, and a dead holder's place is taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import WORDS, config_of, files_of, run_command, run_here, statuses
from typer.testing import CliRunner

from vqpipe.cli import app
from vqpipe.config import Config
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import LeaseError
from vqpipe.pipeline import encode as encode_stage
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.pipeline import run_pipeline
from vqpipe.pipeline.plan import plan_run
from vqpipe.pipeline.prune import prune_output
from vqpipe.pipeline.verify import verify_output
from vqpipe.progress import Silent
from vqpipe.storage.folder import Folder
from vqpipe.storage.lease import LEASE_FILE, Patience, take_lease

# As the real ones, a hundred times as fast.
QUICK = Patience(beat_seconds=0.05, watch_seconds=0.6, poll_seconds=0.01)
KEYS: dict[str, Any] = {"train__rounds": 2, "evaluate__queries": 0, "export": []}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back, which the command takes over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def config_in(tmp_path: Path, codebook: str = "KM4") -> Config:
    np.save(tmp_path / "rows.npy", np.load(WORDS)[:1000])
    return config_of(tmp_path, tmp_path / "rows.npy", codebook, **KEYS)


def told(folder: Folder) -> dict[str, Any]:
    return dict(folder.read_json(LEASE_FILE))


def silent(_: str) -> None:
    """Say nothing."""


def write_lease(folder: Folder, **facts: Any) -> None:
    """Write what a holder of this machine would have left, with other facts."""
    with take_lease(folder, silent):
        record = told(folder)
    folder.write_json(LEASE_FILE, {**record, **facts})


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def race(call: Callable[[bytes], bool]) -> list[bytes]:
    """Call eight times at once and return the names of those that won."""
    won: list[bytes] = []
    start = threading.Barrier(8)

    def contend(name: bytes) -> None:
        start.wait()
        if call(name):
            won.append(name)

    threads = [threading.Thread(target=contend, args=(b"%d" % place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_one_of_many_takes_what_is_free(folder: Folder) -> None:
    """Whatever calls come together: of all who want to create, replace or remove, one is told that it did."""
    for _ in range(20):
        assert len(race(lambda name: folder.create_bytes("file", name))) == 1
        first = folder.read_bytes("file")
        won = race(lambda name, held=first: folder.replace_bytes("file", name + b"'", held))
        assert won == [folder.read_bytes("file")[:-1]]
        last = folder.read_bytes("file")
        assert len(race(lambda _, held=last: folder.remove_bytes("file", held))) == 1
    assert folder.names() == []


def test_what_is_expected_and_not_there_changes_nothing(folder: Folder) -> None:
    assert not folder.replace_bytes("file", b"new", b"old")
    assert not folder.remove_bytes("file", b"old")
    folder.write_bytes("file", b"other")
    assert not folder.create_bytes("file", b"new")
    assert not folder.replace_bytes("file", b"new", b"old")
    assert not folder.remove_bytes("file", b"old")
    assert folder.read_bytes("file") == b"other"
    assert folder.names() == ["file"]


def test_a_lease_says_who_holds_it_shows_that_it_lives_and_goes_with_its_holder(
    folder: Folder,
) -> None:
    with take_lease(folder, silent, QUICK):
        first = told(folder)
        assert first["host"] == socket.gethostname()
        assert first["pid"] == os.getpid()
        assert {"run", "since", "counter"} <= set(first)
        while told(folder)["counter"] < 3:
            time.sleep(0.01)
        assert {**told(folder), "counter": 0} == {**first, "counter": 0}
    assert folder.names() == []
    with pytest.raises(KeyboardInterrupt), take_lease(folder, silent):
        raise KeyboardInterrupt
    assert folder.names() == []


def test_a_live_holder_keeps_its_lease_and_is_named(folder: Folder) -> None:
    said: list[str] = []
    with take_lease(folder, silent, QUICK) as lease:
        with pytest.raises(LeaseError, match="works in it") as caught:
            take_lease(folder, said.append, QUICK)
        assert lease.holds()
    for fact in (socket.gethostname(), str(os.getpid()), "since 20"):
        assert fact in str(caught.value)
    assert caught.value.exit_status == 1
    assert len(said) == 1


LEFT: dict[str, Callable[[Folder], None]] = {
    "by a process that ended": lambda folder: write_lease(folder, pid=ended_process()),
    "by a process whose number is another's now": lambda folder: write_lease(folder, started=1),
    "as an empty object": lambda folder: folder.write_bytes(LEASE_FILE, b""),
}


@pytest.mark.parametrize("left", LEFT)
def test_what_a_dead_holder_left_is_taken_over_at_once(folder: Folder, left: str) -> None:
    LEFT[left](folder)
    # The real patience: waiting would take two minutes, and the suite has a limit.
    with take_lease(folder, silent) as lease:
        assert lease.holds()
        assert told(folder)["pid"] == os.getpid()


STILL: dict[str, Callable[[Folder], None]] = {
    "of another host": lambda folder: write_lease(folder, host="another", machine="another"),
    "of a host that was started anew": lambda folder: write_lease(folder, machine="another boot"),
    "of a process here that hangs": lambda folder: write_lease(folder, run="another"),
    "that cannot be read": lambda folder: folder.write_bytes(LEASE_FILE, b"\x00{"),
    "that is no object": lambda folder: folder.write_bytes(LEASE_FILE, b"[]"),
    "of no process": lambda folder: write_lease(folder, pid="x"),
}


@pytest.mark.parametrize("still", STILL)
def test_a_lease_that_stands_still_is_taken_over_after_it_was_watched(
    folder: Folder, still: str
) -> None:
    STILL[still](folder)
    said: list[str] = []
    began = time.monotonic()
    with take_lease(folder, said.append, QUICK) as lease:
        assert time.monotonic() - began >= QUICK.watch_seconds
        assert lease.holds()
    assert ["watched" in said[0], "taken over" in said[1]] == [True, True]


def test_of_contenders_for_a_lease_that_stands_still_one_wins(folder: Folder) -> None:
    write_lease(folder, machine="another")
    ended: list[str] = []

    def contend() -> None:
        try:
            with take_lease(folder, silent, QUICK):
                time.sleep(4 * QUICK.watch_seconds)
                ended.append("worked")
        except LeaseError:
            ended.append("refused")

    threads = [threading.Thread(target=contend) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["refused"] * 4 + ["worked"]


def test_a_holder_whose_lease_was_taken_over_sees_it_and_leaves_the_new_one(folder: Folder) -> None:
    with take_lease(folder, silent) as lease:
        lease.check()
        write_lease_over(folder)
        # A look that is recent enough is believed; the next one sees it.
        lease.check(60)
        with pytest.raises(LeaseError, match=r"no longer this run's: run another .*host elsewhere"):
            lease.check()
        assert not lease.holds(60)
    assert told(folder)["run"] == "another"
    folder.remove(LEASE_FILE)
    with take_lease(folder, silent) as lease:
        folder.remove(LEASE_FILE)
        with pytest.raises(LeaseError, match="its lease is gone"):
            lease.check()


def write_lease_over(folder: Folder) -> None:
    folder.write_json(LEASE_FILE, {**told(folder), "run": "another", "host": "elsewhere"})


def test_a_run_is_refused_while_another_works_and_leaves_everything_as_it_is(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path)
    run_here(config)
    output = Folder(config.output)
    with take_lease(output, silent, QUICK):
        before = {
            name: data
            for name, data in files_of(Path(output.path)).items()
            # What the holder's beat writes comes and goes.
            if LEASE_FILE not in name
        }
        for call in (
            lambda: run_pipeline(config, SerialRunner(), Silent(), force="train", patience=QUICK),
            lambda: prune_output(output, remove=True, patience=QUICK),
            lambda: verify_output(
                output, config, SerialRunner(), Silent(), repair=True, patience=QUICK
            ),
        ):
            with pytest.raises(LeaseError, match="works in it"):
                call()
        # Who only looks is not refused.
        assert plan_run(begin_run(config, SerialRunner(), Silent()))["generation"] == "v1"
        assert verify_output(output, config, SerialRunner(), Silent())["well"]
        assert not prune_output(output, remove=False)["removed"]
        after = {
            name: data
            for name, data in files_of(Path(output.path)).items()
            # What the holder's beat writes comes and goes.
            if LEASE_FILE not in name
        }
        assert after == before
    assert LEASE_FILE not in output.names()
    assert not prune_output(output, remove=True, patience=QUICK)["removals"]
    assert verify_output(output, config, SerialRunner(), Silent(), repair=True)["well"]
    assert LEASE_FILE not in output.names()


def test_the_command_that_is_refused_has_status_1_and_names_the_holder(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    (tmp_path / "config.yaml").write_text(
        "source: {uri: rows.npy}\noutput: out\ncodebook: KM4\ncluster: serial\n"
    )
    Folder(config.output).create()
    with take_lease(Folder(config.output), silent, Patience(beat_seconds=0.05)):
        result = CliRunner().invoke(app, ["run", str(tmp_path / "config.yaml"), "--direct"])
    assert result.exit_code == 1
    assert f"process {os.getpid()}, since" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_that_waited_for_the_lease_begins_from_what_the_other_left(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    calls: list[str] = []

    class Waits(Silent):
        def warn(self, message: str) -> None:
            """Work in the output at the very moment that this run waits for its lease."""
            if "watched" in message and not calls:
                calls.append(message)
                output.remove(LEASE_FILE)
                run_here(config)

    output = Folder(config.output)
    output.create()
    write_lease(output, machine="another")
    summary = run_pipeline(config, SerialRunner(), Waits(), patience=QUICK)
    assert len(calls) == 1
    assert summary["generation"] == "v1"
    assert set(statuses(summary).values()) == {"skipped"}


@pytest.mark.parametrize("when", ["encode_shard", "find_pending"])
def test_a_run_whose_lease_was_taken_over_stops_before_it_records_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    config = config_in(tmp_path)
    output = Folder(config.output)
    real = getattr(encode_stage, when)
    before: dict[str, bytes] = {}

    def lose(*arguments: Any) -> Any:
        found = real(*arguments)
        if not before:
            write_lease_over(output)
            before.update(files_of(Path(output.path)))
        return found

    monkeypatch.setattr(encode_stage, when, lose)
    with pytest.raises(LeaseError, match="no longer this run's"):
        run_here(config)
    after = files_of(Path(output.path))
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not {name for name in changed if not name.startswith("v1/codes.zarr/")}
    assert told(output)["run"] == "another"
    assert not output.has("current")


def test_a_killed_run_is_followed_by_one_that_waits_for_nothing(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    (tmp_path / "config.yaml").write_text(
        "source: {uri: rows.npy}\noutput: out\ncodebook: KM4\ncluster: serial\ntrain: {rounds: 9999, stop: 0}\n"
    )
    process = run_command("run", str(tmp_path / "config.yaml"), "--direct")
    output = Folder(config.output)
    while not output.has(LEASE_FILE):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert told(output)["pid"] == process.pid
    assert set(statuses(run_here(config)).values()) > {"done"}
    assert not output.has(LEASE_FILE)
