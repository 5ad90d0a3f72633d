"""Reading a config: YAML, variables, paths, overrides, and errors that a person can act on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vqpipe.config import SYNTHETIC_SCHEME, CodebookConfig, Config, parse_codebook
from vqpipe.config_mistakes import explain, explain_yaml
from vqpipe.errors import ConfigError
from vqpipe.urls import absolute

# As a shell writes it; such a folder there may be, but hardly.
_SHELL_VARIABLE = re.compile(r"\$[A-Za-z_]\w*(/|$)")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
# Values that name a place: relative ones are taken from where they are written down.
_PATHS = (
    ("source", "uri"),
    ("output",),
    ("codebook", "from"),
    ("train", "init"),
    ("evaluate", "queries", "uri"),
    ("evaluate", "truth", "uri"),
    ("cluster", "options", "security", "tls_ca_file"),
    ("cluster", "options", "security", "tls_client_cert"),
    ("cluster", "options", "security", "tls_client_key"),
)

# Aliases make a few lines stand for billions of values. No config has so many, lists of files included.
_MOST_VALUES = 100_000

_MOST_NESTED = 50

# `<<` takes another mapping's keys over; it is no key of its own.
_MERGE_TAG = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice instead of dropping the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise ConfigError(
                    f"line {key_node.start_mark.line + 1}: the key {key!r} stands twice in one "
                    "section, and only one value can hold; remove one"
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        # The time that brackets within brackets take grows with the square of their number.
        if self.flow_level > _MOST_NESTED:
            raise ConfigError(f"line {self.line + 1}: more than {_MOST_NESTED} brackets are open")
        super().fetch_flow_collection_start(token_class)

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: `<<` brings in more than {_MOST_VALUES} keys; write out the "
                "few that are meant"
            )


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file.

    Parameters
    ----------
    path : str or Path
        A YAML file. Relative paths in it are taken from its folder.
    overrides : mapping of str to any, optional
        Dotted keys and their values (``{"train.rows": 1000}``). Relative paths are taken from the
        working directory.

    Raises
    ------
    ConfigError
        With every mistake in the file, one a line.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"config {path}: is a folder; name the YAML file in it")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"config {path}: there is no such file; `vqpipe init` writes a starter config"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"config {path}: is no UTF-8 text (byte {error.start}), and a config is a YAML file; if these are vectors, "
            f"`vqpipe init {path} > config.yaml` writes one for them"
        ) from error
    except OSError as error:
        raise ConfigError(f"config {path}: cannot be read ({error.strerror})") from error
    written = _parse(text, f"config {path}")
    if written is None:
        raise ConfigError(f"config {path}: is empty; `vqpipe init` writes a starter config")
    if not isinstance(written, dict):
        what = "a list" if isinstance(written, list) else "a single value"
        raise ConfigError(f"config {path}: holds {what}, not keys and values as in output: runs/a")
    return make_config(written, path.parent, overrides, origin=f"config {path}", name=path.stem)


def make_config(
    written: Mapping[str, Any],
    base: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    origin: str = "config",
    name: str = "vqpipe",
) -> Config:
    """Turn plain values into a config: variables expanded, paths made absolute, all checked.

    Raises
    ------
    ConfigError
        With every mistake, one a line.
    """
    try:
        _count_values(written, origin)
        plain = _absolute_paths(_expand(dict(written), origin), base)
        for key, value in (overrides or {}).items():
            _count_values(value, f"--set {key}")
            change = _expand(_nest(key, value), f"--set {key}")
            _merge(plain, _absolute_paths(change, Path.cwd()))
    except RecursionError as error:
        raise ConfigError(
            f"{origin}: a value contains itself, so it has no end; remove the alias"
        ) from error
    plain.setdefault("name", name)
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        lines = explain(mistakes, plain)
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _parse(text: str, origin: str) -> Any:
    """Read YAML. What it is made of is not ours, so whatever it raises is wrapped."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{origin}: is not YAML: {explain_yaml(error, text)}") from error
    except Exception as error:
        raise ConfigError(f"{origin}: is not YAML: {type(error).__name__}: {error}") from error


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``key.path=value`` assignments; values are YAML.

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> parse_overrides(["train.rows=1000", "export=[]"])
    {'train.rows': 1000, 'export': []}
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(
                f"--set {assignment!r}: write it as key.path=value, as in train.rows=1000"
            )
        overrides[key] = _parse(value, f"--set {assignment!r}")
    return overrides


def parse_codebooks(names: Iterable[str]) -> tuple[list[CodebookConfig], list[str]]:
    """Read the short names of codebooks, each commas apart from the next or given by itself.

    Returns
    -------
    codebooks : list of CodebookConfig
        Of the names that are right, in their order.
    mistakes : list of str
        What is wrong with the others, one a name.

    Examples
    --------
    >>> codebooks, mistakes = parse_codebooks(["PQ8, KM64", "XQ1"])
    >>> [str(codebook.spec) for codebook in codebooks]
    ['PQ8x8', 'KM64']
    >>> mistakes
    ['codebook XQ1: names no codebook: write KM1024, PQ16 (= PQ16x8), PQ16x4, OPQ16 or RQ8']
    """
    found: list[CodebookConfig] = []
    mistakes: list[str] = []
    for name in (part.strip() for text in names for part in text.split(",")):
        try:
            found.append(CodebookConfig.model_validate(parse_codebook(name)))
        except ValidationError as error:
            mistakes += [
                f"codebook {name}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}"
                for wrong in error.errors(include_url=False)
            ]
        except ValueError as error:
            mistakes.append(f"codebook {name or repr(name)}: {error}")
    return found, mistakes


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merge(into: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping) and value:
            _merge(old, value)
        else:
            into[key] = value


def _count_values(value: Any, origin: str, before: int = 0) -> int:
    """Return how many values there are, aliases followed, and refuse more than any config has."""
    count = before + 1
    if count > _MOST_VALUES:
        raise ConfigError(
            f"{origin}: stands for more than {_MOST_VALUES} values, aliases followed; name files by a pattern"
        )
    inner = value.values() if isinstance(value, Mapping) else value
    for item in inner if isinstance(value, Mapping | list) else ():
        count = _count_values(item, origin, count)
    return count


def _expand(value: Any, origin: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, origin) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, origin) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match[1], origin), value)
    return value


def _variable(name: str, origin: str) -> str:
    if name not in os.environ:
        raise ConfigError(
            f"{origin}: the environment variable {name!r} is not set, so ${{{name}}} has no value; "
            f"set it (export {name}=...) or write the value itself"
        )
    return os.environ[name]


def _absolute_paths(plain: dict[str, Any], base: Path) -> dict[str, Any]:
    for keys in _PATHS:
        section: Any = plain
        for key in keys[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict) and keys[-1] in section:
            try:
                section[keys[-1]] = _absolute(section[keys[-1]], base, is_uri=keys[-1] == "uri")
            except ConfigError as error:
                raise ConfigError(f"{'.'.join(keys)}: {error}") from None
    return plain


def _absolute(value: Any, base: Path, *, is_uri: bool) -> Any:
    if isinstance(value, list):
        return [_absolute(item, base, is_uri=is_uri) for item in value]
    if not isinstance(value, str) or not value or value.startswith(SYNTHETIC_SCHEME):
        return value
    if _SHELL_VARIABLE.match(value):
        raise ConfigError(
            f"{value!r}: begins with a variable as shells write it; a config writes it ${{NAME}}, in braces"
        )
    whole = absolute(value, str(base))
    # Sources know file URLs, and are told from one another by what is written.
    return value if is_uri and value.startswith("file:") else whole
