"""Reading a config: YAML, variables, paths, overrides, and errors that a person can act on."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vqpipe.config import SYNTHETIC_SCHEME, Config
from vqpipe.errors import ConfigError

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
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"config {path}: there is no such file; `vqpipe init` writes a starter config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: cannot be read as UTF-8 text: {error}") from error
    written = _parse(text, f"config {path}")
    if not isinstance(written, dict):
        raise ConfigError(f"config {path}: holds {type(written).__name__}, not keys and values")
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
        plain = _absolute_paths(_expand(dict(written), origin), base)
        for key, value in (overrides or {}).items():
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
        lines = _explain(mistakes, plain)
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _parse(text: str, origin: str) -> Any:
    """Read YAML. What it is made of is not ours, so whatever it raises is wrapped."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ConfigError(f"{origin}: is not YAML: {place}{error.problem}") from error
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
            section[keys[-1]] = _absolute(section[keys[-1]], base)
    return plain


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, list):
        return [_absolute(item, base) for item in value]
    if not isinstance(value, str) or not value or "://" in value:
        return value
    if value.startswith(SYNTHETIC_SCHEME):
        return value
    try:
        return os.path.abspath(base / Path(value).expanduser())
    except RuntimeError as error:
        raise ConfigError(f"{value!r}: {error}; write the path in full") from error


def _explain(mistakes: list[ErrorDetails], plain: dict[str, Any]) -> list[str]:
    """Say what pydantic found, one line a key, so that a person can act on it."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for mistake in mistakes:
        found.setdefault(_written_keys(mistake, plain), []).append(mistake)
    # A section that holds a mistake is not itself one, though another branch of its union says so.
    leaves = [
        keys for keys in found if not any(keys == other[: len(keys)] != other for other in found)
    ]
    return [_explain_key(list(keys), found[keys]) for keys in leaves]


def _explain_key(keys: list[str], mistakes: list[ErrorDetails]) -> str:
    where = ".".join(keys)
    kinds = {mistake["type"] for mistake in mistakes}
    if kinds == {"extra_forbidden"}:
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{where}: there is no such key; {hint}"
    if kinds == {"missing"}:
        return f"{where}: is missing and has no default; add it"
    wanted = dict.fromkeys(_wanted(mistake["msg"]) for mistake in mistakes)
    given = mistakes[0]["input"]
    shown = "" if isinstance(given, dict) else f"{given!r}: "
    return f"{where}: {shown}{', or '.join(wanted)}"


def _wanted(message: str) -> str:
    message = re.sub(r"dictionary or instance of \w+", "section of keys", message)
    message = message.replace(
        "could not parse value and unit from byte string", "write a size such as 2GiB"
    )
    message = message.removeprefix("Value error, ").removesuffix(" as a number")
    return message[:1].lower() + message[1:]


def _written_keys(mistake: ErrorDetails, plain: Any) -> tuple[str, ...]:
    """Return the keys that the user wrote: pydantic also names the branch of a union that it tried."""
    keys: list[str] = []
    value = plain
    for place, key in enumerate(mistake["loc"]):
        there = (isinstance(value, dict) and key in value) or (
            isinstance(value, list) and isinstance(key, int) and key < len(value)
        )
        if there:
            keys.append(str(key))
            value = value[key]
        elif keys == ["codebook"] and isinstance(value, str):
            # A short name such as PQ16x13 was taken apart: its bits are wrong, not the name.
            keys.append(str(key))
        elif mistake["type"] == "missing" and place == len(mistake["loc"]) - 1:
            keys.append(str(key))
    return tuple(keys)


def _known_keys(keys: list[str]) -> list[str]:
    """Return the keys of the section that ``keys`` lead to."""
    model: type[BaseModel] = Config
    for key in keys:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if key in fields:
            model = _section_of(fields[key].annotation) or model
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Find the section in an annotation such as ``Literal["serial"] | ClusterConfig``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _section_of(part)
        if found is not None:
            return found
    return None
