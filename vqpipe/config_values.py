"""Values of the config, as people write them: 1e6 is a number of rows, 2GiB one of bytes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, ByteSize, Field, PositiveInt, WithJsonSchema


def _whole_number(value: object) -> object:
    """Take 1e6 for the whole number it is: YAML reads it as text. Take true for none."""
    if isinstance(value, bool):
        raise ValueError("is no number: write digits")  # noqa: TRY004 - pydantic reports ValueErrors
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", value):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Rows = Annotated[PositiveInt, BeforeValidator(_whole_number)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_whole_number)]
Memory = Annotated[
    ByteSize, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]}), Field(gt=0)
]
Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_whole_number)]
Uri = Annotated[str, Field(min_length=1)]
