"""The house: one door per foreign library, imports that point down, no circles, rooms of a size."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Layers from the ground up; a module imports from its own layer and those below.
LAYERS = (
    (
        "vqpipe.codebook",
        "vqpipe.config",
        "vqpipe.config_file",
        "vqpipe.config_mistakes",
        "vqpipe.config_values",
        "vqpipe.dtypes",
        "vqpipe.errors",
        "vqpipe.logs",
        "vqpipe.memory",
        "vqpipe.permutation",
        "vqpipe.progress",
        "vqpipe.retries",
        "vqpipe.rows",
        "vqpipe.runner",
        "vqpipe.shards",
        "vqpipe.urls",
        "vqpipe.versions",
    ),
    ("vqpipe.kmeans", "vqpipe.evaluation", "vqpipe.kernels"),
    ("vqpipe.report",),
    ("vqpipe.quantizer",),
    ("vqpipe.storage", "vqpipe.sources"),
    ("vqpipe.tasks",),
    ("vqpipe.engines",),
    ("vqpipe.pipeline",),
    ("vqpipe.api", "vqpipe"),
    ("flows",),
    ("vqpipe.cli",),
)

# Where a layer alone would allow too much: all of our own modules that these may import.
ONLY = {
    "vqpipe.engines": (
        "vqpipe.engines",
        "vqpipe.runner",
        "vqpipe.config",
        "vqpipe.errors",
        "vqpipe.retries",
    ),
    "vqpipe.kmeans": (
        "vqpipe.kmeans",
        "vqpipe.codebook",
        "vqpipe.dtypes",
        "vqpipe.errors",
        "vqpipe.memory",
        "vqpipe.rows",
        "vqpipe.shards",
        "vqpipe.permutation",
    ),
    "vqpipe.evaluation": (
        "vqpipe.evaluation",
        "vqpipe.kmeans",
        "vqpipe.codebook",
        "vqpipe.dtypes",
        "vqpipe.errors",
        "vqpipe.memory",
        "vqpipe.rows",
        "vqpipe.shards",
        "vqpipe.permutation",
    ),
}
NEVER = {"vqpipe.pipeline": ("vqpipe.engines", "flows"), "vqpipe.tasks": ("vqpipe.engines",)}

# The modules, or packages, through which a foreign library comes in.
DOORS: Mapping[str, tuple[str, ...]] = {
    "bokeh": ("vqpipe.report",),
    # Settings, of the workers that are started.
    "dask": ("vqpipe.engines.cluster",),
    "distributed": (
        "vqpipe.engines.dask",
        "vqpipe.engines.sender",
        "vqpipe.engines.survey",
        "vqpipe.engines.cluster",
        "vqpipe.engines.memory_events",
    ),
    "faiss": ("vqpipe.quantizer",),
    "google_crc32c": ("vqpipe.storage.records", "vqpipe.sources.zarr_plain"),
    "h5py": ("vqpipe.sources.hdf5_file",),
    "jinja2": ("vqpipe.report",),
    "llvmlite": ("vqpipe.kernels",),
    # HDF5's checksum; all other codecs run inside zarr.
    "numcodecs": ("vqpipe.sources.hdf5",),
    "numpy": ("vqpipe",),
    "obstore": ("vqpipe.storage.objects",),
    "prefect": ("flows",),
    "pyarrow": ("vqpipe.sources.parquet_file", "vqpipe.storage.parquet_file"),
    "pydantic": (
        "vqpipe.config",
        "vqpipe.config_file",
        "vqpipe.config_mistakes",
        "vqpipe.config_values",
    ),
    "pydantic_core": ("vqpipe.config_mistakes",),
    "rich": ("vqpipe.cli",),
    "tenacity": ("vqpipe.retries",),
    "threadpoolctl": ("vqpipe.engines.single_thread", "vqpipe.engines.libraries"),
    "typer": ("vqpipe.cli",),
    # Config in; starter config and the report's copy of the config out.
    "yaml": ("vqpipe.config_file", "vqpipe.cli.init", "vqpipe.pipeline.report"),
    # The api names zarr.Group as what open_codes returns.
    "zarr": ("vqpipe.storage", "vqpipe.sources.zarr_array", "vqpipe.api"),
}

# NumPy and our own modules are all that the arithmetic knows.
ARITHMETIC = ("vqpipe.kmeans", "vqpipe.evaluation")
ARITHMETIC_LIBRARIES = {"numpy"}

PLANNERS = ("vqpipe.shards", "vqpipe.memory")
ARRAY_LIBRARIES = {"numpy", "zarr", "faiss"}

MOST_FILE_LINES = 320
MOST_FUNCTION_LINES = 55


@dataclass(frozen=True)
class Module:
    name: str
    text: str
    package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


@dataclass(frozen=True)
class Import:
    """One imported module, and how it is imported."""

    target: str
    line: int
    top_level: bool
    typing_only: bool


Modules = dict[str, Module]


def read_modules() -> Modules:
    found: Modules = {}
    for path in sorted([*(ROOT / "vqpipe").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        found[name] = Module(name, path.read_text(encoding="utf-8"), package)
    return found


MODULES = read_modules()


def made(**texts: str) -> Modules:
    """Small made-up modules: dots are written as two underscores."""
    names = {name.replace("__", "."): text for name, text in texts.items()}
    return {name: Module(name, text) for name, text in names.items()}


def imports(module: Module, modules: Modules) -> Iterator[Import]:
    """Yield what a module imports; ``from package import module`` is an import of that module."""

    def visit(node: ast.AST, top_level: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            targets: list[str] = []
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parts = module.name.split(".")
                    keep = len(parts) - child.level + module.package
                    base = ".".join([*parts[:keep], *filter(None, [base])])
                targets = [
                    full if (full := f"{base}.{alias.name}") in modules else base
                    for alias in child.names
                ]
            for target in targets:
                yield Import(target, child.lineno, top_level, typing_only)
            inner = top_level and not isinstance(
                child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
            )
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from visit(child, inner, typing_only or checking)

    yield from visit(module.tree, True, False)


def inside(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def ours(name: str) -> bool:
    return inside(name, "vqpipe") or inside(name, "flows")


def layer(name: str) -> int | None:
    """Return the number of a module's layer; the bare package stands for itself alone."""
    for rank, places in enumerate(LAYERS):
        if any(inside(name, place) and (place != "vqpipe" or name == place) for place in places):
            return rank
    return None


def wrong_doors(modules: Modules) -> list[str]:
    found = []
    for module in modules.values():
        for one in imports(module, modules):
            library = one.target.split(".")[0]
            if ours(one.target) or library in sys.stdlib_module_names:
                continue
            if library not in DOORS:
                found.append(f"{module.name}:{one.line} imports {library}, which has no door")
            elif not any(inside(module.name, door) for door in DOORS[library]):
                found.append(f"{module.name}:{one.line} imports {library} past its door")
    return found


def foreign_to_arithmetic(modules: Modules) -> list[str]:
    return [
        f"{module.name}:{one.line} imports {one.target}"
        for module in modules.values()
        if any(inside(module.name, place) for place in ARITHMETIC)
        for one in imports(module, modules)
        if not ours(one.target)
        and one.target.split(".")[0] not in {*sys.stdlib_module_names, *ARITHMETIC_LIBRARIES}
    ]


def upward_imports(modules: Modules) -> list[str]:
    found = []
    for module in modules.values():
        own = layer(module.name)
        if own is None:
            found.append(f"{module.name} is in no layer")
            continue
        only = next((ONLY[place] for place in ONLY if inside(module.name, place)), None)
        never = next((NEVER[place] for place in NEVER if inside(module.name, place)), ())
        for one in imports(module, modules):
            if not ours(one.target):
                continue
            where = f"{module.name}:{one.line} imports {one.target}"
            target = layer(one.target)
            if target is None:
                found.append(f"{where}, which is in no layer")
            elif target > own:
                found.append(f"{where}, a layer above it")
            elif only is not None and not any(inside(one.target, place) for place in only):
                found.append(f"{where}, and may know only {', '.join(only)}")
            elif any(inside(one.target, place) for place in never):
                found.append(f"{where}, which it is handed")
    return found


def circles(modules: Modules) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan), or of a self-import."""
    graph = {
        name: {
            one.target
            for one in imports(module, modules)
            if one.top_level and not one.typing_only and one.target in modules
        }
        for name, module in modules.items()
    }
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def connect(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                connect(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1 or name in graph[name]:
                found.append(sorted(component))

    for name in sorted(graph):
        if name not in index:
            connect(name)
    return found


def hidden_imports(modules: Modules) -> list[str]:
    """Our own modules imported inside functions, or by a name in a string outside the command line."""
    found = [
        f"{module.name}:{one.line} imports {one.target} inside a function"
        for module in modules.values()
        for one in imports(module, modules)
        if ours(one.target) and not one.top_level
    ]
    for module in modules.values():
        # The command line and the bare package load late on purpose: help must come at once.
        if inside(module.name, "vqpipe.cli") or module.name == "vqpipe":
            continue
        for call in calls(module):
            named = ast.unparse(call.args[0]).lstrip("f'\"") if call.args else ""
            if ast.unparse(call.func).endswith("import_module") and named.startswith(
                ("vqpipe", "flows")
            ):
                found.append(f"{module.name}:{call.lineno} loads {named} by its name")
    return found


def calls(module: Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))


def loose_talk(modules: Modules) -> list[str]:
    """Assert statements anywhere, print calls outside the command line."""
    found = []
    for module in modules.values():
        found += [
            f"{module.name}:{node.lineno} asserts"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Assert)
        ]
        if not inside(module.name, "vqpipe.cli"):
            found += [
                f"{module.name}:{call.lineno} prints"
                for call in calls(module)
                if isinstance(call.func, ast.Name) and call.func.id in ("print", "pprint")
            ]
    return found


def too_long(modules: Modules) -> list[str]:
    found = []
    for module in modules.values():
        lines = len(module.text.splitlines())
        if lines > MOST_FILE_LINES:
            found.append(f"{module.name} has {lines} lines")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = body_lines(node)
                if size > MOST_FUNCTION_LINES:
                    found.append(f"{module.name}:{node.lineno} {node.name} has {size} lines")
    return found


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, from its first statement to its last, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def planning_with_arrays(modules: Modules) -> list[str]:
    return [
        f"{name}:{one.line} imports {one.target}"
        for name in PLANNERS
        if name in modules
        for one in imports(modules[name], modules)
        if one.target.split(".")[0] in ARRAY_LIBRARIES
    ]


CHECKS = (
    wrong_doors,
    foreign_to_arithmetic,
    upward_imports,
    circles,
    hidden_imports,
    loose_talk,
    too_long,
    planning_with_arrays,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_is_kept(check: object) -> None:
    assert callable(check)
    found = check(MODULES)
    assert not found, "\n".join(map(str, found))


def test_every_door_and_every_layer_is_in_use() -> None:
    """A table entry that nothing uses would hide the next mistake."""
    used: dict[str, set[str]] = {library: set() for library in DOORS}
    for module in MODULES.values():
        for one in imports(module, MODULES):
            library = one.target.split(".")[0]
            if library in DOORS:
                used[library] |= {door for door in DOORS[library] if inside(module.name, door)}
    unused = {
        library: set(DOORS[library]) - doors
        for library, doors in used.items()
        if set(DOORS[library]) - doors
    }
    assert not unused
    places = [place for places in LAYERS for place in places]
    assert [place for place in places if place not in MODULES] == []


BAD = {
    "prefect in the pipeline": (
        wrong_doors,
        {"vqpipe__pipeline__run": "import prefect"},
        "past its door",
    ),
    "dask beside its module": (
        wrong_doors,
        {"vqpipe__engines__serial": "from distributed import Client"},
        "past its door",
    ),
    "faiss under TYPE_CHECKING": (
        wrong_doors,
        {"vqpipe__tasks__train": "if TYPE_CHECKING:\n    import faiss"},
        "past its door",
    ),
    "zarr in a function": (
        wrong_doors,
        {"vqpipe__sources__npy": "def f():\n    from zarr.storage import LocalStore"},
        "past its door",
    ),
    "a new library": (wrong_doors, {"vqpipe__report__page": "import matplotlib"}, "has no door"),
    "faiss in k-means": (
        foreign_to_arithmetic,
        {"vqpipe__kmeans__step": "import faiss"},
        "imports faiss",
    ),
    "storage imports tasks": (
        upward_imports,
        {"vqpipe__storage__codes": "from vqpipe.tasks.encode import EncodeJob"},
        "a layer above it",
    ),
    "the ground floor imports sources by a relative import": (
        upward_imports,
        {"vqpipe__rows": "from .sources import part", "vqpipe__sources__part": ""},
        "a layer above it",
    ),
    "the pipeline imports an engine": (
        upward_imports,
        {"vqpipe__pipeline__run": "from vqpipe.engines.serial import SerialRunner"},
        "which it is handed",
    ),
    "an engine imports tasks": (
        upward_imports,
        {"vqpipe__engines__dask": "import vqpipe.tasks.encode"},
        "may know only",
    ),
    "k-means reads the config": (
        upward_imports,
        {"vqpipe__kmeans__step": "from vqpipe.config import Config"},
        "may know only",
    ),
    "a module of no layer": (upward_imports, {"vqpipe__utils": ""}, "is in no layer"),
    "a circle of three": (
        circles,
        {
            "vqpipe__a": "from vqpipe import b",
            "vqpipe__b": "import vqpipe.c",
            "vqpipe__c": "from vqpipe.a import x",
        },
        "['vqpipe.a', 'vqpipe.b', 'vqpipe.c']",
    ),
    "an import in a method": (
        hidden_imports,
        {"vqpipe__rows": "class A:\n    def f(self):\n        import vqpipe.errors"},
        "inside a function",
    ),
    "a module loaded by its name": (
        hidden_imports,
        {"vqpipe__pipeline__run": "importlib.import_module(f'vqpipe.{name}')"},
        "by its name",
    ),
    "an assert": (loose_talk, {"vqpipe__rows": "def f(x):\n    assert x"}, "asserts"),
    "a print": (loose_talk, {"flows__run": "print(1)"}, "prints"),
    "a long file": (too_long, {"vqpipe__rows": "\n" * 321}, "has 321 lines"),
    "a long function": (
        too_long,
        {"vqpipe__rows": "def f():\n    '''Doc.\n\n    More.'''\n" + "    x = 1\n" * 56},
        "f has 56 lines",
    ),
    "shards planned with arrays": (
        planning_with_arrays,
        {"vqpipe__shards": "import numpy.typing as npt"},
        "imports numpy.typing",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_each_check_can_fail(name: str) -> None:
    check, texts, words = BAD[name]
    found = check(made(**texts))
    assert len(found) == 1
    assert words in str(found[0])


GOOD = {
    "a layer below": (upward_imports, {"vqpipe__tasks__draw": "from vqpipe.rows import x"}),
    "imports for types alone make no circle": (
        circles,
        {
            "vqpipe__a": "if TYPE_CHECKING:\n    from vqpipe.b import B",
            "vqpipe__b": "import vqpipe.a",
        },
    ),
    "the command line loads late": (
        hidden_imports,
        {"vqpipe__cli__run": "import_module('flows.run')"},
    ),
    "a docstring does not count": (
        too_long,
        {"vqpipe__rows": "def f():\n    '''" + "Doc.\n" * 60 + "'''\n" + "    x = 1\n" * 55},
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_each_check_can_pass(name: str) -> None:
    check, texts = GOOD[name]
    assert not check(made(**texts))


def test_each_check_is_shown_to_fail() -> None:
    assert {check for check, _, _ in BAD.values()} == set(CHECKS)
