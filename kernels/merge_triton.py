"""Merging of attention states on a GPU: a Triton kernel and its launcher. Knows rows; checks no shape. See ``merge_states``.

A program takes some 2048 numbers of the result: with one row a program nothing would be read 16 bytes at a time, and the launch would be bound
by its programs and not by memory.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUMBERS = 2048


def merge_triton(
    outs: Sequence[Tensor] | Tensor, lses: Sequence[Tensor] | Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """See ``merge_states.merge_states``; parts that are not one tensor are put into one first. ``dtype``: of the result."""
    import torch

    parts = outs.contiguous() if isinstance(outs, torch.Tensor) else torch.stack(list(outs))
    logs = (lses if isinstance(lses, torch.Tensor) else torch.stack(list(lses))).float().contiguous()
    num_parts, tokens, heads, dim = parts.shape
    merged = torch.empty(tokens, heads, dim, dtype=dtype or parts.dtype, device=parts.device)
    total = torch.empty(heads, tokens, device=parts.device)
    if merged.numel():
        padded = triton.next_power_of_2(dim)
        rows = max(1, NUMBERS // padded)
        merge_rows[(triton.cdiv(tokens * heads, rows),)](
            parts, logs, merged, total, num_parts, tokens, heads, D=dim, DP=padded, BR=rows, num_warps=4
        )
    return merged, total


@triton.jit
def merge_rows(parts, logs, merged, total, num_parts, tokens, heads, D: tl.constexpr, DP: tl.constexpr, BR: tl.constexpr):
    row, d = tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, DP)
    there = row < tokens * heads
    ok = there[:, None] & (d < D)[None, :]
    log_at = row % heads * tokens + row // heads
    place = row.to(tl.int64)[:, None] * D + d[None, :]
    step = tl.zeros((), tl.int64) + tokens * heads
    most = tl.full((BR,), float("-inf"), tl.float32)
    whole = tl.zeros((BR,), tl.float32)
    acc = tl.zeros((BR, DP), tl.float32)
    for part in range(num_parts):
        log = tl.load(logs + part * step + log_at, mask=there, other=float("-inf"))
        most, whole, acc = joined(most, whole, acc, log, parts + part * step * D, place, ok)
    lse = tl.where(whole == 0, float("-inf"), most + tl.log(whole))
    tl.store(total + log_at, lse, mask=there)
    tl.store(merged + place, (acc / tl.where(whole == 0, 1.0, whole)[:, None]).to(merged.dtype.element_ty), mask=ok)


@triton.jit
def joined(most, whole, acc, log, part, place, ok):
    """A running state (largest logarithm, sum, unscaled output) and one more part; of a part that saw nothing only the logarithm is read."""
    higher = tl.maximum(most, log)
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    fade, share = tl.exp(most - shift), tl.exp(log - shift)
    x = tl.load(part + place, mask=ok & (log != float("-inf"))[:, None], other=0.0).to(tl.float32)
    return higher, whole * fade + share, acc * fade[:, None] + share[:, None] * x
