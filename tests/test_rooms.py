"""Who may import whom: the table of the architecture, read from the code itself."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("chunkers", "retrievers", "rerankers", "kvcache", "kernels", "eval")
CORE = {"rag", "rag.core", "rag.errors"}
MODELS = {"rag.embedded", "rag.quiet", "rag.sentences", "rag.tokenizer"}
ALLOWED = {
    "kernels": set[str](),
    "chunkers": CORE | MODELS,
    "retrievers": CORE | MODELS | {"rag.kernels"},
    "rerankers": CORE | MODELS | {"rag.kernels", "rag.prompt", "rag.lm_metered"},
    "kvcache": CORE | MODELS | {"rag.kernels", "rag.prompt", "rag.citations", "rag.generate", "rag.stops", "rag.lm_sampling"},
    "eval": CORE
    | {
        "rag.parts",
        "rag.pipeline",
        "rag.config",
        "rag.ingest",
        "rag.lm_metered",
        "rag.prompt",
        "rag.sentences",
        "rag.citations",
        "rag.registry",
    },
    "rag/read": CORE | {"rag.read"},
    "rag/query": CORE | {"rag.sentences", "rag.prompt", "rag.forms"},
}
HEAVY = {"torch", "transformers", "sentence_transformers", "faiss", "numba", "triton", "langchain_core", "scipy", "pandas"}


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether the import runs when the file is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(scope)
    }
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        runs = id(node) not in deferred and id(node) not in typing_only
        if isinstance(node, ast.Import):
            yield from ((alias.name, runs) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = str(node.module)
            yield from (
                (f"{base}.{alias.name}" if base == "rag" or base in {f"rag.{room}" for room in ROOMS} else base, runs)
                for alias in node.names
            )


def _files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    own = f"rag.{room.split('/')[-1]}"
    for path in _files(room):
        for name, _ in _imports(path):
            if name == "rag" or name.startswith("rag."):
                allowed = ALLOWED[room] | {own}
                assert any(name == word or name.startswith(word + ".") and word != "rag" for word in allowed), (
                    f"{path.relative_to(ROOT)} imports {name}"
                )


def test_the_table_would_catch_an_offender(tmp_path: Path) -> None:
    offender = tmp_path / "x.py"
    offender.write_text("def f():\n    from rag.retrievers import dense\n")
    assert list(_imports(offender)) == [("rag.retrievers.dense", False)]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_reached_by_a_relative_link(room: str) -> None:
    link = ROOT / "rag" / room
    assert link.is_symlink() and str(link.readlink()) == f"../{room}"


def test_kernels_has_no_init() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()  # transformers probes for a top-level module of that name


def test_nothing_outside_the_rooms_imports_a_heavy_package_at_import() -> None:
    for path in sorted((ROOT / "rag").glob("*.py")) + _files("rag/read") + _files("rag/query") + _files("rag/serve"):
        for name, runs in _imports(path):
            if path.name != "langchain.py":
                assert not runs or name.split(".")[0] not in HEAVY, f"{path.relative_to(ROOT)} imports {name} at import"


def test_every_folder_of_code_and_of_page_parts_goes_into_the_wheel() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    kept = [path for room in (*ROOMS, "rag") for path in (ROOT / room).rglob("*.*") if path.suffix in (".py", ".css", ".js")]
    folders = {path.parent.relative_to(ROOT).parts for path in kept}
    assert sorted(told["packages"]) == sorted(".".join(parts if parts[0] == "rag" else ("rag", *parts)) for parts in folders)
    for path in kept:
        if path.suffix != ".py":
            package = ".".join(("rag", *path.parent.relative_to(ROOT).parts))
            assert f"*{path.suffix}" in told["package-data"][package]


def test_no_file_is_too_long() -> None:
    for room in (*ROOMS, "rag", "tests", "bench"):
        for path in _files(room):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path


def test_every_module_says_what_it_knows() -> None:
    for room in (*ROOMS, "rag"):
        for path in _files(room):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_no_pickle_no_eval() -> None:
    banned = ("import pickle", "torch.load(", "allow_pickle=True", "weights_only=False", "yaml.load(", "shell=True")
    for room in (*ROOMS, "rag"):
        for path in _files(room):
            text = path.read_text(encoding="utf-8")
            assert not [word for word in banned if word in text], path
