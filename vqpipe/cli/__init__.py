"""The ``vqpipe`` command. A command's module is loaded when it is called, so that help comes at once."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from vqpipe.cli.status import exit_statuses

app = typer.Typer(
    name="vqpipe",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Compress millions to billions of vectors: learn a codebook, encode every shard, "
    "know how good it is.",
    epilog="Start with: `vqpipe init > config.yaml`, `vqpipe plan config.yaml`, "
    "`vqpipe run config.yaml`.",
)

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file; see `vqpipe init`.")
]
OutputPath = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="The folder, or URL, that a config calls output.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Override a config value; can be given repeatedly."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
]
STAGE_NAMES = "ingest, sample, train, encode, evaluate, export or report"


def _call(module: str, **arguments: Any) -> None:
    """Load a command's module and run it, errors turned into exit statuses."""
    with exit_statuses():
        import_module(f"vqpipe.cli.{module}").execute(**arguments)


@app.command(epilog="Example: `vqpipe run configs/quickstart.yaml --set codebook=PQ10`")
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help=f"Stop after this stage: {STAGE_NAMES}.")
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Take this stage as never done.")
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
    _call(
        "run",
        config=config,
        overrides=overrides or [],
        until=until,
        force=force,
        direct=direct,
        as_json=as_json,
        log_json=log_json,
    )


@app.command(epilog="Example: `vqpipe plan config.yaml --json`")
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run would do and why, and what it would take. Changes nothing."""
    _call("plan", config=config, overrides=overrides or [], as_json=as_json)


@app.command(
    epilog="Example: `vqpipe sweep config.yaml --codebook PQ8,PQ16,OPQ16,RQ16`, then "
    "`vqpipe run config.yaml --set codebook=OPQ16`"
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
    _call(
        "sweep",
        config=config,
        codebooks=codebook,
        overrides=overrides or [],
        to=to,
        faiss=not no_faiss,
        as_json=as_json,
    )


@app.command(epilog="Example: `vqpipe inspect runs/quickstart`")
def inspect(
    path: Annotated[
        str, typer.Argument(metavar="PATH-OR-URL", help="A source, codebook or output.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a source, a codebook, a code array or an output folder holds."""
    _call("inspect", path=path, as_json=as_json)


@app.command(
    epilog="Example: `vqpipe verify runs/quickstart --repair || vqpipe run configs/quickstart.yaml`"
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
    _call("verify", output=output, repair=repair, rows=rows, as_json=as_json)


@app.command(epilog="Example: `vqpipe prune runs/quickstart --yes`")
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
    _call("prune", output=output, yes=yes, as_json=as_json)


@app.command(epilog="Example: `vqpipe doctor config.yaml --json`")
def doctor(
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG]", help="Also look whether what it names can be reached."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what a report of a fault needs, and what will be slow. Exit status 1: something cannot be reached.

    Versions, CPU, the SIMD level and BLAS core type that FAISS chose, cores, memory, thread settings; of a config its
    source, output and cluster, as every worker sees them. Changes nothing.
    """
    _call("doctor", config=config, overrides=overrides or [], as_json=as_json)


@app.command(epilog="Example: `vqpipe schema > vqpipe.schema.json`")
def schema() -> None:
    """Print the JSON Schema of the config."""
    _call("schema")


@app.command(epilog="Example: `vqpipe init vectors.npy > config.yaml`")
def init(
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="A source to write the config for.")
    ] = None,
) -> None:
    """Print a commented starter config."""
    _call("init", source=source)


def main() -> None:
    """Run the command line."""
    app()
