"""Tables of shapes for the tests of kernels, and errors against the references in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from rag.kernels.warp_score import Coded, num_fine, row_bytes


class Attention(NamedTuple):
    """One attention problem. ``positions``: "all", "one" (the last), "few" or "scattered"."""

    name: str
    heads: int = 4
    key_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    num_keys: int = 45
    num_rows: int = 21
    positions: str = "scattered"
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32


ATTENTION = [
    Attention("plain"),
    Attention("every-position", num_rows=45, positions="all"),
    Attention("one-query", num_rows=1, positions="one"),
    Attention("few-queries", num_rows=3),
    Attention("few-queries-window-sinks", num_rows=3, window=7, sinks=True),
    Attention("few-queries-many-keys", num_rows=5, num_keys=1301, key_dim=64, value_dim=64, dtype=torch.bfloat16),
    Attention("one-key", num_keys=1, num_rows=1, positions="one"),
    Attention("group-1", heads=3, key_heads=3, key_dim=80, value_dim=80),
    Attention("group-8", heads=8, key_heads=1, key_dim=64, value_dim=64, num_rows=37, num_keys=130),
    Attention("dim-96", key_dim=96, value_dim=96, sinks=True),
    Attention("dim-128", key_dim=128, value_dim=128, num_keys=301, num_rows=150, window=40),
    Attention("dim-256-softcap", key_dim=256, value_dim=256, softcap=2.0),
    Attention("unequal-dims", key_dim=48, value_dim=32, window=9, sinks=True),
    Attention("window-of-one", window=1),
    Attention("softcap-one-query", num_rows=1, positions="one", softcap=1.5),
    Attention("bfloat16", dtype=torch.bfloat16, num_rows=77, num_keys=200, key_dim=64, value_dim=64),
    Attention("bfloat16-window-sinks", dtype=torch.bfloat16, window=33, sinks=True, num_rows=77, num_keys=200),
    Attention("bfloat16-softcap", dtype=torch.bfloat16, softcap=3.0, num_rows=40),
]
SPARE_ROWS = 7


class Problem(NamedTuple):
    queries: Tensor
    keys: Tensor
    values: Tensor
    positions: Tensor
    sinks: Tensor | None


def problem(case: Attention, seed: int = 0) -> Problem:
    """Tensors of a case; rows of the buffers past the keys are NaN, and keys are views with a stride between heads."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made).to(case.dtype)

    queries = normal(case.num_rows, case.heads, case.key_dim).transpose(0, 1)
    keys = normal(case.key_heads, case.num_keys + SPARE_ROWS, case.key_dim)
    values = normal(case.key_heads, case.num_keys + SPARE_ROWS, case.value_dim)
    keys[:, case.num_keys :], values[:, case.num_keys :] = float("nan"), float("nan")
    if case.positions == "all":
        positions = torch.arange(case.num_keys)
    elif case.positions == "one":
        positions = torch.tensor([case.num_keys - 1])
    else:
        positions = torch.randperm(case.num_keys, generator=made)[: case.num_rows].sort().values
    sinks = torch.randn(case.heads, generator=made) if case.sinks else None
    return Problem(queries, keys, values, positions, sinks)


def texts(lengths: Sequence[int], dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors ``(tokens, dim)`` of texts of these lengths, and their borders."""
    made = torch.Generator().manual_seed(seed)
    borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int64)
    return torch.randn(int(borders[-1]), dim, generator=made), borders


def unit_rows(num_rows: int, dim: int, seed: int = 0) -> Tensor:
    """Random vectors of length 1."""
    return torch.nn.functional.normalize(torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def coded_documents(lengths: Sequence[int], bits: int, dim: int, num_centroids: int) -> tuple[Tensor, Tensor, Coded]:
    """Levels and steps of centroids, and documents of these lengths with random codes; every run has one to three tokens."""
    made = torch.Generator().manual_seed(sum(lengths) + bits)
    levels = torch.randint(0, 256, (num_centroids, dim), generator=made).to(torch.uint8)
    runs, run_lengths, num_runs = list[int](), list[int](), list[int]()
    for length in lengths:
        before = len(runs)
        while length:
            run_lengths.append(min(length, 1 + len(runs) % 3))
            runs.append(int(torch.randint(0, num_centroids, (1,), generator=made)))
            length -= run_lengths[-1]
        num_runs.append(len(runs) - before)
    starts, run_starts = (torch.tensor([0, *accumulate(counts)], dtype=torch.int64) for counts in (lengths, num_runs))
    codes = torch.randint(0, 256, (sum(lengths), row_bytes(dim, bits)), generator=made).to(torch.uint8)
    assert bits != 5 or num_fine(dim, bits) % 16 == 0
    scales = torch.randint(0, 256, (sum(lengths),), generator=made).to(torch.uint8)
    arrays = (starts, run_starts, torch.tensor(runs).to(torch.uint16), torch.tensor(run_lengths).to(torch.uint8), codes, scales)
    return levels, torch.rand(num_centroids, generator=made) / 300, Coded(*arrays, 1e-4, bits, dim)


def rel(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def limit(dtype: torch.dtype) -> float:
    """Largest relative error that rounding explains."""
    return 2e-6 if dtype == torch.float32 else 6e-3
