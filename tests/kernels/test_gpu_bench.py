"""The GPU benchmark as far as it goes without one: every kernel is a case, every case is right in small shapes, anchors are named."""

from __future__ import annotations

import ast
from pathlib import Path

import torch

from bench.gpu_kernels import cases
from bench.gpu_timing import Bench, Case, figures

ROOT = Path(__file__).parents[2]
INSIDE = {"assemble", "choose", "conftest", "crew", "rotate", "tiles", "visibility", "llvm_vectors", "row_vectors", "numbers_cpu"}
INSIDE |= {
    "openmp",
    "attention_matrix",
    "attention_vectors",
    "softmax_vectors",
    "exponential",
    "memory_hints",
    "paged",
    "narrow_linear",
}
"""Modules that are no kernel of their own, or none for a GPU; one piece of ``assemble`` and ``rotate`` are parts of others' launches."""


def test_every_kernel_is_a_case_and_every_case_is_right() -> None:
    torch.manual_seed(3)
    with torch.inference_mode():
        made = list(cases(Bench("cpu", 1), small=True))
        wrong = {case.name: error for case in made if not (error := case.error()) <= case.limit}
    assert not wrong and len({case.name for case in made}) == len(made)
    stems = {path.stem for path in (ROOT / "kernels").glob("*.py")}
    parts = {stem for stem in stems if any(stem.startswith(f"{other}_") for other in stems) or stem.endswith(("_triton", "_cpu"))}
    public = stems - parts - INSIDE
    imported = {
        node.module.removeprefix("rag.kernels.")
        for name in ("gpu_attention", "gpu_storage")
        for node in ast.walk(ast.parse((ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    assert not public - imported
    assert all(case.anchors for case in made)


def test_a_wrong_case_is_not_timed_and_an_anchor_that_fails_says_why() -> None:
    def broken() -> None:
        raise RuntimeError("no such device\nand more")

    bench, here = Bench("cpu", 1), torch.zeros(4)
    case = Case("sum", here.sum, lambda: 0.0, 1e-6, 16.0, 4.0, {"torch": lambda: here.sum, "other": lambda: broken})
    found = figures(bench, case, (1e9, 1e9))
    assert found["right"] and found["anchors"].keys() == {"torch"} and found["absent"] == {"other": "RuntimeError: no such device"}
    assert found["bound_by"] == "bytes" and found["floor_milliseconds"] >= 0
    untimed = figures(bench, Case("wrong", broken, lambda: float("nan"), 1e-6, 1.0, 1.0), (1e9, 1e9))
    assert untimed["right"] is False and "milliseconds" not in untimed
