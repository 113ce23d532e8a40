"""Which module may import which: no circles, the engine below the schedulers, the router light, `rl` on top."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from vidur.compare.version import SIMULATOR
from vidur.engine.compile import KERNEL_FOLDERS

ROOT = Path(__file__).resolve().parent.parent

ABOVE_TRAINING = ("rl.environments", "rl.evaluate", "rl.explain", "rl.vllm")
OFF_LINE = ("rl.simulate", "rl.reward", "rl.train", "rl.vllm.learn", "rl.vllm.calibrate", "rl.vllm.replay")

# Modules in the first column import none of those in the second, not even inside a function; a name stands for
# everything below it too. The third column lists the modules of the first that may.
FORBIDDEN: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("vidur", ("rl",), ("vidur.learned",)),
    ("vidur.config", ("vidur.engine", "vidur.scheduler", "vidur.simulator", "vidur.metrics", "vidur.compare"), ()),
    ("vidur.observation", ("vidur",), ()),
    ("vidur.engine", ("vidur.scheduler", "vidur.config", "vidur.plans", "vidur.simulator", "vidur.metrics"), ()),
    ("vidur.engine", ("vidur.compare", "vidur.main"), ()),
    ("vidur.scheduler", ("vidur.simulator", "vidur.metrics", "vidur.compare", "vidur.main"), ()),
    ("vidur.metrics", ("vidur.simulator", "vidur.compare", "vidur.main"), ()),
    ("rl.router", ("rl.simulate", "rl.reward", "rl.train", *ABOVE_TRAINING), ()),
    ("rl.simulate", ("rl.reward", "rl.train", *ABOVE_TRAINING), ()),
    ("rl.reward", ("rl.train", *ABOVE_TRAINING), ()),
    ("rl.train", ABOVE_TRAINING, ()),
    ("rl.environments", ("rl.train", "rl.evaluate", "rl.explain", "rl.vllm"), ()),
    ("rl.vllm.http", ("rl.router", "rl.vllm.decide", "rl.vllm.process"), ()),
    ("rl.vllm.decide", ("rl.vllm.process", *OFF_LINE), ()),
    ("rl.vllm.process", OFF_LINE, ()),
    ("rl.vllm", ("rl.vllm.plugin",), ("rl.vllm.plugin",)),
]  # fmt: skip

# What is loaded with modules in the first column, directly or through others, is none of the packages in the second.
# The third column lists modules of the first that may.
HEAVY = ("torch", "numba", "llvmlite", "pandas", "pyarrow", "plotly", "rich")
LIGHT: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("rl.vllm.http", (*HEAVY, "numpy"), ()),
    ("rl.vllm.decide", HEAVY, ()),
    ("rl.vllm.process", HEAVY, ()),
    ("rl.vllm.router", HEAVY, ()),
    ("rl.vllm.plugin", HEAVY, ()),
    ("rl.vllm", ("torch", "numba", "llvmlite"), ("rl.vllm.learn.experience", "rl.vllm.learn.improvement")),
    ("rl.router.scheduler", HEAVY, ()),
    ("rl.router.features", HEAVY, ()),
    ("vidur.config", (*HEAVY, "numpy"), ()),
    ("vidur.main", (*HEAVY, "numpy"), ()),
]

# What makes of a function one that Numba compiles.
COMPILED_BY = re.compile(
    r"^\s*(from \S+ )?import .*\b(numba|(cold_|allocating_)?kernel|Callback|register_jitable)\b", re.MULTILINE
)
# Their kernels are called from Python alone: Numba itself looks at the file of a kernel.
OUTERMOST = {"rl.explain.choices"}
# Modules that a simulation imports, and that none of its figures depends on.
NO_FIGURES = (
    "vidur", "vidur.atomic", "vidur.data_files", "vidur.documents", "vidur.errors", "vidur.extras", "vidur.learned",
    "vidur.progress", "vidur.registry",
)  # fmt: skip

# A class or function for users that is made of modules which import it: imported where it is called. No other import
# inside a function closes a circle.
FACADES = {
    ("vidur.config.simulation", "vidur.config.command_line"),
    ("vidur.config.simulation", "vidur.config.document"),
    ("vidur.config.simulation", "vidur.config.given"),
    ("vidur.config.simulation", "vidur.config.replace"),
}


@cache
def sources() -> dict[str, Path]:
    """The modules of both packages by name."""
    found = {}
    for package in ("vidur", "rl"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def statements(node: ast.AST, functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is loaded; with `functions` also those that run later. Not those for types."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield from statements(statement, functions)
        elif not isinstance(child, ast.expr) and (functions or not isinstance(child, _FUNCTIONS)):
            yield from statements(child, functions)


@cache
def imports(functions: bool) -> Mapping[str, frozenset[str]]:
    """What each module imports: modules of ours by name, and with each the packages that it lies in, unless the
    importer lies in them too; other packages by their first name."""
    ours = sources()
    graph = {}
    for name, path in ours.items():
        named: set[str] = set()
        for statement in statements(ast.parse(path.read_text(encoding="utf-8")), functions):
            named |= _named(statement, ours)
        packages = {package for module in named if module in ours for package in _packages_of(module)}
        graph[name] = frozenset((named | packages.difference(_packages_of(name))) - {name})
    return graph


def _named(statement: ast.Import | ast.ImportFrom, ours: Mapping[str, Path]) -> set[str]:
    """The modules that a statement names: of `from a import b` it is a.b, if that is a module, else a."""
    if isinstance(statement, ast.Import):
        full = [alias.name for alias in statement.names]
    else:
        module = statement.module
        assert module is not None and statement.level == 0, "a relative import"
        full = [inner if (inner := f"{module}.{alias.name}") in ours else module for alias in statement.names]
    return {name if name in ours else name.partition(".")[0] for name in full}


def _packages_of(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _circle(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """Modules that import one another, the first again at the end; [] if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]
    return []


def test_no_module_imports_itself_through_others() -> None:
    assert _circle(imports(functions=False)) == []


def test_no_function_closes_a_circle_but_facades() -> None:
    graph = {
        name: frozenset(other for other in others if (name, other) not in FACADES)
        for name, others in imports(functions=True).items()
    }
    assert _circle(graph) == []


def test_no_two_classes_share_a_name() -> None:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in sources().values())
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert sorted(name for name, count in Counter(names).items() if count > 1 and not name.startswith("_")) == []


def test_a_facade_is_needed() -> None:
    graph = imports(functions=True)
    assert all(other in graph[name] for name, other in FACADES)


@pytest.mark.parametrize(("package", "others", "exceptions"), FORBIDDEN, ids=[rule[0] for rule in FORBIDDEN])
def test_packages_keep_their_order(package: str, others: tuple[str, ...], exceptions: tuple[str, ...]) -> None:
    assert all(any(_below(name, known) for name in sources()) for known in (package, *others, *exceptions))
    wrong = [
        f"{name} imports {imported}"
        for name, all_imported in imports(functions=True).items()
        if _below(name, package) and not any(_below(name, exception) for exception in exceptions)
        for imported in sorted(all_imported)
        if any(_below(imported, other) for other in others)
    ]
    assert wrong == []


@pytest.mark.parametrize(("package", "heavy", "exceptions"), LIGHT, ids=[rule[0] for rule in LIGHT])
def test_light_modules_load_nothing_heavy(package: str, heavy: tuple[str, ...], exceptions: tuple[str, ...]) -> None:
    ways = {name: _way(name, heavy) for name in sources() if _below(name, package)}
    assert [" -> ".join(way) for name, way in ways.items() if way and name not in exceptions] == []
    assert all(ways[name] for name in exceptions)


def _way(name: str, targets: tuple[str, ...]) -> list[str]:
    """From a module to one of the targets, by imports that run when it is loaded; [] if there is none."""
    graph = imports(functions=False)
    before = {name: ""}
    queue = [name, *_packages_of(name)]
    before |= dict.fromkeys(_packages_of(name), name)
    for module in queue:
        if module in targets:
            way = [module]
            while before[way[-1]]:
                way.append(before[way[-1]])
            return way[::-1]
        for imported in sorted(graph.get(module, ())):
            if imported not in before:
                before[imported] = module
                queue.append(imported)
    return []


def test_the_kernel_cache_knows_every_file_that_is_compiled() -> None:
    """A file in no folder that the cache's name is made of could be edited, and what was compiled before would run."""
    compiled = {name for name, path in sources().items() if COMPILED_BY.search(path.read_text(encoding="utf-8"))}
    helpers = set(imports(functions=False)["rl.router.compiled"]) & set(sources())
    folders = {ROOT / folder for folder in KERNEL_FOLDERS}
    inside = {name for name, path in sources().items() if folders & set(path.parents)}
    assert {"vidur.engine.cluster", "rl.simulate.roll", "rl.router.features"} <= compiled | helpers
    assert (compiled | helpers) - inside - OUTERMOST - {"vidur"} == set()


def test_the_version_of_a_sweep_knows_every_module_that_a_simulation_runs() -> None:
    """A module outside it could be edited, and a sweep would go on with simulations of the code before."""
    graph = imports(functions=False)
    run, queue = set(), ["vidur.simulator", "vidur.compare.record"]
    for name in queue:
        run.add(name)
        queue += sorted(other for other in graph[name] if other in graph and other not in run and other not in queue)
    parts = tuple(f"vidur.{part.removesuffix('.py').replace('/', '.')}" for part in SIMULATOR)
    assert sorted(name for name in run if not any(_below(name, part) for part in parts)) == sorted(NO_FIGURES)
