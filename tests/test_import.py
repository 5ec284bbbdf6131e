from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rag

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "transformers", "sentence_transformers", "faiss", "numba", "langchain_core", "numpy", "fastapi"]


def _loaded_after(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_rag_loads_nothing_heavy() -> None:
    assert not _loaded_after("import rag") & {*HEAVY, "pydantic", "rag.pipeline"}


def test_the_face_and_the_command_load_no_model_library() -> None:
    assert not _loaded_after("from rag import Rag\nimport rag.cli") & set(HEAVY)


def test_all_is_exactly_what_is_importable() -> None:
    assert rag.__all__ == sorted(rag._HOMES)
    assert all(getattr(rag, name).__name__ == name for name in rag.__all__)
