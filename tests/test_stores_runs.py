"""Runs in object stores: killed, refused, looked at, and without a word of what they log in with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
import zarr
from object_server import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    environment,
    forget_buckets,
    free_port,
    reach,
)
from obstore.exceptions import GenericError
from runs import run_command, run_here, statuses
from store_runs import (
    Finished,
    lasting,
    npy_bytes,
    objects_of,
    put,
    put_zarr,
    store_config,
    vectors,
)
from typer.testing import CliRunner

import vqpipe
from vqpipe.cli import app
from vqpipe.config import Config
from vqpipe.config_file import make_config
from vqpipe.engines.serial import SerialRunner
from vqpipe.errors import AccessError, ConfigError, SourceError, StoreError, VqpipeError
from vqpipe.pipeline.begin import begin_run
from vqpipe.pipeline.verify import verify_output
from vqpipe.progress import Silent
from vqpipe.storage.arrays import store_at
from vqpipe.storage.codes import CodeArray, find_codes
from vqpipe.storage.folder import Folder
from vqpipe.storage.objects.bucket import asked, bucket_of
from vqpipe.storage.objects.view import Meta, View, looking_anew, viewing
from vqpipe.storage.summary import read_summary, summary_path

# Ends the process, as nothing else but a power cut does, at the n-th object that it writes.
KILL = """
import os, signal
from vqpipe.storage.objects import requests, zarr_store
left = [{after}]
def counted(write):
    def wrapper(*arguments, **keys):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*arguments, **keys)
    return wrapper
requests.upload = counted(requests.upload)
zarr_store.PrefixStore.set = counted(zarr_store.PrefixStore.set)
"""


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> str:
    """A prefix in this process's memory: what a store does, without its requests."""
    return f"memory://tests/{request.node.name}"


def written(config: Config, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.plain()))
    return str(path)


@pytest.mark.parametrize(
    "after",
    [72, *(pytest.param(after, marks=pytest.mark.long) for after in range(4, 100, 8))],
)
def test_a_run_that_was_killed_goes_on(
    base: str, server: int, tmp_path: Path, on_disk: dict[str, bytes], after: int
) -> None:
    """At the 72nd object shards are encoded; the others lie in all stages."""
    put_zarr(f"{base}/x.zarr")
    config = store_config(tmp_path, base, f"{base}/x.zarr")
    killed = run_command(
        "run", "--direct", written(config, tmp_path), patch=KILL.format(after=after), env=environment(server)
    )  # fmt: skip
    _, said = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, said
    assert "current" not in objects_of(f"{base}/out")
    assert set(statuses(run_here(config)).values()) == {"done", "skipped"}
    in_store = lasting(objects_of(f"{base}/out"))
    assert in_store.keys() == on_disk.keys()
    assert [name for name in on_disk if in_store[name] != on_disk[name]] == []


def test_workers_and_the_command_line_tell_no_secret(
    base: str, server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_disk: dict[str, bytes]
) -> None:  # fmt: skip
    """Two Dask workers; whatever is written and said, also of a run that is refused, is searched."""
    put_zarr(f"{base}/x.zarr")
    cluster = {"options": {"n_workers": 2, "threads_per_worker": 1}}
    path = written(store_config(tmp_path, base, f"{base}/x.zarr", cluster=cluster), tmp_path)
    run = run_command("run", "--direct", path, "--json", env=environment(server))
    out, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET_KEY}x")
    forget_buckets()
    failed = CliRunner().invoke(app, ["run", "--direct", path, "--set", "cluster=serial"])
    assert failed.exit_code == 2
    assert "refuses access" in failed.output
    reach(monkeypatch, server)
    found = objects_of(f"{base}/out")
    assert lasting(found) == on_disk
    assert json.loads(out)["output"] == f"{base}/out"
    texts = [out, said, failed.output, Path(path).read_text()]
    searched = [*(text.encode() for text in texts), *found.values()]
    for secret in (ACCESS_KEY, SECRET_KEY, f"127.0.0.1:{server}"):
        assert not [text for text in searched if secret.encode() in text]


def command(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_commands_take_urls(finished: Finished, tmp_path: Path) -> None:
    config = written(finished.config, tmp_path)
    plan = command("plan", config, "--json")
    assert {stage["state"] for stage in plan["stages"]} == {"done"}
    assert plan["disk_free_bytes"] is None
    assert command("inspect", f"{finished.output}/", "--json")["current"] == "v1"
    assert command("inspect", finished.source, "--json")["rows"] == 3_000
    assert command("inspect", f"{finished.output}/v1/codes.zarr", "--json")["shards_done"] == 6
    assert (
        command("inspect", f"{finished.output}/v1/codebook.zarr", "--json")["codebook"] == "PQ4x4"
    )
    found = command("verify", finished.output, "--json")
    assert found["well"]
    assert (found["shards"], found["rows_compared"]) == (6, 600)
    assert command("prune", finished.output, "--json")["removals"] == []


def test_codes_in_a_store_are_used_and_files_written_there(
    finished: Finished, base: str, tmp_path: Path
) -> None:
    """As on a disk: what is found, decoded and exported is what the codes there say."""
    line = (
        "search",
        finished.output,
        "--queries",
        finished.source,
        "--queries-rows",
        "5",
        "--json",
    )
    codes = np.asarray(vqpipe.open_codes(finished.output)["codes"][...])
    codebook = vqpipe.load_codebook(f"{finished.output}/v1/codebook.zarr")
    wanted = codebook.decode(codes)
    for answer, query in zip(command(*line)["answers"], vectors()[:5], strict=True):
        distances = ((wanted - query) ** 2).sum(axis=1)
        np.testing.assert_allclose(answer["distances"], np.sort(distances)[:10], rtol=1e-4)
    command(*line, "--to", f"{base}/a.npy")
    assert sorted(objects_of(base)) == ["a.distances.npy", "a.npy"]
    decode = ("decode", finished.output, "--rows", "400:1700", "--json", "--to")
    command(*decode, f"{base}/d.zarr")
    array = zarr.open_array(store_at(f"{base}/d.zarr"), mode="r")
    np.testing.assert_array_equal(np.asarray(array[...]), wanted[400:1700])
    refused = CliRunner().invoke(app, [*decode, f"{base}/d.zarr"])
    assert refused.exit_code == 2
    command(*decode, f"{base}/d.zarr", "--overwrite")
    export = ("export", finished.output, "--to", "parquet", "--json", "--out")
    command(*export, f"{base}/codes.parquet")
    (tmp_path / "codes.parquet").write_bytes(objects_of(base)["codes.parquet"])
    table = pyarrow.parquet.read_table(tmp_path / "codes.parquet")
    assert table["codes"].to_pylist() == codes.tolist()


def test_damage_in_a_store_is_found_and_mended(memory: str, tmp_path: Path) -> None:
    base = memory
    put(f"{base}/x.npy", npy_bytes(vectors()))
    config = store_config(tmp_path, base, f"{base}/x.npy", export=[])
    run_here(config)
    before = objects_of(f"{base}/out")
    for inside in ("codes/c/1/0", "shards/stored_bytes/c/3", "shards/summary/c/0"):
        name = f"v1/codes.zarr/{inside}"
        put(f"{base}/out/{name}", before[name][:-1] + bytes([before[name][-1] ^ 1]))
    output = Folder(f"{base}/out")
    found = verify_output(output, config, SerialRunner(), Silent(), repair=True)
    assert sorted((one["what"], one["shard"]) for one in found["findings"] if one["shard"]) == [
        ("shard", 1),
        ("shard", 3),
    ]
    assert [one["what"] for one in found["findings"] if one["shard"] is None] == ["summary"]
    again = run_here(config)
    assert "2 shards" in next(s for s in again["stages"] if s["name"] == "encode")["reason"]
    assert verify_output(output, config, SerialRunner(), Silent())["well"]
    assert lasting(objects_of(f"{base}/out")) == lasting(before)


def test_leftovers_in_a_store_are_pruned(memory: str, tmp_path: Path) -> None:
    base = memory
    put(f"{base}/x.npy", npy_bytes(vectors()))
    for codebook in ("PQ4x4", "PQ2x4"):
        run_here(store_config(tmp_path, base, f"{base}/x.npy", codebook, export=[]))
    assert {name.split("/")[0] for name in objects_of(f"{base}/out")} >= {"v1", "v2"}
    found = CliRunner().invoke(app, ["prune", f"{base}/out", "--yes", "--json"])
    assert json.loads(found.stdout)["removals"] == []
    config = store_config(tmp_path, base, f"{base}/x.npy", "PQ4x4", export=[])
    run_here(config, force="train")
    output = Folder(f"{base}/out")
    (output / "v1").remove("stages.json")
    removed = command("prune", f"{base}/out", "--yes", "--json")
    assert [one["path"] for one in removed["removals"]] == ["v1"]
    assert {name.split("/")[0] for name in objects_of(f"{base}/out")} >= {"v2", "v3"}
    assert not [name for name in objects_of(f"{base}/out") if name.startswith("v1/")]


# What is wrong, the environment that is changed, what it is, and what is said of it.
REFUSED = {
    "no such bucket": ("s3://vq-no-such-bucket/out", {}, AccessError, "there is no such bucket"),
    "wrong secret": (f"s3://{BUCKET}/x", {"AWS_SECRET_ACCESS_KEY": "x" * 20}, AccessError, "refuses access"),
    "unknown key": (f"s3://{BUCKET}/x", {"AWS_ACCESS_KEY_ID": "UNKNOWN"}, AccessError, "refuses access"),
    "plain http": (f"s3://{BUCKET}/x", {"AWS_ALLOW_HTTP": "false"}, AccessError, "AWS_ALLOW_HTTP=true"),
    "nobody there": (f"s3://{BUCKET}/x", {"AWS_ENDPOINT_URL": ""}, StoreError, "cannot be reached"),
}  # fmt: skip


@pytest.mark.parametrize("where", ["output", "source"])
@pytest.mark.parametrize("wrong", REFUSED)
def test_what_keeps_us_out_is_said_in_one_message(
    base: str, hasty: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str, where: str
) -> None:
    url, changes, kind, words = REFUSED[wrong]
    port = free_port()
    for name, value in changes.items():
        monkeypatch.setenv(name, value or f"http://127.0.0.1:{port}")
    forget_buckets()
    np.save(tmp_path / "x.npy", vectors())
    keys = {"output": url} if where == "output" else {"output": str(tmp_path / "out")}
    source = f"{url}/*.npy" if where == "source" else str(tmp_path / "x.npy")
    config = store_config(tmp_path, base, source, **keys)
    with pytest.raises(VqpipeError) as raised:
        begin_run(config, SerialRunner(), Silent())
    assert type(raised.value) is kind or isinstance(raised.value, kind)
    assert raised.value.exit_status == (1 if kind is StoreError else 2)
    assert words in str(raised.value)
    for secret in (ACCESS_KEY, SECRET_KEY, "x" * 20, "UNKNOWN", f":{port}", "<Error>", "http://"):
        assert secret not in str(raised.value)


def test_no_credentials_are_told_from_wrong_ones() -> None:
    """Where nothing holds any, stores ask the machine itself, and it is its answer that comes."""
    asked_machine = GenericError(
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 10ms - Server returned "
        "non-2xx status code: 403 Forbidden: <Error><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>"
    )
    with (
        pytest.raises(AccessError, match="there are no credentials") as raised,
        asked("s3://bucket/a"),
    ):
        raise asked_machine
    assert "AKIA" not in str(raised.value)
    with pytest.raises(AccessError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        bucket_of("az://container")


def test_a_source_that_is_not_there_is_named(base: str, tmp_path: Path) -> None:
    for name in ("none.npy", "none.zarr", "none", "none.fvecs"):
        config = store_config(tmp_path, base, f"{base}/{name}")
        with pytest.raises(SourceError, match="there is no such object"):
            begin_run(config, SerialRunner(), Silent())


SECRETS = (
    "s3://AKIA:sEcReT@bucket/x",
    "s3://AKIA@bucket/x",
    "s3://AKIA:sEc/ReT@bucket/x",
    "s3://bucket/x?X-Amz-Signature=sEcReT",
    "az://bucket/x?sv=1&sig=sEcReT",
    "gs://user:sEcReT@bucket",
    "https://user:sEcReT@host/x",
)


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("key", ["output", "source.uri", "codebook.from", "train.init"])
def test_a_url_with_a_secret_is_refused_and_not_repeated(
    url: str, key: str, tmp_path: Path
) -> None:
    written = {"source": {"uri": "x.npy"}, "output": "out", "codebook": "PQ4"}
    override = {"codebook": {"from": url}} if key == "codebook.from" else {key: url}
    with pytest.raises(ConfigError) as raised:
        make_config(written, tmp_path, override)
    assert str(raised.value).startswith(f"{key}: ")
    for secret in ("AKIA", "sEc", "ReT"):
        assert secret not in str(raised.value)


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("name", ["inspect", "verify", "prune"])
def test_commands_refuse_urls_with_secrets(url: str, name: str) -> None:
    result = CliRunner().invoke(app, [name, url])
    assert result.exit_code == 2
    for secret in ("AKIA", "sEc", "ReT"):
        assert secret not in result.output


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://bucket/a//b", "s3://bucket/../x", "ftp://host/x"]
)
def test_what_no_store_can_hold_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^output: "):
        make_config({"source": {"uri": "x"}, "output": url, "codebook": "PQ4"}, tmp_path)


def test_memory_is_for_one_process(tmp_path: Path) -> None:
    put("memory://here/x.npy", npy_bytes(vectors()))
    config = store_config(tmp_path, "memory://here", "memory://here/x.npy")
    assert set(statuses(run_here(config)).values()) == {"done", "skipped"}
    many = store_config(tmp_path, "memory://here", "memory://here/x.npy", cluster={})
    with pytest.raises(ConfigError, match="cluster: serial"):
        begin_run(many, SerialRunner(), Silent())


# A view


@pytest.fixture
def here() -> Folder:
    folder = Folder("memory://view/folder")
    folder.remove("")
    return folder


def test_a_view_sees_its_own_writes(here: Folder) -> None:
    with viewing():
        assert not here.has("a.json")
        assert here.names() == []
        here.write_json("a.json", {"a": 1})
        assert here.read_json("a.json") == {"a": 1}
        (here / "deep/er").write_json("b.json", {"b": 1})
        assert here.names() == ["a.json", "deep"]
        assert (here / "deep").names() == ["er"]
        assert sorted(here.files()) == [("a.json", 13), ("deep/er/b.json", 13)]
        here.write_json("a.json", {"a": 22})
        assert here.read_json("a.json") == {"a": 22}
        assert sorted(here.files()) == [("a.json", 14), ("deep/er/b.json", 13)]
        here.remove("deep")
        assert here.names() == ["a.json"]
        assert not here.has("deep")
        here.remove("a.json")
        with pytest.raises(FileNotFoundError):
            here.read_json("a.json")
        assert sorted(here.files()) == []


def test_what_is_contended_for_is_never_looked_at_through_a_view(here: Folder) -> None:
    other = Folder(here.path)
    with viewing() as view:
        assert here.create_bytes("lease.json", b"1")
        assert here.read_bytes("lease.json") == b"1"
        with looking_anew(View()):
            assert other.replace_bytes("lease.json", b"2", b"1")
        assert here.read_bytes("lease.json") == b"2"
        assert not here.replace_bytes("lease.json", b"3", b"1")
        assert here.replace_bytes("lease.json", b"3", b"2")
        assert view.contents == {}


def test_a_view_is_forgotten_while_workers_write(here: Folder) -> None:
    with viewing() as view:
        here.write_json("a.json", {"a": 1})
        assert here.names() == ["a.json"]
        with looking_anew(view):
            here.write_json("b.json", {"b": 1})
            assert here.names() == ["a.json", "b.json"]
        assert here.names() == ["a.json", "b.json"]


def test_a_view_of_a_folder_does_not_reach_beside_it() -> None:
    view = View()
    view.trees["s3://b/x"] = {}
    view.trees["s3://b/xy"] = {"z": Meta(1, "")}
    view.contents["s3://b/xy/z"] = b"1"
    view.removed("s3://b/x")
    assert view.trees == {"s3://b/xy": {"z": Meta(1, "")}}
    assert view.contents == {"s3://b/xy/z": b"1"}


# The summary of records


def test_records_come_from_their_summary_or_else_from_themselves(
    memory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = memory
    put(f"{base}/x.npy", npy_bytes(vectors()))
    run_here(store_config(tmp_path, base, f"{base}/x.npy"), until="encode")
    codes = find_codes(f"{base}/out/v1/codes.zarr")
    assert codes is not None
    stored = codes.stored_records()
    with monkeypatch.context() as patch:
        patch.setattr(CodeArray, "stored_records", lambda codes: pytest.fail("records were read"))
        assert codes.records().digest == stored.digest
    path = summary_path(codes.path)
    whole = objects_of(codes.path)["shards/summary/c/0"]
    for damaged in (b"", whole[:-1], whole[:100], whole.replace(b"vqpipe", b"vqpipf"), whole * 2):
        put(path, damaged)
        assert read_summary(codes.path) is None
        assert codes.records().digest == stored.digest
    put(path, whole)
    codes.forget([2])
    assert read_summary(codes.path) is None
    assert np.flatnonzero(np.isnan(codes.records().squared_error)).tolist() == [2]


def test_environments_are_read_by_each_process_for_itself(finished: Finished) -> None:
    """What travels to workers names the bucket, never what opens it."""
    import pickle

    group = __import__("vqpipe").open_codes(finished.output)
    for thing in (group, find_codes(f"{finished.output}/v1/codes.zarr")):
        data = pickle.dumps(thing)
        assert SECRET_KEY.encode() not in data
        assert ACCESS_KEY.encode() not in data
        pickle.loads(data)
    assert (pickle.loads(pickle.dumps(group))["codes"][:10] == group["codes"][:10]).all()
    assert SECRET_KEY not in repr(group)
    assert "AWS_SECRET_ACCESS_KEY" in os.environ
