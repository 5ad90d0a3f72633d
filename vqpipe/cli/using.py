"""The commands that use finished codes: search, decode, members, export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from vqpipe.cli.options import AsJson, OutputPath, Overwrite, call


def search(
    output: OutputPath,
    queries: Annotated[
        str, typer.Option(metavar="URI", help="Vectors to search for: a source of any format.")
    ],
    format: Annotated[
        str, typer.Option(metavar="F", help="Format of the queries; auto goes by the name.")
    ] = "auto",
    key: Annotated[
        str | None, typer.Option(metavar="K", help="The queries' array inside a group or file.")
    ] = None,
    queries_rows: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N queries.")
    ] = None,
    k: Annotated[
        int, typer.Option("-k", metavar="K", min=1, max=10_000, help="Rows to find of each.")
    ] = 10,
    to: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write to FILE.npy, .parquet or .csv.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find for each query the rows that are nearest by code.

    Distances are squared, from the query itself to what a code stands for; equal ones by smaller row number.
    Masked rows are never found. Without --to or --json the answers to the first queries are shown.
    FILE.npy holds row numbers of shape (queries, k), and FILE.distances.npy their distances.
    """
    call(
        "search",
        output=output,
        queries=queries,
        format=format,
        key=key,
        queries_rows=queries_rows,
        k=k,
        to=to,
        overwrite=overwrite,
        as_json=as_json,
    )


def decode(
    output: OutputPath,
    to: Annotated[
        str, typer.Option(metavar="FILE", help="FILE.npy, or FILE.zarr: an array of Zarr v3.")
    ],
    rows: Annotated[
        str | None, typer.Option(metavar="A:B", help="Rows A to B - 1 alone, such as 0:1000.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the vectors that codes stand for, as float32 in the data's own place.

    Masked rows are NaN: nothing is known of them. Under cosine the vectors are normalised ones.
    """
    call("decode", output=output, rows=rows, to=to, overwrite=overwrite, as_json=as_json)


def members(
    output: OutputPath,
    codeword: Annotated[
        int, typer.Option(metavar="C", min=0, help="A label: 0 to k - 1 of the KM codebook.")
    ],
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000_000, help="Rows that are listed at most.")
    ] = 20,
    to: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write to FILE.npy, .parquet or .csv.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """List the rows of a cluster, nearest to its codeword first, and count them.

    Distances are squared: what encode.store_error kept with the codes, else taken from the source's rows.
    """
    call(
        "members",
        output=output,
        codeword=codeword,
        limit=limit,
        to=to,
        overwrite=overwrite,
        as_json=as_json,
    )


def export(
    output: OutputPath,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="faiss, npy or parquet.")],
    out: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Write there; else beside the codes, as a run would."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export the current generation's codes after the fact.

    Beside the codes it is refused while a run works in the output; `vqpipe verify` checks it, and a run that
    changes the codes removes it.
    """
    call("export", output=output, to=to, out=out, overwrite=overwrite, as_json=as_json)


# Each with the examples in its help.
COMMANDS: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...] = (
    (
        search,
        (
            "vqpipe search runs/quickstart --queries configs/data/words-20k-f16.npy -k 5",
            "vqpipe search runs/vectors --queries queries.fvecs -k 100 --to found.parquet",
        ),
    ),
    (decode, ("vqpipe decode runs/quickstart --rows 0:1000 --to restored.npy",)),
    (members, ("vqpipe members runs/glove-km1024 --codeword 17 --limit 100 --json",)),
    (export, ("vqpipe export runs/quickstart --to parquet --out codes.parquet",)),
)
