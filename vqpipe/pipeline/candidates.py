"""The codebooks of a sweep: all of them checked before any work, each turned into a run of its own on one sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter

from vqpipe.codebook import CodebookSpec
from vqpipe.config import CodebookConfig, Config
from vqpipe.config_file import parse_codebooks
from vqpipe.errors import CodebookError, ConfigError, InputError
from vqpipe.pipeline.begin import (
    check_codebook,
    check_reach,
    check_same_source,
    first_facts,
    open_known_source,
)
from vqpipe.pipeline.generation import Generation, list_generations, state_of
from vqpipe.pipeline.limits import check_limits
from vqpipe.pipeline.queries import check_files
from vqpipe.pipeline.run import Run
from vqpipe.pipeline.sizes import SampleSizes, plan_sample
from vqpipe.pipeline.trial import SWEEP_FOLDER, trial_name
from vqpipe.progress import Progress
from vqpipe.quantizer import choose_route
from vqpipe.runner import Runner
from vqpipe.sources import VectorArray
from vqpipe.storage.folder import Folder
from vqpipe.storage.objects.view import current_view, viewing

# What a sweep goes through for each codebook; it writes no codes of the source and exports nothing.
STAGES = ("ingest", "sample", "train", "evaluate")


@dataclass(frozen=True)
class Candidates:
    """What a sweep compares.

    Attributes
    ----------
    folder : Folder
        Of the trials, the page and the figures.
    runs : list of Run
        One a codebook, by rising bits, all on one sample.
    begun_from : str
        The state of the output's generations that it was begun from.
    """

    folder: Folder
    runs: list[Run]
    begun_from: str


@viewing()
def begin_sweep(
    config: Config, names: Sequence[str], runner: Runner, progress: Progress
) -> Candidates:
    """Turn a config and the names of codebooks into runs. Nothing is written yet.

    Parameters
    ----------
    config : Config
        Its own codebook is left aside.
    names : sequence of str
        Short names of codebooks, also several in one, commas between them.
    runner : Runner
    progress : Progress

    Raises
    ------
    InputError
        For whatever of the user's input is wrong: all that is wrong with the codebooks in one message.
    """
    output = Folder(config.output)
    folder = output / SWEEP_FOLDER
    check_reach(config)
    output.check_writable()
    generations = list_generations(output)
    newest = generations[0] if generations else None
    source = open_known_source(config, newest)
    codebooks, sizes = _check_names(config, names, source)
    if newest is not None:
        check_same_source(newest, source, output)
    view = current_view()
    runs = []
    for codebook, spec in sorted(codebooks, key=lambda pair: (row_bits(pair[1]), str(pair[1]))):
        own = _config_of(config, codebook, sizes)
        facts = first_facts(own, source, spec)
        facts["route"] = asdict(choose_route(spec, source.dim))
        name = trial_name(spec, facts["fingerprints"]["train"])
        trial = Generation(folder / name, f"{SWEEP_FOLDER}/{name}", facts)
        run = Run(own, source, output, trial, spec, None, runner, progress)
        run.view = view or run.view
        check_limits(run, STAGES)
        runs.append(run)
    check_files(runs[0])
    return Candidates(folder, runs, state_of(generations))


def row_bits(spec: CodebookSpec) -> int:
    """Return the bits that the codes of a row take."""
    return spec.columns * spec.bits


def _config_of(config: Config, codebook: CodebookConfig, sizes: SampleSizes) -> Config:
    """Return the config of one codebook: its sample is that of all, and its queries are searched in that."""
    sampled = {"rows": sizes.train, "heldout_rows": sizes.heldout}
    return config.model_copy(
        update={
            "codebook": codebook,
            "train": config.train.model_copy(update=sampled),
            # A truth is of all rows of the source.
            "evaluate": config.evaluate.model_copy(update={"truth": None}),
            "export": ["faiss"],
        }
    )


def _check_names(
    config: Config, names: Sequence[str], source: VectorArray
) -> tuple[list[tuple[CodebookConfig, CodebookSpec]], SampleSizes]:
    """Return the codebooks that are named, and the sample that is large enough for each of them.

    Raises
    ------
    ConfigError
        That names all that is wrong, a line each.
    """
    codebooks, mistakes = parse_codebooks(names)
    pairs = [(codebook, codebook.spec) for codebook in codebooks if codebook.spec is not None]
    counts = Counter(spec for _, spec in pairs)
    mistakes += [
        f"codebook {spec}: is named {count} times (PQ16 is PQ16x8); name it once"
        for spec, count in counts.items()
        if count > 1
    ]
    sizes = plan_sample(config, source.rows, max((spec.k for spec in counts), default=1))
    for codebook, spec in dict(zip(map(itemgetter(1), pairs), pairs, strict=True)).values():
        try:
            check_codebook(config.model_copy(update={"codebook": codebook}), source)
            _check_rows(spec, sizes)
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(f"--codebook: {mistake}" for mistake in mistakes))
    return pairs, sizes


def _check_rows(spec: CodebookSpec, sizes: SampleSizes) -> None:
    """Refuse more codewords than there are rows to learn them from.

    Raises
    ------
    CodebookError
    """
    if spec.k > sizes.train:
        raise CodebookError(
            f"codebook {spec}: {spec.k:,} codewords are to be learnt from {sizes.train:,} training rows; raise "
            "train.rows, or name a codebook of fewer"
        )
