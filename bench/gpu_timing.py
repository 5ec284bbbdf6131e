"""How the GPU's figures are taken: what is timed beside what, with which clock, against which ceiling. Knows no kernel; see ``gpu_kernels``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FLUSH_BYTES = 256 << 20
HEADS, KEY_HEADS, DIM = 32, 8, 128
Run = Callable[[], Any]


class Missing(Exception):
    """An anchor cannot be had here, and why."""


@dataclass(frozen=True)
class Case:
    """``ours``, checked by ``error`` (relative, to stay below ``limit``), and what it must move and compute.

    ``anchors``: others that do the same, by name. Each is a function that gets ready outside the clock and returns what is timed; it may raise.
    """

    name: str
    ours: Run
    error: Callable[[], float]
    limit: float
    num_bytes: float
    num_flop: float
    anchors: Mapping[str, Callable[[], Run]] = field(default_factory=dict)


class Bench:
    """A device, how to time on it, and its ceilings."""

    def __init__(self, device: str, rounds: int) -> None:
        self.device, self.rounds = torch.device(device), rounds
        self._flush = torch.empty(FLUSH_BYTES if self.device.type == "cuda" else 1024, dtype=torch.uint8, device=device)

    def seconds(self, run: Run) -> float:
        """One call, with a cold cache."""
        self._flush.zero_()
        if self.device.type != "cuda":
            started = time.perf_counter()
            run()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000

    def medians(self, *runs: Run) -> list[float]:
        """Of runs that take turns; each is warmed first."""
        for run in runs:
            run()
        taken: list[list[float]] = [[] for _ in runs]
        for _ in range(self.rounds):
            for run, seconds in zip(runs, taken, strict=True):
                seconds.append(self.seconds(run))
        return [statistics.median(seconds) for seconds in taken]

    def replayed(self, run: Run) -> float | None:
        """The median of ``run`` as a recorded graph, without what its launches cost the processor; ``None`` where it cannot be recorded.

        A launcher that sends a table from memory, or waits for a number, cannot.
        """
        if self.device.type != "cuda":
            return None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError:
            torch.cuda.synchronize()
            return None
        return self.medians(graph.replay)[0]

    def ceilings(self, small: bool) -> tuple[float, float]:
        """Bytes per second of a copy (read and written) and operations per second of a bfloat16 product."""
        source = torch.empty((1 if small else 1024) << 20, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        side = 256 if small else 8192
        a, b = torch.randn(2, side, side, device=self.device).bfloat16()
        copied, multiplied = self.medians(lambda: target.copy_(source), lambda: a @ b)
        return 2 * source.numel() / copied, 2 * side**3 / multiplied

    def normal(self, *shape: int) -> Tensor:
        """Bfloat16 numbers, drawn in memory so that every device has the same."""
        return torch.randn(*shape).to(self.device, torch.bfloat16)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def figures(bench: Bench, case: Case, ceilings: tuple[float, float]) -> dict[str, Any]:
    """Error, floor, milliseconds and share of the floor of one case, and its anchors' milliseconds; without times if it is wrong."""
    error = case.error()
    found: dict[str, Any] = {"relative_error": error, "right": error <= case.limit}
    if not found["right"]:
        return found
    ready: dict[str, Run] = {}
    absent: dict[str, str] = {}
    for name, prepare in case.anchors.items():
        try:
            ready[name] = prepare()
            ready[name]()
        except Exception as wrong:  # noqa: BLE001 - a stranger's code on a stranger's device: the reason is told, and the next one runs
            ready.pop(name, None)
            absent[name] = f"{type(wrong).__name__}: {wrong}".splitlines()[0][:200]
    ours, *others = bench.medians(case.ours, *ready.values())
    floor = max(case.num_bytes / ceilings[0], case.num_flop / ceilings[1])
    alone = bench.replayed(case.ours)
    found |= {"milliseconds": _ms(ours), "floor_milliseconds": _ms(floor), "of_ceiling": round(floor / ours, 3)}
    found["bound_by"] = "bytes" if case.num_bytes / ceilings[0] >= case.num_flop / ceilings[1] else "operations"
    if alone is not None:
        found |= {"graph_milliseconds": _ms(alone), "graph_of_ceiling": round(floor / alone, 3)}
    found["anchors"] = {
        name: {"milliseconds": _ms(seconds), "over_ours": round(seconds / ours, 2)}
        for name, seconds in zip(ready, others, strict=True)
    }
    return found | ({"absent": absent} if absent else {})


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 4)
