"""The Triton kernels without a GPU: in a strict interpreter, and compiled. ``RAG_COMPILE_ALL=1`` compiles everything, for both architectures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.compile_check import ARCHITECTURES, REPORT, SHARED_LIMIT

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: pip install 'ragstone[kernels]'")
EVERYTHING = os.environ.get("RAG_COMPILE_ALL") == "1"


def _lines(script: str, *arguments: str, **variables: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, f"tests/kernels/{script}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernels_in_the_interpreter_are_their_references() -> None:
    found = _lines("interpreted", TRITON_INTERPRET="1", RAG_KERNELS="triton")
    assert len(found) > 50
    wrong = [line for line in found if line["wrong"]]
    assert not wrong, "\n".join(f"{line['name']}: {line['wrong']}" for line in wrong)


@cache
def recorded() -> dict[str, dict[str, Any]]:
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    return {row["kernel"]: row for row in report["kernels"]} if report["triton"] == version("triton") else {}


@pytest.mark.parametrize("arch", ARCHITECTURES if EVERYTHING else ARCHITECTURES[-1:])
def test_kernels_compile_within_their_means(arch: int) -> None:
    found = _lines("compile_check", str(arch), *([] if EVERYTHING else ["quick"]))
    assert len(found) > 5
    for row in found:
        assert not row["spills"], row
        assert row["shared_bytes"] <= SHARED_LIMIT[arch], row
        assert "column mass" in row["kernel"] or "many" not in row["kernel"] or arch == 80 or row["matrix"] == "wgmma", row
        if recorded():  # another version of triton has other figures
            assert row["registers"] <= recorded()[row["kernel"]]["registers"], row


def test_the_report_is_whole() -> None:
    report = json.loads(REPORT.read_text(encoding="utf-8"))["kernels"]
    assert {row["kernel"].split()[0] for row in report} == {f"sm_{arch}" for arch in ARCHITECTURES}
    assert not [row for row in report if row["spills"]]


def test_every_row_of_the_tables_of_tiles_is_compiled() -> None:
    from rag.kernels import attention_triton, ingest_triton

    found = {row["kernel"] for row in json.loads(REPORT.read_text(encoding="utf-8"))["kernels"]}
    wanted = [
        f"{arch} attention {dim} {'many' if rows == 'many' else 'decoding'} attend" for arch, dim, rows in attention_triton.TILES
    ]
    wanted += [f"{arch} column mass {dim} masses 1" for arch, dim in attention_triton.SCORE_TILES]
    wanted += [f"{arch} ingest {dim} int8 ingest_rows" for arch, dim in ingest_triton.TILES]
    assert len(wanted) > 20 and not [name for name in wanted if f"sm_{name}" not in found]
