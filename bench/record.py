"""How a benchmark's result is written down: the numbers, the machine, the versions, the date. Knows no benchmark."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "sentence-transformers", "faiss-cpu", "numpy", "numba", "bm25s", "rank-bm25")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and the system, without any name of the machine itself."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory_bytes / 2**30, 1), "system": platform.system()}


def versions(*more: str) -> dict[str, str]:
    """Versions of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def of_processor(name: str) -> str:
    """The name of a result that depends on what a processor multiplies bfloat16 with: those with matrix registers (AMX) and those with nothing for it
    (AVX2 alone) have files of their own."""
    import torch

    from rag.kernels.choose import multiplies_bfloat16_tiles
    from rag.kernels.narrow_linear import multiplies

    if multiplies_bfloat16_tiles():
        return f"{name}_amx"
    return name if multiplies(torch.bfloat16) else f"{name}_avx2"


def write_result(name: str, result: Mapping[str, Any], packages: Sequence[str] = ()) -> Path:
    """Writes ``bench/results/<name>.json``."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    today = datetime.date.today().isoformat()
    whole = {"benchmark": name, "date": today, "machine": machine(), "versions": versions(*packages), **result}
    path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def alternating(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each callable over ``rounds`` rounds in which they take turns (one warm-up each)."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(rounds):
        names = list(runs) if number % 2 == 0 else list(runs)[::-1]
        for name in names:
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}
