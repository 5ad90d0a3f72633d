"""Web servers as sources: read only, by name, over a real server on loopback, and with its faults."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from object_server import free_port
from runs import config_of, run_here
from typer.testing import CliRunner
from web_server import WebServer

import vqpipe
from vqpipe.cli import app
from vqpipe.errors import AccessError, ConfigError, OutputError, SourceError, StoreError
from vqpipe.sources import open_source
from vqpipe.storage.objects.view import viewing
from vqpipe.urls import absolute, is_url

ROWS = np.random.default_rng(0).integers(-100, 100, (50, 6)).astype("f4")

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
INDEXED = [LITTLE, {"name": "crc32c"}]
INNER = {"chunk_shape": [5, 3], "codecs": INDEXED, "index_codecs": INDEXED}


def v3(chunk: list[int], codecs: list[object]) -> dict[str, object]:
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    return {"chunk_grid": grid, "codecs": codecs, "data_type": "float32"}


ARRAYS: dict[str, tuple[str, dict[str, object]]] = {
    "v2": ("zarr", {"chunks": [7, 4], "dtype": ">f4", "compressor": {"id": "blosc"}}),
    "v3": ("zarr3", v3([7, 6], [LITTLE, {"name": "gzip", "configuration": {"level": 1}}])),
    "shards": ("zarr3", v3([20, 6], [{"name": "sharding_indexed", "configuration": INNER}])),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays that tensorstore wrote, flat files, and groups with and without consolidated metadata."""
    folder = tmp_path_factory.mktemp("web")
    for name, (driver, metadata) in ARRAYS.items():
        spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/{name}.zarr"}}
        spec["metadata"] = {"shape": [50, 6], **metadata}
        tensorstore.open(spec, create=True).result()[:] = ROWS
    for name, version in (("g2", 2), ("g3", 3)):
        for place in (f"{name}.zarr", f"{name}-all.zarr"):
            group = zarr.create_group(folder / place, zarr_format=version)
            group.create_array("deep/er/rows", data=ROWS, chunks=(20, 6))
            group.create_array("names", data=np.arange(50))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(folder / f"{name}-all.zarr", zarr_format=version)
    np.save(folder / "a.npy", ROWS)
    np.savez(folder / "a.npz", rows=ROWS, names=np.arange(50))
    (folder / "a folder").mkdir()
    np.save(folder / "a folder/100%25.npy", ROWS)
    return folder


@pytest.fixture
def web(folder: Path) -> Iterator[WebServer]:
    with WebServer(folder).running() as server:
        yield server


@pytest.mark.parametrize("behind", [{}, {"forbidden": True}, {"share": 0.2}, {"etags": False}])
def test_what_tensorstore_wrote_is_read(folder: Path, hasty: None, behind: dict[str, bool]) -> None:
    with WebServer(folder, **behind).running() as server:
        for name in ARRAYS:
            source = open_source(f"{server.url}/{name}.zarr")
            assert (source.rows, source.dim, source.dtype) == (50, 6, "float32")
            np.testing.assert_array_equal(source.read(3, 48), ROWS[3:48])
            stamps = list(source.stamps(0, 50))
            assert all(size > 0 and isinstance(state, str) and state for _, size, state in stamps)
            with viewing():
                assert list(source.stamps(0, 50)) == stamps
        assert (server.faults > 0) == (server.share > 0)
        assert not [one for one in server.requests if not one.startswith(("GET ", "HEAD "))]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a%20folder/100%2525.npy"])
def test_files_are_read_by_ranges(web: WebServer, name: str) -> None:
    source = open_source(f"{web.url}/{name}")
    np.testing.assert_array_equal(source.read(3, 48), ROWS[3:48])
    both = open_source([f"{web.url}/{name}", f"{web.url}/a.npy"])
    np.testing.assert_array_equal(both.read(40, 60), np.vstack([ROWS[40:], ROWS[:10]]))


def test_a_server_without_ranges_gives_whole_chunks_and_nothing_else(folder: Path) -> None:
    with WebServer(folder, ranges=False).running() as server:
        assert (open_source(f"{server.url}/v2.zarr").read(0, 50) == ROWS).all()
        for read in (
            lambda: open_source(f"{server.url}/a.npy"),
            lambda: open_source(f"{server.url}/shards.zarr").read(0, 50),
        ):
            with pytest.raises(AccessError, match="Range requests"):
                read()


@pytest.mark.parametrize("group", ["g2", "g3"])
def test_an_array_in_a_group_is_found_by_key_or_in_consolidated_metadata(
    web: WebServer, group: str
) -> None:
    for name, key in ((group, "deep/er/rows"), (f"{group}-all", None), (f"{group}-all", "deep")):
        source = open_source(f"{web.url}/{name}.zarr", key=key)
        assert (source.read(0, 50) == ROWS).all()
        assert source.parts[0].key == "deep/er/rows"
    with pytest.raises(SourceError, match=r"does not list.*set `key`.*consolidate_metadata"):
        open_source(f"{web.url}/{group}.zarr")


def test_consolidated_metadata_names_arrays_and_vouches_for_none(
    folder: Path, tmp_path: Path
) -> None:
    """What it says of an array is not what is read: that is checked where it lies, and its name leads nowhere else."""
    (tmp_path / "a.zarr/x").mkdir(parents=True)
    good = json.loads((folder / "g2-all.zarr/.zmetadata").read_text())["metadata"]
    array = good["deep/er/rows/.zarray"]
    for name, words in (("x", "pickle"), ("../x", "lead elsewhere")):
        (tmp_path / "a.zarr/.zgroup").write_text('{"zarr_format": 2}')
        listed = {"metadata": {f"{name}/.zarray": array}}
        (tmp_path / "a.zarr/.zmetadata").write_text(json.dumps(listed))
        bad = {**array, "filters": [{"id": "pickle"}]}
        (tmp_path / "a.zarr/x/.zarray").write_text(json.dumps(bad))
        with (
            WebServer(tmp_path).running() as server,
            pytest.raises(SourceError, match=words),
        ):
            open_source(f"{server.url}/a.zarr")


def test_a_server_that_gives_zarr_other_metadata_than_was_checked_is_not_believed(
    folder: Path,
) -> None:
    path = "/v2.zarr/.zarray"
    bad = {**json.loads((folder / path[1:]).read_text()), "filters": [{"id": "pickle"}]}
    with WebServer(folder, later={path: json.dumps(bad).encode()}).running() as server:
        # Checked and used as it was checked, with one request; then checked again.
        source = open_source(f"{server.url}/v2.zarr")
        with pytest.raises(SourceError, match="pickle"):
            source.read(0, 50)


def test_a_stamp_follows_the_chunks_of_its_rows(folder: Path, web: WebServer) -> None:
    source = open_source(f"{web.url}/v3.zarr")
    before = [source.stamp(start, start + 7) for start in (0, 7, 14)]
    chunk = folder / "v3.zarr/c/1/0"
    good = chunk.read_bytes()
    try:
        chunk.write_bytes(good + b"\0")
        after = [source.stamp(start, start + 7) for start in (0, 7, 14)]
        os.remove(chunk)
        assert next(source.stamps(7, 14)) == ("c/1/0", -1, 0)
    finally:
        chunk.write_bytes(good)
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, True, False]


REFUSED = {
    "http://name:word@host/a.npy": "user name",
    "https://name@host/a.npy": "user name",
    "https://host/a.npy?X-Amz-Signature=abc": "query",
    "https://host/a.npy#part": "query",
    "https://host:port/a.npy": "names no host",
    "https://host/../a.npy": r"'\.\.'",
    "ftp://host/a.npy": "not known",
    "https://host/*.npy": "is a pattern",
    "https://host/a.h5": "read from a disk",
}


@pytest.mark.parametrize("url", REFUSED)
def test_addresses_that_are_not_plain_are_refused_and_no_secret_is_shown(url: str) -> None:
    with pytest.raises(SourceError, match=REFUSED[url]) as caught:
        open_source(url)
    assert "word" not in str(caught.value).replace("password", "")
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://host", "http://host:8080/a", "http://[::1]:80/a"])
def test_plain_addresses_are_taken_as_they_are(url: str) -> None:
    assert absolute(url) == url
    assert absolute(url.replace("http", "HTTP", 1) + "/") == url
    assert is_url(url)


def test_what_is_not_there_and_who_does_not_answer(web: WebServer, hasty: None) -> None:
    for name, words in (
        ("none.npy", "no such file"),
        ("none.zarr", "no Zarr metadata"),
        ("none", "no such file"),
    ):
        with pytest.raises(SourceError, match=words):
            open_source(f"{web.url}/{name}")
    with pytest.raises(StoreError, match="cannot be reached"):
        open_source(f"http://127.0.0.1:{free_port()}/a.npy")


def test_nothing_is_written_to_a_web_server(tmp_path: Path, web: WebServer) -> None:
    config = config_of(tmp_path, f"{web.url}/a.npy", output=f"{web.url}/out")
    with pytest.raises(OutputError, match="only read from"):
        run_here(config)
    with pytest.raises(ConfigError, match="user name"):
        config_of(tmp_path, "a.npy", output="https://me:word@host/out")


def test_inspect_and_init_look_at_an_address(web: WebServer) -> None:
    command = CliRunner()
    seen = command.invoke(app, ["inspect", f"{web.url}/shards.zarr", "--json"])
    assert json.loads(seen.output)["rows"] == 50
    begun = command.invoke(app, ["init", f"{web.url}/shards.zarr"])
    assert f"uri: {web.url}/shards.zarr" in begun.output


def test_a_finished_output_on_a_web_server_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    run_here(config_of(tmp_path, tmp_path / "a.npy", "PQ2x2", export=["faiss"]))
    with WebServer(tmp_path).running() as server:
        for place in ("codebook.zarr", "index.faiss"):
            learnt = vqpipe.load_codebook(f"{server.url}/out/v1/{place}")
            assert (learnt.encode(ROWS) == vqpipe.open_codes(tmp_path / "out")["codes"][...]).all()
