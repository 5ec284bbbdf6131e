"""Compiled loops that go by addresses: memory of which nothing but the address is used is given back before the address is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKERS = {"empty", "zeros", "ones", "full"}


def compiled(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Functions that numba compiles."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            "njit" in ast.unparse(each) or "compiled" in ast.unparse(each) for each in node.decorator_list
        ):
            yield node


def lost(function: ast.FunctionDef) -> list[str]:
    """Names of arrays that are made here and used by their address alone."""
    made = set[str]()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = (
                zip(target.elts, value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            for name, what in pairs:
                if (
                    isinstance(name, ast.Name)
                    and isinstance(what, ast.Call)
                    and ast.unparse(what.func) in {f"np.{word}" for word in MAKERS}
                ):
                    made.add(name.id)
    addresses = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Attribute) and node.attr == "ctypes"}
    loads = [
        node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in made
    ]
    by_address = {node.id for node in loads if id(node) in addresses}
    otherwise = {node.id for node in loads if id(node) not in addresses}
    return sorted(by_address - otherwise)


@pytest.mark.parametrize(
    "path",
    sorted(
        path for room in ("kernels", "retrievers", "chunkers", "rerankers", "kvcache", "rag") for path in (ROOT / room).glob("*.py")
    )
    + sorted((ROOT / "retrievers/warp").glob("*.py")),
    ids=lambda path: path.stem,
)
def test_memory_outlives_its_address(path: Path) -> None:
    found = {function.name: lost(function) for function in compiled(ast.parse(path.read_text(encoding="utf-8")))}
    assert not {name: names for name, names in found.items() if names}


def test_what_is_lost_is_seen() -> None:
    source = "@numba.njit\ndef score(n):\n    best, unused = np.empty(n), np.empty(n)\n    base = unused.ctypes.data\n    best[0] = base\n"
    (function,) = compiled(ast.parse(source))
    assert lost(function) == ["unused"]
