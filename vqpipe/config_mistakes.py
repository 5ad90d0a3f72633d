"""What is wrong in a config, in words that name the key that was written."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from vqpipe.config import Config

_SECTION = "a section of keys"

# What pydantic says, in words that need no knowledge of Python.
_WORDS = {
    r"^Value error, ": "",
    r" as a number$": "",
    r"a valid dictionary or instance of \w+": _SECTION,
    r"could not parse value and unit from byte string": "write a size such as 2GiB",
    r"a valid integer(, unable to parse string as an integer)?": "a whole number",
    r"a valid number(, unable to parse string as a number)?": "a number",
    r"a valid boolean(, unable to interpret input)?": "true or false",
    r"a valid string": "text",
    r"a valid list": "a list, as in [a, b]",
    r"^Input should": "must",
}

# What most likely happened where YAML's reader says this.
_YAML_HINTS = {
    "character '\\t'": "indent with spaces, never with tabs",
    "mapping values are not allowed": "is the line before without its colon, or this one indented too far?",
    "expected ':'": "a key is followed by a colon and a space, as in output: runs/a",
    "end of stream": "a quote or a bracket that was opened is never closed",
    "expected ',' or": "close each bracket, and put quotes around a value that holds brackets, braces or a colon",
    "another document": "a config is one document: remove the line ---",
    "expected <block end>": "keys of one section begin in the same column",
}

# More of a wrong value is not shown.
_SHOWN_LETTERS = 200


def explain(mistakes: list[ErrorDetails], plain: dict[str, Any]) -> list[str]:
    """Say what pydantic found, one line a key, so that a person can act on it."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for mistake in mistakes:
        found.setdefault(_written_keys(mistake, plain), []).append(mistake)
    # A section that holds a mistake is not itself one, though another branch of its union says so.
    leaves = [
        keys for keys in found if not any(keys == other[: len(keys)] != other for other in found)
    ]
    return [_explain_key(list(keys), found[keys]) for keys in leaves]


def explain_yaml(error: Any, text: str) -> str:
    """Say where a text stops being YAML, show that line, and say what most likely happened.

    Parameters
    ----------
    error : yaml.MarkedYAMLError
    text : str
        That was read.
    """
    problem = str(error.problem)
    # What was begun and never ended is wrong where it began.
    begun = "expected ':'" in problem or "end of stream" in problem
    mark = (error.context_mark if begun else None) or error.problem_mark
    if mark is None:
        return problem
    lines = text.splitlines()
    line = lines[mark.line].strip() if mark.line < len(lines) else ""
    shown = f" {line[:_SHOWN_LETTERS]!r}" if line else ""
    hint = next((f"; {words}" for part, words in _YAML_HINTS.items() if part in problem), "")
    return f"line {mark.line + 1}, column {mark.column + 1}:{shown}: {problem}{hint}"


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
    given = mistakes[0]["input"]
    if given is None:
        return f"{where}: is empty; give it a value, or remove it to have its default"
    wanted = dict.fromkeys(_wanted(mistake["msg"]) for mistake in mistakes)
    shown = "" if isinstance(given, dict) else f"{repr(given)[:_SHOWN_LETTERS]}: "
    said = f"{where}: {shown}{', or '.join(wanted)}"
    if _SECTION in said and isinstance(given, str) and "uri" in _known_keys(keys):
        return f"{said}: write {keys[-1]}: {{uri: {given[:_SHOWN_LETTERS]}}}"
    return said


def _wanted(message: str) -> str:
    for pattern, words in _WORDS.items():
        message = re.sub(pattern, words, message)
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
