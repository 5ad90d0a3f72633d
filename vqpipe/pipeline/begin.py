"""Beginning a run: source, codebook, output and generation, all checked before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from vqpipe.codebook import CodebookSpec
from vqpipe.config import STAGES, Config
from vqpipe.errors import CodebookError, ConfigError, OutputError
from vqpipe.pipeline.generation import (
    STAGES_FILE,
    Generation,
    fingerprint,
    list_generations,
    next_generation,
    say_changes,
    state_of,
)
from vqpipe.pipeline.given import read_given, read_initial
from vqpipe.pipeline.limits import check_limits
from vqpipe.pipeline.queries import check_files
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sizes import sample_settings
from vqpipe.pipeline.train import find_same_codebook
from vqpipe.progress import Progress
from vqpipe.quantizer import Quantizer, choose_route
from vqpipe.runner import Runner
from vqpipe.sources import VectorArray, open_source
from vqpipe.sources.conversion import by_way_of_vectors
from vqpipe.sources.source import Description, parse_descriptions
from vqpipe.storage.codebook_file import read_codebook, write_codebook
from vqpipe.storage.folder import Folder
from vqpipe.storage.objects.view import current_view, viewing
from vqpipe.storage.vectors import VECTORS_NAME

# Stages that a generation is made of: forcing one of them starts the next generation.
GENERATION_STAGES = ("ingest", "sample", "train", "encode")


@viewing()
def begin_run(config: Config, runner: Runner, progress: Progress, force: str | None = None) -> Run:
    """Turn a config into a run. Nothing is written yet.

    Parameters
    ----------
    config : Config
    runner : Runner
    progress : Progress
    force : str, optional
        A stage to take as never done.

    Raises
    ------
    InputError
        For whatever of the user's input is wrong.
    """
    output = Folder(config.output)
    _check_reach(config)
    output.check_writable()
    generations = list_generations(output)
    begun_from = state_of(generations)
    known: Sequence[str] = ()
    described: dict[str, Description] = {}
    if generations and force != "ingest":
        known = generations[0].known_files
        described = parse_descriptions(generations[0].facts.get("described"))
    named = config.source
    source = open_source(
        named.uri, named.format, named.key, named.rows, known, described, named.ids
    )
    source = by_way_of_vectors(source, output.file(VECTORS_NAME))
    given = None if config.codebook.source is None else read_given(config.codebook.source)
    spec = _check_codebook(config, source, given)
    if given is None and config.train.init is not None:
        read_initial(config.train.init, spec, source.dim, config.source.metric)
    if generations and force != "ingest":
        _check_same_source(generations[0], source, output)
    generation, news = _choose(config, source, spec, given, generations, force, output)
    redo = frozenset(STAGES[STAGES.index(force) :]) if force else frozenset()
    run = Run(config, source, output, generation, spec, given, runner, progress, redo, news)
    run.view = current_view() or run.view
    run.begun_from = begun_from
    check_files(run)
    check_limits(run)
    return run


def _check_reach(config: Config) -> None:
    """Refuse what is in the memory of this process where other processes work."""
    uris = config.source.uri if isinstance(config.source.uri, list) else [config.source.uri]
    named = [uri for uri in (config.output, *uris) if uri.startswith("memory://")]
    if named and config.cluster != "serial":
        raise ConfigError(
            f"{named[0]}: lies in the memory of this process, which the workers of a cluster cannot see; write "
            "cluster: serial, or name a place that all of them reach"
        )


def _check_codebook(config: Config, source: VectorArray, given: Quantizer | None) -> CodebookSpec:
    if given is not None:
        codebook = given.codebook
        if (codebook.dim, codebook.metric) != (source.dim, config.source.metric):
            raise CodebookError(
                f"codebook {config.codebook.source}: is of dim = {codebook.dim} and metric {codebook.metric}, the "
                f"source of dim = {source.dim} and metric {config.source.metric}; give the codebook that was "
                "learnt for such vectors, or set source.metric"
            )
        return codebook.spec
    spec = config.codebook.spec
    if spec is None:
        raise CodebookError("codebook: says neither what to learn nor where to take it from")
    spec.check_dim(source.dim)
    if spec.kind == "KM" and spec.k > source.rows:
        raise CodebookError(
            f"codebook {spec}: {spec.k:,} codewords are wanted and the source has {source.rows:,} rows; a codeword "
            f"needs a distinct row of its own: take at most KM{source.rows}"
        )
    return spec


def _identity(source: VectorArray, config: Config) -> dict[str, Any]:
    return {
        "uri": list(source.uri) if isinstance(source.uri, tuple) else source.uri,
        "key": source.key,
        "format": source.format,
        "dim": source.dim,
        "dtype": source.dtype,
        "metric": config.source.metric,
        "rows": source.rows,
        "files": [list(file) for file in source.files()],
        "converted": source.converted is not None,
    }


def _check_same_source(newest: Generation, source: VectorArray, output: Folder) -> None:
    """Refuse a source that is not the one the output was made from; growth is welcome.

    Raises
    ------
    OutputError
    """
    was = {**newest.facts["source"], **newest.facts.get("latest", {})}
    now = {
        "uri": list(source.uri) if isinstance(source.uri, tuple) else source.uri,
        "key": source.key,
        "format": source.format,
        "dim": source.dim,
        "dtype": source.dtype,
    }
    differs = [f"{key} was {was[key]} and is {now[key]}" for key in now if was[key] != now[key]]
    if not differs:
        differs = list(_moved_rows(was["files"], source.files()))
    if not differs and source.rows < was["rows"]:
        differs = [f"it had {was['rows']:,} rows and has {source.rows:,}"]
    if differs:
        raise OutputError(
            f"output {output.path}: was made from another source: {'; '.join(differs)}. Codes of two sources must "
            "not mix: name another output, or start over in a new generation with --force ingest"
        )


def _moved_rows(was: Sequence[Sequence[Any]], now: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Say which files went, or hold other rows than before. The last one may have grown."""
    for index, (path, rows) in enumerate(was):
        if index >= len(now) or now[index][0] != path:
            yield f"the rows of {path} are no longer where they were"
            return
        if now[index][1] != rows and not (index == len(was) - 1 and now[index][1] > rows):
            yield f"{path} had {rows:,} rows and has {now[index][1]:,}"
            return


def _settings(
    config: Config, source: VectorArray, rows: int, spec: CodebookSpec, given: Quantizer | None
) -> dict[str, dict[str, Any]]:
    """Return what each stage of a generation depends on, for a source that had ``rows`` rows."""
    encode = config.settings("encode")
    if config.source.ids is not None:
        # They lie beside the codes, shard by shard.
        encode["ids"] = config.source.ids
    if given is not None:
        codebook = {"codebook": f"{spec} {given.codebook.digest}"}
        return {"sample": {}, "train": codebook, "encode": encode}
    train = {
        key: value for key, value in config.settings("train").items() if not key.endswith("rows")
    }
    train["batch_rows"] = config.train.batch_rows
    if config.train.init is not None:
        train["init"] = read_given(config.train.init).codebook.digest
    return {
        "sample": sample_settings(config, source, rows, spec.k),
        "train": {"codebook": str(spec), **train},
        "encode": encode,
    }


def _fingerprints(settings: dict[str, dict[str, Any]]) -> dict[str, str]:
    sample = fingerprint(settings["sample"])
    return {"sample": sample, "train": fingerprint(settings["train"], sample)}


def _choose(
    config: Config,
    source: VectorArray,
    spec: CodebookSpec,
    given: Quantizer | None,
    generations: list[Generation],
    force: str | None,
    output: Folder,
) -> tuple[Generation, str]:
    """Return the generation with these settings, the newest of them, or the next one, and why.

    What has grown since a generation began is still its source: settings are compared for the rows that
    there were then.
    """
    news = f"--force {force}" if force else ""
    if force not in GENERATION_STAGES:
        for generation in generations:
            rows = min(generation.facts["source"]["rows"], source.rows)
            try:
                settings = _settings(config, source, rows, spec, given)
            except ConfigError:
                # More rows are asked for than there were then: it cannot be of these settings.
                news = news or "the sample's size changed"
                continue
            if generation.facts["settings"] == settings:
                return generation, ""
            news = news or _what_changed(generation.facts["settings"], settings)
    settings = _settings(config, source, source.rows, spec, given)
    facts = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": _identity(source, config),
        "settings": settings,
        "fingerprints": _fingerprints(settings),
        "stages": {},
    }
    return next_generation(output, facts), news or "the output is new"


def _what_changed(was: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> str:
    return "; ".join(say for stage in now if (say := say_changes(stage, was[stage], now[stage])))


def establish(run: Run) -> None:
    """Write the folder and, for a new generation, what it is; take over a codebook learnt before.

    Raises
    ------
    OutputError
        If nothing may be written there.
    """
    run.output.create()
    if run.generation.folder.has(STAGES_FILE):
        _fix_order(run)
        return
    run.generation.folder.create()
    earlier = find_same_codebook(run)
    route = choose_route(run.spec, run.source.dim)
    if earlier is not None:
        file = read_codebook(earlier.codebook_path)
        route = earlier.route or route
        quantizer = replace(file.quantizer, route=route)
        write_codebook(run.generation.codebook_path, quantizer, file.history)
        run.generation.facts["stages"]["train"] = {
            **earlier.stage("train"),
            "origin": f"taken over from {earlier.name}",
        }
    run.generation.facts["route"] = asdict(route)
    run.generation.save()


def _fix_order(run: Run) -> None:
    """Write down the order of new files: a run after one that was killed must find them where they are.

    In the newest generation as well, which is where the next run looks.
    """
    files = [path for path, _ in run.source.files()]
    newest = list_generations(run.output)[0]
    both = [run.generation] if newest.name == run.generation.name else [run.generation, newest]
    for generation in both:
        if generation.known_files != files:
            generation.guard = run.may_write
            generation.facts["known_files"] = files
            generation.save()
