"""The ``vqpipe`` command. A command's module is loaded when it is called, so that help comes at once."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from vqpipe.cli.options import AsJson, OutputPath, call
from vqpipe.cli.using import COMMANDS

STAGES = ("ingest", "sample", "train", "encode", "evaluate", "export", "report")


def _examples(*commands: str) -> str:
    """Return commands as help shows them: one a line."""
    return "Examples:\n\n" + "\n".join(f"- `{command}`" for command in commands)


def _stages() -> list[str]:
    """Return what a shell completes a stage's name by."""
    return list(STAGES)


app = typer.Typer(
    name="vqpipe",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Compress millions to billions of vectors: learn a codebook, encode every shard, "
    "know how good it is.",
    epilog=_examples(
        "vqpipe init vectors.npy > config.yaml", "vqpipe plan config.yaml", "vqpipe run config.yaml"
    ),
)

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file; see `vqpipe init`.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Override a config value; can be given repeatedly."
    ),
]
STAGE_NAMES = f"{', '.join(STAGES[:-1])} or {STAGES[-1]}"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vqpipe {version('vqpipe')}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command(
    epilog=_examples(
        "vqpipe run config.yaml",
        "vqpipe run config.yaml --set codebook=PQ32 --set output=runs/pq32",
        "vqpipe run config.yaml --until train --direct",
        "vqpipe run config.yaml --force encode --json > summary.json",
    )
)
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE", autocompletion=_stages, help=f"Stop after this stage: {STAGE_NAMES}."
        ),
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE", autocompletion=_stages, help="Take this stage as never done."
        ),
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Run without Prefect.")] = False,
    as_json: AsJson = False,
    log_json: Annotated[
        bool,
        typer.Option(
            "--log-json", help="Log to standard error as JSON lines, with run, stage and shard."
        ),
    ] = False,
) -> None:
    """Run the pipeline; what is done already is not done again."""
    call(
        "run",
        config=config,
        overrides=overrides or [],
        until=until,
        force=force,
        direct=direct,
        as_json=as_json,
        log_json=log_json,
    )


@app.command(
    epilog=_examples(
        "vqpipe plan config.yaml", "vqpipe plan config.yaml --set codebook=PQ32 --json"
    )
)
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run would do and why, and what it would take. Changes nothing."""
    call("plan", config=config, overrides=overrides or [], as_json=as_json)


@app.command(
    epilog=_examples(
        "vqpipe sweep config.yaml --codebook PQ8,PQ16,OPQ16,RQ16",
        "vqpipe sweep config.yaml --codebook KM1024,KM4096 --set train.rows=1e6 --no-faiss",
    )
)
def sweep(
    config: ConfigPath,
    codebook: Annotated[
        list[str],
        typer.Option(
            "--codebook",
            metavar="NAMES",
            help="Codebooks to compare, as PQ8,PQ16,OPQ16,RQ16,KM1024; can be given repeatedly.",
        ),
    ],
    overrides: Overrides = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Work in this folder or URL, not in the config's output."
        ),
    ] = None,
    no_faiss: Annotated[
        bool, typer.Option("--no-faiss", help="Do without FAISS's own training of each codebook.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare codebooks: learn each from one sample, measure it, and say what it would take on the full source.

    Prints bits per vector against distortion and recall, with FAISS's own training on that sample beside it, and writes
    OUTPUT/sweep/sweep.html and sweep.json. Generations stay as they are; a run with one of the codebooks takes it over.
    """
    call(
        "sweep",
        config=config,
        codebooks=codebook,
        overrides=overrides or [],
        to=to,
        faiss=not no_faiss,
        as_json=as_json,
    )


@app.command(
    epilog=_examples(
        "vqpipe inspect vectors.npy",
        "vqpipe inspect runs/vectors",
        "vqpipe inspect runs/vectors/v1/codebook.zarr --json",
    )
)
def inspect(
    path: Annotated[
        str, typer.Argument(metavar="PATH-OR-URL", help="A source, codebook or output.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a source, a codebook, a code array or an output folder holds."""
    call("inspect", path=path, as_json=as_json)


@app.command(
    epilog=_examples(
        "vqpipe verify runs/vectors",
        "vqpipe verify runs/vectors --repair || vqpipe run config.yaml",
        "vqpipe verify runs/vectors --rows 0 --json",
    )
)
def verify(
    output: OutputPath,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Set pending what differs: the next run makes it again, and only it."
        ),
    ] = False,
    rows: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Rows of each shard that are encoded again from the source; 0: none.",
        ),
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Check all that an output holds. Exit status 0: all is well; 1: something differs, and it is named.

    Reads every shard's record, size and checksums, the codebook, samples, checkpoint, figures and exports of all
    generations, and encodes a sample of the rows again.
    """
    call("verify", output=output, repair=repair, rows=rows, as_json=as_json)


@app.command(epilog=_examples("vqpipe prune runs/vectors", "vqpipe prune runs/vectors --yes"))
def prune(
    output: OutputPath,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it; else only say what would go.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove generations beyond keep_generations and what killed runs left; without --yes only say what would go.

    Never the current generation, nor the one that the last run worked on. With --yes it is refused while a run works
    in the output.
    """
    call("prune", output=output, yes=yes, as_json=as_json)


@app.command(epilog=_examples("vqpipe doctor", "vqpipe doctor config.yaml --json"))
def doctor(
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="Also look whether what it names can be reached."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what a report of a fault needs, and what will be slow. Exit status 1: something cannot be reached.

    Versions, CPU, the SIMD level and BLAS core type that FAISS chose, cores, memory, thread settings; of a config its
    source, output and cluster, as every worker sees them. Changes nothing.
    """
    call("doctor", config=config, overrides=overrides or [], as_json=as_json)


@app.command(epilog=_examples("vqpipe schema --to vqpipe.schema.json"))
def schema(
    path: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="Write it to a file instead.")
    ] = None,
) -> None:
    """Print the JSON Schema of the config, by which editors complete and check its keys.

    Written beside a config, it is found by that config's first line: a YAML language server (in VS Code the extension
    YAML by Red Hat) goes by `# yaml-language-server: $schema=vqpipe.schema.json`.
    """
    call("schema", path=path)


@app.command(
    epilog=_examples(
        "vqpipe init vectors.npy > config.yaml",
        "vqpipe init 'parts/*.fvecs' > config.yaml",
        "vqpipe init s3://bucket/vectors.zarr > config.yaml",
    )
)
def init(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Path, pattern, URL or `synthetic:...` of the vectors to write it for; several are joined.",
        ),
    ] = None,
) -> None:
    """Print a commented starter config that runs as it stands.

    Of a source, its header and up to 1,000 rows, spread over it, are looked at: the comments say what was found, which
    codebook suits it and why.
    """
    call("init", source=source or [])


for command, examples in COMMANDS:
    app.command(epilog=_examples(*examples))(command)


def main() -> None:
    """Run the command line."""
    app()
