"""Tables as plain text, for a terminal and for what comes after a pipe."""

from __future__ import annotations

from collections.abc import Sequence


def lines_of(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table, each column as wide as its widest value.

    Examples
    --------
    >>> lines_of(["row", "id"], [[7, "a"], [12, "bc"]])
    ['row  id', '  7   a', ' 12  bc']
    """
    table = [list(heads), *([str(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    return ["  ".join(map(str.rjust, line, widths)) for line in table]
