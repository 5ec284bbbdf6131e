"""The Triton kernels without a GPU: in a strict interpreter, and compiled. ``RAG_COMPILE_ALL=1`` compiles everything, for both architectures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rag.kernels.tiles import TILES, tile_for
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
def report() -> dict[str, list[dict[str, Any]]]:
    """By version of triton."""
    found: dict[str, list[dict[str, Any]]] = json.loads(REPORT.read_text(encoding="utf-8"))
    return found


@cache
def recorded() -> dict[str, dict[str, Any]]:
    return {row["kernel"]: row for row in report().get(version("triton"), [])}


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
    assert report().keys() >= {"3.6.0", "3.7.1"}
    assert len({frozenset(row["kernel"] for row in rows) for rows in report().values()}) == 1
    for rows in report().values():
        assert {row["kernel"].split()[0] for row in rows} == {f"sm_{arch}" for arch in ARCHITECTURES}
        assert not [row for row in rows if row["spills"] or row["shared_bytes"] > SHARED_LIMIT[int(row["kernel"][3:5])]]


def test_every_row_of_the_table_of_tiles_is_compiled() -> None:
    found = {row["kernel"] for rows in report().values() for row in rows}
    titles: dict[str, Callable[[int, str], str]] = {
        "attention": lambda dim, shape: f"attention {dim} {'decoding' if shape == 'few' else shape} attend",
        "batch": lambda dim, shape: f"batch {dim} {shape} attend_requests",
        "scores": lambda dim, _: f"column mass {dim} masses 1",
        "ingest": lambda dim, _: f"ingest {dim} int8 ingest_rows",
        "maxsim": lambda dim, shape: f"maxsim {384 if dim == 512 else dim} {shape} maxima",
        "logprob": lambda _, shape: f"token logprob {shape} sums",
    }
    wanted = [f"sm_{arch} {titles[kernel](dim, shape)}" for kernel, arch, dim, shape in TILES]
    assert not [name for name in wanted if name not in found]


def test_heads_that_were_never_compiled_are_refused() -> None:
    assert tile_for("attention", 90, 80, "many") == TILES["attention", 90, 128, "many"]
    with pytest.raises(ValueError, match="at most 256 dimensions, not 320"):
        tile_for("attention", 90, 320, "many")
