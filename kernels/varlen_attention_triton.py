"""Attention within texts on a GPU: a Triton kernel and its launcher. Knows tiles; checks no shape.

One program is a tile of one text's queries under one head; programs past the end of a short text stop at once. Keys outside the window (or, with
``causal``, behind the tile) are not read. Float32 inside, the inputs' type at loads, stores and products only. Floor: see ``varlen_attention``.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from rag.kernels import tiles

if TYPE_CHECKING:
    from torch import Tensor


def varlen_attention_triton(
    queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, *, longest: int, scale: float, causal: bool, window: int | None
) -> Tensor:
    """See ``varlen_attention.varlen_attention``; the tile is that of ``selective_attention``."""
    import torch

    num_heads, num_tokens, dim = queries.shape
    value_dim = values.shape[2]
    out = queries.new_empty(num_tokens, num_heads, value_dim)
    num_texts = len(starts) - 1
    if not num_tokens or not longest or not num_texts:
        return out
    shape = tiles.shape_of("attention", longest)
    tile = tiles.tile_for("attention", tiles.architecture(queries.device), max(dim, value_dim), shape)
    attend_texts[(triton.cdiv(longest, tile.rows), num_texts, num_heads)](
        queries,
        keys,
        values,
        starts,
        out,
        scale,
        window or 0,
        *queries.stride()[:2],
        *keys.stride()[:2],
        *values.stride()[:2],
        *out.stride()[:2],
        G=num_heads // keys.shape[0],
        D=dim,
        DP=max(16, triton.next_power_of_2(dim)),
        DV=value_dim,
        DVP=max(16, triton.next_power_of_2(value_dim)),
        BM=tile.rows,
        BN=tile.keys,
        CAUSAL=causal,
        WINDOW=window is not None,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


@triton.jit
def _step(
    q, k_base, v_base, k_tile, v_tile, row, j, length, m, total, acc, scale, window,
    D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    column = j + tl.arange(0, BN)
    real = column < length
    d, e = tl.arange(0, DP), tl.arange(0, DVP)
    if MASKED:
        k = tl.load(k_base + k_tile, mask=real[None, :] & (d < D)[:, None], other=0.0)
    elif D == DP:
        k = tl.load(k_base + k_tile)
    else:
        k = tl.load(k_base + k_tile, mask=(d < D)[:, None], other=0.0)
    x = tl.dot(q, k, input_precision=PRECISION) * (scale * 1.4426950408889634)
    if MASKED:
        seen = real[None, :] & (row >= 0)[:, None]
        if CAUSAL:
            seen = seen & (column[None, :] <= row[:, None])
        if WINDOW:
            seen = seen & (column[None, :] > row[:, None] - window) & (column[None, :] < row[:, None] + window)
        x = tl.where(seen, x, float("-inf"))
    largest = tl.maximum(m, tl.max(x, 1))
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    p = tl.exp2(x - shift[:, None])
    fade = tl.exp2(m - shift)
    total = total * fade + tl.sum(p, 1)
    if MASKED:
        v = tl.load(v_base + v_tile, mask=real[:, None] & (e < DV)[None, :], other=0.0)
    elif DV == DVP:
        v = tl.load(v_base + v_tile)
    else:
        v = tl.load(v_base + v_tile, mask=(e < DV)[None, :], other=0.0)
    acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
    return largest, total, acc


@triton.jit
def attend_texts(
    queries,
    keys,
    values,
    starts,
    out,
    scale,
    window,
    q_head,
    q_row,
    k_head,
    k_row,
    v_head,
    v_row,
    o_row,
    o_head,
    G: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    DV: tl.constexpr,
    DVP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
):
    first = tl.load(starts + tl.program_id(1)).to(tl.int64)
    length = (tl.load(starts + tl.program_id(1) + 1).to(tl.int64) - first).to(tl.int32)
    begin = tl.program_id(0) * BM
    if begin >= length:
        return
    head = tl.program_id(2)
    r, d, e, n = tl.arange(0, BM), tl.arange(0, DP), tl.arange(0, DVP), tl.arange(0, BN)
    ok = begin + r < length
    row = tl.where(ok, begin + r, -1)
    q_base = queries + head.to(tl.int64) * q_head + (first + begin) * q_row
    q = tl.load(q_base + (r * q_row)[:, None] + d[None, :], mask=ok[:, None] & (d < D)[None, :], other=0.0)
    low, high = 0, length
    if CAUSAL:
        high = tl.minimum(length, begin + BM)
    if WINDOW:
        low = tl.maximum(begin - window + 1, 0) // BN * BN
        high = tl.minimum(high, begin + BM - 1 + window)
    free = length // BN * BN  # whole tiles that every row sees
    if CAUSAL:
        free = tl.minimum(begin + 1, length) // BN * BN
    if WINDOW:
        free = low
    m = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DVP), tl.float32)
    k_tile = n[None, :] * k_row + d[:, None]
    v_tile = n[:, None] * v_row + e[None, :]
    k_base = keys + (head // G).to(tl.int64) * k_head + (first + low) * k_row
    v_base = values + (head // G).to(tl.int64) * v_head + (first + low) * v_row
    for j in range(low, free, BN):
        m, total, acc = _step(
            q, k_base, v_base, k_tile, v_tile, row, j, length, m, total, acc, scale, window,
            D, DP, DV, DVP, BN, False, CAUSAL, WINDOW, PRECISION,
        )  # fmt: skip
        k_base += BN * k_row
        v_base += BN * v_row
    for j in range(free, high, BN):
        m, total, acc = _step(
            q, k_base, v_base, k_tile, v_tile, row, j, length, m, total, acc, scale, window,
            D, DP, DV, DVP, BN, True, CAUSAL, WINDOW, PRECISION,
        )  # fmt: skip
        k_base += BN * k_row
        v_base += BN * v_row
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    o_base = out + (first + begin) * o_row + head.to(tl.int64) * o_head
    o_tile = (r * o_row)[:, None] + e[None, :]
    tl.store(o_base + o_tile, acc.to(out.dtype.element_ty), mask=ok[:, None] & (e < DV)[None, :])
