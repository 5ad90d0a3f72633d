"""The lines of Python that load what was made. Tests run them as they stand on the page."""

from __future__ import annotations

from typing import NamedTuple

from vqpipe.report.facts import ReportFacts
from vqpipe.urls import is_url, join

# So many rows are decoded in the lines: all of them may not fit.
_ROWS_SHOWN = 1000


class Snippet(NamedTuple):
    """Some lines, and what they are for."""

    title: str
    lines: str


def snippets(facts: ReportFacts) -> list[Snippet]:
    """Return how to load codes and codebook, in five lines, and how to search what FAISS opens."""
    columns, folder = facts.code_counts.shape[0], join(facts.output, facts.generation)
    shape = f"{facts.code_dtype} ({facts.rows:_}, {columns})"
    some = min(_ROWS_SHOWN, facts.rows)
    if is_url(facts.output):
        # Zarr would want a library of its own for the store. These are the current generation's.
        codes = ["import vqpipe", f'codes = vqpipe.open_codes({facts.output!r})["codes"]']
    else:
        codes = [
            "import vqpipe, zarr",
            f'codes = zarr.open_array({join(folder, "codes.zarr/codes")!r}, mode="r")',
        ]
    lines = [
        *codes[:1],
        f"{codes[1]}  # {shape}",
        f"quantizer = vqpipe.load_codebook({join(folder, 'codebook.zarr')!r})",
        f"vectors = quantizer.decode(codes[:{some}])  # float32 ({some}, {facts.dim}): what the codes stand for",
        "again = quantizer.encode(vectors)  # codes of any rows, new ones too",
    ]
    found = [Snippet("Codes and codebook", "\n".join(lines))]
    indexes = [path for path, _, _ in facts.files if path.endswith(".faiss")]
    if indexes and not is_url(facts.output):
        read = f"index = faiss.read_index({join(facts.output, indexes[0])!r})"
        found.append(Snippet("To search with FAISS", f"import faiss\n{read}"))
    return found
