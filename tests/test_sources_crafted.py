"""Crafted and damaged Zarr metadata: nothing that it names runs, no claim of it takes memory."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.errors import SourceError
from vqpipe.sources import open_source

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (open, (str(self.marker), "w"))


def crafted(folder: Path, marker: Path, **fields: Any) -> None:
    """Write a Zarr v2 array whose only chunk is a pickle with a payload."""
    folder.mkdir(parents=True)
    document = {
        "zarr_format": 2,
        "shape": [1, 1],
        "chunks": [1, 1],
        "dtype": "<f4",
        "compressor": None,
        "filters": None,
        "fill_value": None,
        "order": "C",
    }
    (folder / ".zarray").write_text(json.dumps(document | fields))
    (folder / "0.0").write_bytes(pickle.dumps([Payload(marker), "|O", (1, 1)]))


def test_the_payload_is_live(tmp_path: Path) -> None:
    with pickle.loads(pickle.dumps(Payload(tmp_path / "marker"))):
        assert (tmp_path / "marker").exists()


ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "object dtype": ("pickle", {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]}),
    "number dtype": ("pickle", {"filters": [{"id": "pickle", "protocol": 5}]}),
    "second filter": ("pickle", {"filters": [{"id": "shuffle"}, {"id": "pickle"}]}),
    "compressor": ("pickle", {"compressor": {"id": "pickle"}}),
    "object dtype alone": (r"\|O", {"dtype": "|O"}),
    "dtype of a filter": (r"\|O", {"filters": [{"id": "delta", "dtype": "<f4", "astype": "|O"}]}),
    "json2": ("json2", {"filters": [{"id": "json2"}]}),
    "msgpack2": ("msgpack2", {"filters": [{"id": "msgpack2"}]}),
    "vlen": ("vlen-bytes", {"filters": [{"id": "vlen-bytes"}]}),
    "categorize": ("categorize", {"filters": [{"id": "categorize"}]}),
    "unknown": ("mine", {"compressor": {"id": "mine"}}),
    "no name": ("codec", {"filters": [7]}),
    "no list": ("filters", {"filters": {"id": "pickle"}}),
    "fields": ("dtype", {"dtype": [["a", "<f4"]]}),
}


@pytest.mark.parametrize("place", ["", "group/inner", "zip"])
@pytest.mark.parametrize("name", ATTACKS)
def test_crafted_array_is_refused_before_zarr_opens_it(
    tmp_path: Path, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, fields = ATTACKS[name]
    store, marker = tmp_path / "a.zarr", tmp_path / "marker"
    crafted(store / place if place != "zip" else store, marker, **fields)
    if place == "zip":
        shutil.make_archive(str(store), "zip", store)
    monkeypatch.setattr(zarr, "AsyncArray", lambda *_, **__: pytest.fail("zarr opened it"))
    for key in {None, place} - {"zip", ""}:
        with pytest.raises(SourceError, match=named):
            open_source(str(store) + (".zip" if place == "zip" else ""), key=key)
    assert not marker.exists()


def test_array_crafted_after_it_was_described_is_refused(tmp_path: Path) -> None:
    store, marker = tmp_path / "a.zarr", tmp_path / "marker"
    zarr.create_array(store, data=np.ones((1, 1), "f4"), zarr_format=2)
    source = open_source(str(store))
    shutil.rmtree(store)
    crafted(store, marker, dtype="|O", filters=[{"id": "pickle"}])
    with pytest.raises(SourceError, match="pickle"):
        source.read(0, 1)
    assert not marker.exists()


def grid(*chunk: int) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}}


DOCUMENT_V3: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4, 2],
    "data_type": "float32",
    "fill_value": 0,
    "codecs": [LITTLE],
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "attributes": {},
    **grid(2, 2),
}


def sharded_with(**fields: Any) -> list[Any]:
    inner = {"chunk_shape": [2, 2], "codecs": [LITTLE], "index_codecs": [LITTLE]}
    return [{"name": "sharding_indexed", "configuration": inner | fields}]


BAD_V3: dict[str, tuple[str, dict[str, Any]]] = {
    "codec": ("vlen-utf8", {"codecs": [{"name": "vlen-utf8"}]}),
    "bare name": ("numcodecs.pickle", {"codecs": ["bytes", "numcodecs.pickle"]}),
    "inner codec": ("mine", {"codecs": sharded_with(codecs=[{"name": "mine"}])}),
    "index codec": ("mine", {"codecs": sharded_with(index_codecs=[{"name": "mine"}])}),
    "chunks of one row": (
        str(2**40),
        {**grid(2**40, 2), "codecs": sharded_with(chunk_shape=[1, 2])},
    ),
    "inner chunk": ("chunk_shape", {"codecs": sharded_with(chunk_shape=[0, 2])}),
    "another id": (
        "pickle",
        {"codecs": [LITTLE, {"name": "numcodecs.zstd", "configuration": {"id": "pickle"}}]},
    ),
    "codec settings": ("settings", {"codecs": [{"name": "bytes", "configuration": [1]}]}),
    "no codecs": ("codecs", {"codecs": None}),
    "transformers": ("storage_transformers", {"storage_transformers": [{"name": "x"}]}),
    "text": ("string", {"data_type": "string"}),
    "extended dtype": ("bytes", {"data_type": {"name": "null_terminated_bytes"}}),
    "float64": ("float64", {"data_type": "float64", "fill_value": 0.0}),
    "grid": ("chunk_grid", {"chunk_grid": {"name": "rectilinear", "configuration": {}}}),
    "keys": ("chunk_key_encoding", {"chunk_key_encoding": {"name": "mine"}}),
    "separator": (
        "chunk_key_encoding",
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/../"}}},
    ),
    "one axis": (r"\(4,\)", {"shape": [4]}),
    "negative": (r"\(-4, 2\)", {"shape": [-4, 2]}),
    "boolean": ("True", {"shape": [True, 2]}),
    "fraction": ("4.5", {"shape": [4.5, 2]}),
    "huge": (str(2**62), {"shape": [2**62, 2]}),
    "wide": (str(2**21), {"shape": [4, 2**21]}),
    "no rows": (r"\(0, 2\)", {"shape": [0, 2]}),
    "no shape": ("None", {"shape": None}),
    "chunk of none": (r"\(0, 2\)", grid(0, 2)),
    "chunk axes": (r"\(2,\)", grid(2)),
    "huge chunk": (str(2**62), grid(2**62, 2)),
    "zarr's own refusal": ("cannot be opened", {"fill_value": "what?"}),
}


@pytest.mark.parametrize("name", BAD_V3)
def test_bad_metadata_is_refused_with_its_value(tmp_path: Path, name: str) -> None:
    named, fields = BAD_V3[name]
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(DOCUMENT_V3 | fields))
    with pytest.raises(SourceError, match=named):
        open_source(str(tmp_path / "a.zarr"))


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"node_type": "array"}', "\xff"])
def test_metadata_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text(text, encoding="latin1")
    with pytest.raises(SourceError, match=r"a\.zarr"):
        open_source(str(tmp_path / "a.zarr"))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from(sorted(DOCUMENT_V3)), value=ANYTHING)
# zarr warns of fields that it does not know.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_value_in_metadata_is_refused_or_opened(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    store = tmp_path_factory.mktemp("fuzz") / "a.zarr"
    store.mkdir()
    (store / "zarr.json").write_text(json.dumps(DOCUMENT_V3 | {field: value}))
    try:
        source = open_source(str(store))
    except SourceError:
        return
    assert (source.rows, source.dim) == tuple(value if field == "shape" else (4, 2))
