"""A function has few arguments and fits a screen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_ARGUMENTS, MOST_LINES = 12, 80
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions() -> Iterator[tuple[str, Function]]:
    for folder in ("vidur", "rl", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, Function):
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def _arguments(function: Function) -> int:
    """All of them, `self` and `*arguments` included."""
    given = function.args
    return (
        len(given.posonlyargs + given.args + given.kwonlyargs) + (given.vararg is not None) + (given.kwarg is not None)
    )


def _lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


@pytest.mark.parametrize(("count", "most"), [(_arguments, MOST_ARGUMENTS), (_lines, MOST_LINES)])
def test_no_function_is_large(count: object, most: int) -> None:
    assert callable(count)
    sizes = {name: count(function) for name, function in _functions()}
    assert len(sizes) > 1000
    assert {name: size for name, size in sizes.items() if size > most} == {}
