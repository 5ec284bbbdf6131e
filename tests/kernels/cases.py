"""Tables of shapes for the tests of kernels, and errors against the references in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


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


def rel(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def limit(dtype: torch.dtype) -> float:
    """Largest relative error that rounding explains."""
    return 2e-6 if dtype == torch.float32 else 6e-3


def states(num_parts: int, tokens: int, heads: int, dim: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs ``(parts, tokens, heads, dim)`` and logarithms float32 ``(parts, heads, tokens)``; some rows saw nothing."""
    made = torch.Generator().manual_seed(seed)
    outs = torch.randn(num_parts, tokens, heads, dim, generator=made).to(dtype)
    lses = 3 * torch.randn(num_parts, heads, tokens, generator=made)
    unseen = torch.rand(num_parts, heads, tokens, generator=made) < 0.2
    outs[unseen.transpose(1, 2)] = 0
    return outs, lses.masked_fill(unseen, float("-inf"))


class Cascade(NamedTuple):
    """A decoding step of requests with ``num_common`` common keys and ``own`` keys each."""

    name: str
    own: tuple[int, ...] = (5, 0, 33, 1)
    num_common: int = 45
    heads: int = 4
    key_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    softcap: float | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32


CASCADE = [
    Cascade("plain"),
    Cascade("nothing-common", num_common=0),
    Cascade("nothing-own", own=(0, 0, 0)),
    Cascade("nothing-at-all", own=(0, 0), num_common=0),
    Cascade("one-request", own=(7,)),
    Cascade("many-requests", own=tuple(range(40)), num_common=70),
    Cascade("long-own", own=(301, 40), num_common=20, key_dim=64, value_dim=64),
    Cascade("group-1", heads=3, key_heads=3, key_dim=80, value_dim=80),
    Cascade("group-16-sinks", heads=16, key_heads=1, sinks=True),
    Cascade("group-24", heads=24, key_heads=1),
    Cascade("unequal-dims-softcap", key_dim=48, value_dim=32, softcap=2.0),
    Cascade("bfloat16", own=(40, 3, 65), num_common=200, key_dim=64, value_dim=64, dtype=torch.bfloat16),
    Cascade("bfloat16-sinks-softcap", softcap=3.0, sinks=True, dtype=torch.bfloat16),
]


class Requests(NamedTuple):
    queries: Tensor
    common_keys: Tensor
    common_values: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    num_keys: list[int]

    def wide(self) -> Requests:
        """The same in float64."""
        common = (self.queries.double(), self.common_keys.double(), self.common_values.double())
        return Requests(*common, [x.double() for x in self.keys], [x.double() for x in self.values], self.num_keys)


def requests(case: Cascade, seed: int = 0) -> tuple[Requests, Tensor | None]:
    """Tensors of a case and its sinks; buffers differ in length, and their rows past the keys are NaN. Common rows are a view into a longer buffer."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made).to(case.dtype)

    def buffer(rows: int, spare: int, dim: int) -> Tensor:
        whole = normal(case.key_heads, rows + spare, dim)
        whole[:, rows:] = float("nan")
        return whole

    common = [buffer(case.num_common, 3, dim)[:, : case.num_common] for dim in (case.key_dim, case.value_dim)]
    keys = [buffer(own, 1 + number % 3, case.key_dim) for number, own in enumerate(case.own)]
    values = [buffer(own, 1 + number % 3, case.value_dim) for number, own in enumerate(case.own)]
    sinks = torch.randn(case.heads, generator=made) if case.sinks else None
    queries = normal(len(case.own), case.heads, case.key_dim)
    return Requests(queries, common[0], common[1], keys, values, list(case.own)), sinks
