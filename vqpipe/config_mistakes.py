"""What is wrong in a config, in words that name the key that was written."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from vqpipe.config import Config

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
    shown = "" if isinstance(given, dict) else f"{repr(given)[:_SHOWN_LETTERS]}: "
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
