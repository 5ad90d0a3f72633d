"""Reading a config: what it means, and that every mistake is told in words."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.testing import CliRunner

from vqpipe.cli import app
from vqpipe.codebook import CodebookSpec
from vqpipe.config import (
    STAGES,
    ClusterConfig,
    Config,
    FileConfig,
    ScaleConfig,
)
from vqpipe.config_file import load_config, make_config, parse_overrides
from vqpipe.errors import ConfigError

FORMATS = ("zarr", "npy", "npz", "hdf5", "fvecs", "bvecs", "fbin", "u8bin", "i8bin", "parquet")
TRUTH_FORMATS = ("npy", "ivecs", "zarr")

PLAIN: dict[str, Any] = {"source": {"uri": "a.npy"}, "output": "out", "codebook": "PQ16"}


def make(base: Path = Path("/base"), **changes: Any) -> Config:
    """Make a config of the least that is needed, with sections replaced."""
    return make_config({**PLAIN, **changes}, base)


def mistake(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    return str(caught.value)


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


TEXT = "source: {uri: a.npy}\noutput: out\ncodebook: PQ16\n"


# Paths.


def test_relative_paths_are_taken_from_the_folder_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = """\
source: {uri: [../data/a-*.npy, b.npy]}
output: ../runs/a
codebook: PQ16
train: {init: old/codebook.zarr}
evaluate: {queries: {uri: q.npy}, truth: {uri: t.npy}}
"""
    config = load_config(write(tmp_path / "configs", text))
    assert config.source.uri == [f"{tmp_path}/data/a-*.npy", f"{tmp_path}/configs/b.npy"]
    assert config.output == f"{tmp_path}/runs/a"
    assert config.train.init == f"{tmp_path}/configs/old/codebook.zarr"
    assert isinstance(config.evaluate.queries, FileConfig)
    assert config.evaluate.queries.uri == f"{tmp_path}/configs/q.npy"
    assert config.evaluate.truth is not None
    assert config.evaluate.truth.uri == f"{tmp_path}/configs/t.npy"


def test_paths_of_overrides_are_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = write(tmp_path / "configs", TEXT)
    config = load_config(path, {"source.uri": "b.npy", "codebook": {"from": "c.zarr"}})
    assert config.source.uri == f"{tmp_path}/elsewhere/b.npy"
    assert config.codebook.source == f"{tmp_path}/elsewhere/c.zarr"
    assert config.output == f"{tmp_path}/configs/out"
    # A relative path to the config itself changes nothing.
    assert load_config("../configs/config.yaml").output == f"{tmp_path}/configs/out"


def test_absolute_paths_urls_and_home_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    uris = ["/x/a.npy", "s3://bucket/a.zarr", "file:///y/a.npy", "~/a.npy"]
    assert make(source={"uri": uris}).source.uri == [*uris[:3], "/home/ada/a.npy"]


def test_the_name_is_the_files_unless_it_is_given(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, TEXT, "sift-pq16.yaml")).name == "sift-pq16"
    assert load_config(write(tmp_path, TEXT + "name: b")).name == "b"


def test_a_home_of_nobody_is_a_mistake_of_the_config() -> None:
    said = mistake(output="~nobody-of-this-name/out")
    assert "~nobody-of-this-name" in said


# Variables.


def test_variables_are_expanded_in_every_text_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("N", "7")
    monkeypatch.setenv("EMPTY", "")
    config = make(
        source={"uri": ["${DATA}/a${N}.npy", "x${EMPTY}y.npy"]},
        name="$DATA ${N}${N}",
        cluster={"options": {"deep": [{"queue": "q${N}"}]}},
    )
    assert config.source.uri == ["/data/a7.npy", "/base/xy.npy"]
    assert config.name == "$DATA 77"
    assert isinstance(config.cluster, ClusterConfig)
    assert config.cluster.options == {"deep": [{"queue": "q7"}]}


def test_variables_are_expanded_in_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "7")
    overrides = parse_overrides(["name=n${N}"])
    assert make_config(PLAIN, Path("/base"), overrides).name == "n7"


def test_a_value_of_a_variable_is_not_expanded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER", "${VQPIPE_UNSET}")
    assert make(name="${OUTER}").name == "${VQPIPE_UNSET}"


@pytest.mark.parametrize("text", ["${VQPIPE_UNSET}", "/a/${VQPIPE_UNSET}/b"])
def test_an_unset_variable_is_named(text: str) -> None:
    for said in (mistake(source={"uri": text}), mistake(name=text), mistake(codebook=text)):
        assert "'VQPIPE_UNSET'" in said
        assert "not set" in said
    assert "''" in mistake(name="${}")


# Overrides.


def test_overrides_merge_deep_and_the_last_one_holds() -> None:
    written = {
        **PLAIN,
        "train": {"rows": 10, "stop": 0.5},
        "cluster": {"options": {"a": 1, "b": 2}},
    }
    overrides = {"train.rows": 20, "cluster.options": {"b": 3}, "cluster.options.c": 4}
    config = make_config(written, Path("/base"), overrides)
    assert (config.train.rows, config.train.stop) == (20, 0.5)
    assert isinstance(config.cluster, ClusterConfig)
    assert config.cluster.options == {"a": 1, "b": 3, "c": 4}
    assert make_config(written, Path("/base"), {"cluster": "serial"}).cluster == "serial"
    assert (
        make_config(written, Path("/base"), {"train.rows": None, "train": {"rows": 7}}).train.rows
        == 7
    )
    # An empty section takes everything back.
    assert make_config(written, Path("/base"), {"train": {}}).train.rows == "auto"
    # What was written is left as it was.
    assert written["train"] == {"rows": 10, "stop": 0.5}
    assert PLAIN["source"] == {"uri": "a.npy"}


def test_overrides_are_yaml() -> None:
    given_ = ["a.b=1", "c=[1, x]", "d=null", "e={f: true}", "g=x=y", "h=", "i=1e6"]
    assert parse_overrides(given_) == {
        "a.b": 1,
        "c": [1, "x"],
        "d": None,
        "e": {"f": True},
        "g": "x=y",
        "h": None,
        "i": "1e6",
    }


@pytest.mark.parametrize(
    "text",
    [
        *("train.rows", "=3", ".a=3", "a..b=3", "a.=3", "", "a=[1", "a={", "a=2024-13-45"),
        *("a=!!timestamp b", "a={[1]: 2}", "a={b: 1, b: 2}", f"a={'[' * 3000}"),
    ],
    ids=lambda text: text[:20],
)
def test_an_override_that_cannot_be_read_is_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides([text])
    assert "--set" in str(caught.value)
    value = text.partition("=")[2]
    assert repr(text) in str(caught.value) or value[:20] in str(caught.value)


# Values.


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e6", 10**6), ("1E3", 1000), ("2.5e3", 2500), ("1.0e+2", 100), ("12", 12), ("1_000", 1000)],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, written: str, value: int) -> None:
    text = (
        f"{TEXT}train: {{rows: {written}, heldout_rows: {written}}}\nevaluate: {{rows: {written}}}"
    )
    config = load_config(write(tmp_path, text))
    assert (config.train.rows, config.train.heldout_rows, config.evaluate.rows) == (value,) * 3


@pytest.mark.parametrize("value", [0, -1, 1.5, "1.5", "1e-3", "ten", True, [], {}, "1.5e0"])
def test_rows_are_whole_and_positive(value: object) -> None:
    said = mistake(train={"rows": value})
    assert "train.rows" in said
    assert said.count("\n") == 0


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2GiB", 2 << 30),
        ("2GB", 2 * 10**9),
        ("512MiB", 512 << 20),
        (10**9, 10**9),
        ("1.5 GiB", 3 << 29),
    ],
)
def test_memory_has_a_unit(written: object, value: int) -> None:
    assert make(memory_per_worker=written).memory_per_worker == value


WRONG = {
    "seed": -1,
    "name": "",
    "output": "",
    "memory_per_worker": "lots",
    "keep_generations": 0,
    "export": ["csv"],
    "cluster": "local",
    "source.uri": [],
    "source.format": "csv",
    "source.metric": "dot",
    "source.invalid_rows": "skip",
    "source.rows": 0,
    "train.stop": 1,
    "train.rounds": "many",
    "encode.store_error": "maybe",
    "encode.assign": "roughly",
    "evaluate.queries": -1,
    "evaluate.recall_at": [0],
    "evaluate.truth": 3,
    "cluster.scale": {"minimum": 2},
    "cluster.options": [1],
    "drift.distortion": 0,
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_the_wrong_type_is_told_by_its_key(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(PLAIN, Path("/base"), {key: WRONG[key]})
    said = str(caught.value)
    assert said.startswith(f"config: {key}"), said
    assert "\n" not in said
    assert "Config" not in said, "a class of ours means nothing to the user"
    assert "pydantic" not in said


def test_every_mistake_is_told_one_a_line(tmp_path: Path) -> None:
    text = """\
sorce: {uri: a.npy}
output: 3
codebook: XY3
train: {rows: none, stop: 7, rounds: auto}
cluster: {scale: {maximum: 0}}
evaluate: {recall_at: [1, 0], queries: {urI: x}}
"""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    prefix = f"config {path}: "
    assert all(line.startswith(prefix) for line in lines)
    keys = [line.removeprefix(prefix).split(":")[0] for line in lines]
    assert sorted(keys) == [
        "cluster.scale.maximum",
        "codebook",
        "evaluate.queries.urI",
        "evaluate.queries.uri",
        "evaluate.recall_at.1",
        "output",
        "sorce",
        "source",
        "train.rows",
        "train.stop",
    ]
    said = str(caught.value)
    for fact in ("'source'", "'XY3'", "'none'", "7", "'uri'", "missing"):
        assert fact in said


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ({"sead": 3}, "sead", "'seed'"),
        ({"memory": "2GB"}, "memory", "memory_per_worker"),
        ({"train": {"heldout_row": 3}}, "train.heldout_row", "'heldout_rows'"),
        ({"source": {"uri": "a", "metrics": "l2"}}, "source.metrics", "'metric'"),
        ({"codebook": {"kind": "PQ", "M": 3}}, "codebook.M", "m"),
        ({"cluster": {"clas": "x"}}, "cluster.clas", "'class'"),
        (
            {"cluster": {"scale": {"maximum": 3, "minimun": 1}}},
            "cluster.scale.minimun",
            "'minimum'",
        ),
        ({"evaluate": {"truth": {"ur": "a"}}}, "evaluate.truth.ur", "'uri'"),
        ({"drift": {"xyz": 3}}, "drift.xyz", "known are distortion"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(
    section: dict[str, Any], key: str, near: str
) -> None:
    lines = [line for line in mistake(**section).splitlines() if f"{key}: " in line]
    assert len(lines) == 1
    assert "no such key" in lines[0]
    assert near in lines[0]


@pytest.mark.parametrize("key", ["int", "str", "MyConfig", "literal[x", "list[int]", "constrained"])
def test_an_unknown_key_may_look_like_anything(key: str) -> None:
    """Pydantic names the branch of a union among the keys: what the user wrote must not be taken for one."""
    assert f"train.{key}: there is no such key" in mistake(train={key: 3})
    assert f"config: {key}: there is no such key" in mistake(**{key: 3})


def test_merge_keys_of_yaml_are_understood(tmp_path: Path) -> None:
    text = "train: &rows {rows: 3}\nevaluate: {<<: *rows, queries: 5}\n"
    config = load_config(write(tmp_path, TEXT + text))
    assert (config.evaluate.rows, config.evaluate.queries) == (3, 5)


@pytest.mark.parametrize(
    "text", ["seed: 1\nname: b\nseed: 2\n", "train: {rows: 3, stop: 0, rows: 4}\n"]
)
def test_a_key_twice_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, TEXT + text)
    with pytest.raises(ConfigError, match=r"line \d+: the key '(seed|rows)' stands twice"):
        load_config(path)


def test_the_same_key_in_two_sections_is_ordinary(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, TEXT + "train: {rows: 3}\nevaluate: {rows: 3}"))
    assert config.train.rows == config.evaluate.rows == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"3",
        b"- a",
        b"a: [1",
        b"\xff\xfe",
        b"a: !!python/object:os.system {}",
        b"a: b: c",
        b"\x00",
        b"? [a]\n: b",
        b"a: 2024-13-45",
        b"a: !!timestamp b",
        b"a: " + b"[" * 3000,
        b"a: &a [*a]",
        b"a: &a {b: *a}",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_config_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config .*config\.yaml: "):
        load_config(path)


def test_no_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file.*vqpipe init"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().seed = 3


# Codebooks.


@pytest.mark.parametrize(
    ("name", "mapping", "spec"),
    [
        ("KM1024", {"kind": "KM", "k": 1024}, CodebookSpec("KM", 1, 1024)),
        ("KM1", {"kind": "KM", "k": 1}, CodebookSpec("KM", 1, 1)),
        ("PQ16", {"kind": "PQ", "m": 16}, CodebookSpec("PQ", 16, 256)),
        ("PQ16x8", {"kind": "PQ", "m": 16, "bits": 8}, CodebookSpec("PQ", 16, 256)),
        ("PQ16x4", {"kind": "PQ", "m": 16, "bits": 4}, CodebookSpec("PQ", 16, 16)),
        ("OPQ16", {"kind": "OPQ", "m": 16}, CodebookSpec("OPQ", 16, 256)),
        ("OPQ16x5", {"kind": "OPQ", "m": 16, "bits": 5}, CodebookSpec("OPQ", 16, 32)),
        ("RQ8", {"kind": "RQ", "stages": 8}, CodebookSpec("RQ", 1, 256, 8)),
        ("RQ4x12", {"kind": "RQ", "stages": 4, "bits": 12}, CodebookSpec("RQ", 1, 4096, 4)),
        ("PQ1x1", {"kind": "PQ", "m": 1, "bits": 1}, CodebookSpec("PQ", 1, 2)),
    ],
)
def test_short_names_and_mappings_mean_the_same(
    name: str, mapping: dict[str, Any], spec: CodebookSpec
) -> None:
    assert make(codebook=name).codebook.spec == spec
    assert make(codebook=mapping).codebook.spec == spec


def test_from_takes_a_codebook_and_learns_none() -> None:
    codebook = make(codebook={"from": "a/codebook.zarr"}).codebook
    assert codebook.source == "/base/a/codebook.zarr"
    assert codebook.spec is None


@pytest.mark.parametrize(
    ("codebook", "facts"),
    [
        ("KM", ["'KM'", "KM1024"]),
        ("KM0", ["0"]),
        ("KM16777217", ["16777216"]),
        ("KM8x4", ["'KM8x4'", "KM8"]),
        ("PQ0", ["0"]),
        ("PQ16x0", ["bits", "1"]),
        ("PQ16x13", ["bits", "12"]),
        ("PQ", ["'PQ'", "PQ16"]),
        ("PQ16x", ["PQ16x"]),
        ("pq16", ["'pq16'", "PQ16"]),
        ("PQ-3", ["'PQ-3'"]),
        (" PQ16", ["' PQ16'"]),
        ("PQ١٦", ["PQ16"]),
        ("HNSW", ["'HNSW'"]),
        ("", ["''"]),
        (16, ["16"]),
        (None, ["codebook"]),
        ([], ["codebook"]),
        ({}, ["kind: KM", "kind: PQ", "from"]),
        ({"kind": "KM"}, ["`k`"]),
        ({"kind": "KM", "k": 8, "m": 2}, ["`k`"]),
        ({"kind": "PQ"}, ["`m`"]),
        ({"kind": "PQ", "k": 8}, ["`m`"]),
        ({"kind": "PQ", "m": 8, "k": 8}, ["`m`"]),
        ({"k": 8}, ["kind"]),
        ({"kind": "LSH", "k": 8}, ["codebook.kind", "'LSH'"]),
        ({"from": "a", "kind": "PQ"}, ["from", "kind"]),
        ({"from": ""}, ["codebook.from"]),
        ("OPQ", ["'OPQ'", "OPQ16", "RQ8"]),
        ("RQ8x13", ["codebook.bits", "13"]),
        ("RQ65", ["codebook.stages", "65"]),
        ("RQ0x8", ["codebook.stages", "0"]),
        ({"kind": "RQ", "m": 8}, ["`kind: RQ`", "`stages`", "`bits`"]),
        ({"kind": "RQ", "stages": 8, "k": 8}, ["`kind: RQ`", "`stages`"]),
        ({"kind": "PQ", "m": 8, "stages": 2}, ["`kind: PQ`", "`m`"]),
        ({"kind": "OPQ", "stages": 2}, ["`kind: OPQ`", "`m`"]),
        ({"from": "a", "stages": 2}, ["from", "stages"]),
    ],
    ids=str,
)
def test_what_is_no_codebook_is_refused(codebook: object, facts: list[str]) -> None:
    said = mistake(codebook=codebook)
    assert "codebook" in said
    assert [fact for fact in facts if fact not in said] == [], said


def test_a_cluster_is_a_word_or_a_mapping() -> None:
    assert make().cluster == ClusterConfig()
    assert make(cluster="serial").cluster == "serial"
    cluster = make(cluster={"scale": {"minimum": 2, "maximum": 64}}).cluster
    assert isinstance(cluster, ClusterConfig)
    assert cluster.scale == ScaleConfig(minimum=2, maximum=64)
    assert cluster.class_ == "distributed.LocalCluster"


def test_a_plain_config_is_the_config_again() -> None:
    configs = [
        make(),
        make(codebook={"from": "a"}, cluster="serial", export=[]),
        make(
            source={"uri": ["a", "b"], "metric": "cosine", "rows": 9},
            train={"rows": 5, "init": "c"},
            evaluate={"queries": {"uri": "q"}, "truth": {"uri": "t", "format": "ivecs"}},
            cluster={"class": "a.B", "scale": {"maximum": 3}},
        ),
    ]
    for config in configs:
        again = make_config(json.loads(json.dumps(config.plain())), Path("/elsewhere"))
        assert again == config
        assert yaml.safe_load(yaml.safe_dump(config.plain())) == config.plain()


# The schema and the starter config.


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def test_the_schema_is_the_models() -> None:
    printed = json.loads(invoke("schema"))
    assert printed.pop("$schema") == "https://json-schema.org/draft/2020-12/schema"
    schema = Config.model_json_schema(by_alias=True)
    assert printed == schema
    assert set(schema["required"]) >= {"source", "output", "codebook"}
    assert schema["additionalProperties"] is False
    for name, section in schema["$defs"].items():
        mapping = section["anyOf"][1] if name == "CodebookConfig" else section
        assert mapping["type"] == "object", name
        assert mapping["additionalProperties"] is False
        for key, value in mapping["properties"].items():
            assert value.get("description"), f"{name}.{key} says nothing"
    for key, value in schema["properties"].items():
        # A section says of itself what it is.
        says = value.get("description") or resolve(schema, value).get("description")
        assert says, f"{key} says nothing"


def test_the_schema_knows_the_words() -> None:
    schema = Config.model_json_schema(by_alias=True)
    source = resolve(schema, schema["properties"]["source"])
    assert source["properties"]["format"]["enum"] == ["auto", *FORMATS, "synthetic"]
    truths = schema["$defs"]["FileConfig"]["properties"]["format"]["enum"]
    assert {*FORMATS, *TRUTH_FORMATS, "auto"} == set(truths)
    assert "from" in schema["$defs"]["CodebookConfig"]["anyOf"][1]["properties"]
    assert "class" in schema["$defs"]["ClusterConfig"]["properties"]
    assert "const" in json.dumps(schema["properties"]["cluster"])
    assert len(STAGES) == 7


def test_the_schema_allows_the_short_name_of_a_codebook() -> None:
    """An editor that checks a config by the schema must not underline `codebook: PQ16`."""
    schema = Config.model_json_schema(by_alias=True)
    codebook = resolve(schema, schema["properties"]["codebook"])
    kinds = [resolve(schema, one).get("type") for one in codebook.get("anyOf", [codebook])]
    assert "string" in kinds


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {
        field.alias or name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


def test_the_starter_config_loads_and_states_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, invoke("init"))
    config = load_config(path)
    assert config.codebook.spec == CodebookSpec("PQ", 16, 256)
    plain = config.model_dump(by_alias=True)
    wanted = Config.model_validate({**PLAIN, "name": config.name}).model_dump(by_alias=True)
    changed = {key for key in plain if plain[key] != wanted[key]}
    assert changed <= {"source", "output", "codebook"}
    source = {key: value for key, value in plain["source"].items() if key != "uri"}
    assert source == {key: value for key, value in wanted["source"].items() if key != "uri"}


def test_the_starter_config_names_every_key_that_is_built(tmp_path: Path) -> None:
    written = yaml.safe_load(invoke("init"))
    assert {*written} == {*Config.model_fields}
    for section in ("source", "train", "encode", "evaluate", "cluster"):
        model = type(getattr(make(), section))
        known = {field.alias or name for name, field in model.model_fields.items()}
        assert known == {*written[section]}, section
        for key, value in defaults(model).items():
            if key in written[section] and section != "source":
                assert written[section][key] == value, f"{section}.{key}"


@pytest.mark.parametrize(
    "name", ["words.npy", "with space.npy", "it's: #1.npy", "ä{x}.npy", "2024.npy", "null.npy"]
)
def test_a_starter_config_for_a_source_fits_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    np.save(path, np.zeros((50, 24), np.float16))
    config = load_config(write(tmp_path, invoke("init", str(path))))
    assert config.source.uri == str(path)
    assert config.source.format == "npy"
    assert config.name == name.removesuffix(".npy")
    assert config.output == f"{tmp_path}/runs/{config.name}"
    spec = config.codebook.spec
    assert spec is not None
    assert 24 % spec.m == 0
    wanted = Config.model_validate({**PLAIN, "name": "a"}).model_dump()
    plain = config.model_dump()
    assert {key for key in plain if plain[key] != wanted[key]} == {
        "name",
        "source",
        "output",
        "codebook",
    }


def test_a_starter_config_for_no_source_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "none.npy")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "none.npy" in result.stderr


# Whatever is in the file, either a config comes out or a ConfigError.

KEYS = st.sampled_from(
    [
        "name",
        "seed",
        "source",
        "uri",
        "format",
        "key",
        "rows",
        "metric",
        "output",
        "codebook",
        "kind",
        "k",
        "m",
        "bits",
        "from",
        "train",
        "init",
        "stop",
        "evaluate",
        "queries",
        "truth",
        "recall_at",
        "export",
        "drift",
        "memory_per_worker",
        "cluster",
        "class",
        "options",
        "scale",
        "address",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
    | st.sampled_from(
        ["auto", "PQ16", "KM8", "serial", "2GiB", "1e6", "1e999", "${HOME}", "~x", "l2"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | SCALARS.filter(lambda key: key == key), inner, max_size=4)
    ),
    max_leaves=12,
)


def config_or_error(content: bytes, overrides: dict[str, Any] | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            config = load_config(path, overrides)
            assert isinstance(config, Config)
            assert os.path.isabs(config.output) or "://" in config.output


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "ignore"))
)
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_a_config_or_an_error(content: bytes) -> None:
    config_or_error(content)


@given(st.text(alphabet=st.sampled_from("ab:-[]{},#&*!|>'\"%@`?\n \t0123eE.+_~=<${}"), max_size=40))
@settings(max_examples=300, deadline=None)
def test_random_yaml_is_a_config_or_an_error(text: str) -> None:
    config_or_error(text.encode())
    config_or_error((TEXT + text).encode())


@given(st.dictionaries(KEYS, VALUES, max_size=6))
@settings(max_examples=300, deadline=None)
def test_random_values_under_known_keys_are_a_config_or_an_error(values: dict[str, Any]) -> None:
    config_or_error(yaml.safe_dump({**PLAIN, **values}).encode())
    config_or_error(yaml.safe_dump(PLAIN).encode(), dict(values))


@given(KEYS, KEYS, VALUES)
@settings(max_examples=300, deadline=None)
def test_random_overrides_are_a_config_or_an_error(outer: str, inner: str, value: Any) -> None:
    config_or_error(TEXT.encode(), {f"{outer}.{inner}": value})
    config_or_error(TEXT.encode(), {outer: value})


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_random_assignment_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_overrides([text])
    with contextlib.suppress(ConfigError):
        parse_overrides([f"name={text}"])
