"""Attention by position on a GPU, and what each key receives: Triton kernels and their launchers. Knows tiles; checks no shape.

Rows of a tile are query tokens times the heads that share a key head. Positions ascend, so the tile's last row bounds its keys, and keys
before its first row need no mask. Float32 inside, the inputs' type at loads, stores and products only. With few tiles (decoding) the keys are
split over programs and the states merged. Floors: see ``selective_attention`` and ``column_mass``.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from rag.kernels import tiles
from rag.kernels.merge_triton import merge_triton
from rag.kernels.selective_attention import with_sinks

if TYPE_CHECKING:
    import torch
    from torch import Tensor


PROGRAMS = 264
"""Below this many programs (two a multiprocessor of an H200) the keys are split as well."""
LEAST_KEYS = 256
"""No program of a split reads fewer keys."""


def attention_triton(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output and logarithm of the denominator; see ``selective_attention.selective_attention``."""
    outs, lses = attend_states(queries, keys, values, positions, num_keys, scale, window, softcap)
    out, lse = (outs[0], lses[0]) if len(outs) == 1 else merge_triton(outs, lses, queries.dtype)
    return with_sinks(out, lse, sinks)


def column_mass_triton(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """See ``column_mass.column_mass``: denominators first, then a sum over the rows for every block of keys."""
    import torch

    _, lses = attend_states(queries, keys, None, positions, num_keys, scale, window, softcap)
    lse = torch.logsumexp(lses, 0)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.float()[:, None])
    scores = window_scores_triton(queries, keys, positions, lse, num_keys=num_keys, scale=scale, window=window, softcap=softcap)
    return scores.sum(0)


def window_scores_triton(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    lse: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """See ``window_scores.window_scores``: a sum over the rows for every block of keys."""
    import torch

    num_heads, tokens, dim = queries.shape
    group = num_heads // keys.shape[0]
    scores = torch.zeros(keys.shape[0], num_keys, device=keys.device)
    if not num_keys or not tokens:
        return scores
    packed = triton.next_power_of_2(group)
    tile = tiles.tile_for("scores", tiles.architecture(queries.device), dim)
    masses[(triton.cdiv(num_keys, tile.keys), keys.shape[0])](
        queries,
        keys,
        positions,
        lse.float().contiguous(),
        scores,
        scale,
        softcap or 1.0,
        tokens,
        num_keys,
        window or 0,
        *queries.stride()[:2],
        *keys.stride()[:2],
        G=group,
        GP=packed,
        D=dim,
        DP=max(16, triton.next_power_of_2(dim)),
        BQ=max(1, tile.rows // packed),
        BN=tile.keys,
        SOFTCAP=bool(softcap),
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return scores


def attend_states(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    positions: Tensor,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs ``(splits, T, Hq, Dv)`` and logarithms float32 ``(splits, Hq, T)``; without values the outputs mean nothing.

    The outputs are of ``dtype``, or of the queries' if there is one split, float32 if there are more.
    """
    import torch

    num_heads, tokens, dim = queries.shape
    heads, group = keys.shape[0], num_heads // keys.shape[0]
    packed = triton.next_power_of_2(group)
    value_dim = values.shape[2] if values is not None else dim
    shape = tiles.shape_of("attention", tokens * group)
    tile = tiles.tile_for("attention", tiles.architecture(queries.device), max(dim, value_dim), shape)
    tile_tokens = max(1, tile.rows // packed)
    num_tiles = triton.cdiv(tokens, tile_tokens)
    splits = max(1, min(PROGRAMS // max(1, num_tiles * heads), num_keys // LEAST_KEYS))
    span = triton.cdiv(triton.cdiv(max(num_keys, 1), splits), tile.keys) * tile.keys
    splits = triton.cdiv(max(num_keys, 1), span)
    kind = dtype or (torch.float32 if splits > 1 else queries.dtype)
    outs = torch.empty(splits, tokens, num_heads, value_dim if values is not None else 1, dtype=kind, device=queries.device)
    lses = torch.empty(splits, num_heads, tokens, device=queries.device)
    if tokens:
        attend[(num_tiles, heads, splits)](
            queries,
            keys,
            values if values is not None else keys,
            positions,
            outs,
            lses,
            scale,
            softcap or 1.0,
            tokens,
            num_keys,
            window or 0,
            span,
            *queries.stride()[:2],
            *keys.stride()[:2],
            *(values if values is not None else keys).stride()[:2],
            G=group,
            GP=packed,
            D=dim,
            DP=max(16, triton.next_power_of_2(dim)),
            DV=value_dim,
            DVP=max(16, triton.next_power_of_2(value_dim)),
            BQ=tile_tokens,
            BN=tile.keys,
            WINDOW=bool(window),
            SOFTCAP=bool(softcap),
            VALUES=values is not None,
            PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return outs, lses


@triton.jit
def _scores(q, k, scale, softcap, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):
    x = tl.dot(q, k, input_precision=PRECISION) * scale
    if SOFTCAP:
        x = softcap * (2.0 / (1.0 + tl.exp(-2.0 * (x / softcap))) - 1.0)
    return x


@triton.jit
def weighed(x, m, total):
    """Weights of scores ``x`` (times log2 e) against the largest so far; returns it, the weights, what the old state keeps, and the new sum."""
    largest = tl.maximum(m, tl.max(x, 1))
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    p = tl.exp2(x - shift[:, None])
    fade = tl.exp2(m - shift)
    return largest, p, fade, total * fade + tl.sum(p, 1)


@triton.jit
def advance(
    q,
    k_base,
    v_base,
    k_tile,
    v_tile,
    pos,
    j,
    high,
    m,
    total,
    acc,
    scale,
    softcap,
    window,
    D: tl.constexpr,
    DP: tl.constexpr,
    DV: tl.constexpr,
    DVP: tl.constexpr,
    BN: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n = tl.arange(0, BN)
    real = j + n < high
    d, e = tl.arange(0, DP), tl.arange(0, DVP)
    if MASKED:
        k = tl.load(k_base + k_tile, mask=real[None, :] & (d < D)[:, None], other=0.0)
    elif D == DP:
        k = tl.load(k_base + k_tile)
    else:
        k = tl.load(k_base + k_tile, mask=(d < D)[:, None], other=0.0)
    x = _scores(q, k, scale, softcap, SOFTCAP, PRECISION) * 1.4426950408889634
    if MASKED:
        seen = real[None, :] & (pos[:, None] >= (j + n)[None, :])
        if WINDOW:
            seen = seen & ((j + n)[None, :] > pos[:, None] - window)
        x = tl.where(seen, x, float("-inf"))
    m, p, fade, total = weighed(x, m, total)
    if VALUES:
        if MASKED:
            v = tl.load(v_base + v_tile, mask=real[:, None] & (e < DV)[None, :], other=0.0)
        elif DV == DVP:
            v = tl.load(v_base + v_tile)
        else:
            v = tl.load(v_base + v_tile, mask=(e < DV)[None, :], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
    return m, total, acc


@triton.jit
def attend(
    queries,
    keys,
    values,
    positions,
    outs,
    lses,
    scale,
    softcap,
    tokens,
    num_keys,
    window,
    span,
    q_head,
    q_row,
    k_head,
    k_row,
    v_head,
    v_row,
    G: tl.constexpr,
    GP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    DV: tl.constexpr,
    DVP: tl.constexpr,
    BQ: tl.constexpr,
    BN: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    BM: tl.constexpr = BQ * GP
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest first
    head = tl.program_id(1)
    part = tl.program_id(2)
    r = tl.arange(0, BM)
    token = tile * BQ + r // GP
    ok = (token < tokens) & (r % GP < G)
    d, e, n = tl.arange(0, DP), tl.arange(0, DVP), tl.arange(0, BN)
    q_base = queries + head.to(tl.int64) * G * q_head + (tile * BQ).to(tl.int64) * q_row
    q_tile = ((r // GP) * q_row)[:, None] + ((r % GP).to(tl.int64) * q_head)[:, None] + d[None, :]
    q = tl.load(q_base + q_tile, mask=ok[:, None] & (d < D)[None, :], other=0.0)
    pos = tl.load(positions + token, mask=ok, other=-1).to(tl.int32)
    low, high = part * span, tl.minimum(part * span + span, num_keys)
    high = tl.minimum(high, tl.max(pos, 0) + 1)
    common = tl.minimum(tl.min(tl.where(ok, pos, 2147483647), 0) + 1, high)  # every row sees the keys before it, but for its window
    if WINDOW:
        first = tl.min(tl.where(ok, pos, 2147483647), 0) - window + 1
        low = tl.maximum(low, (tl.maximum(first, 0) // BN) * BN)
        common = low
    free = low + tl.maximum(common - low, 0) // BN * BN
    m = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DVP), tl.float32)
    k_tile = n[None, :] * k_row + d[:, None]
    v_tile = n[:, None] * v_row + e[None, :]
    k_base = keys + head.to(tl.int64) * k_head + low.to(tl.int64) * k_row
    v_base = values + head.to(tl.int64) * v_head + low.to(tl.int64) * v_row
    for j in range(low, free, BN):
        m, total, acc = advance(
            q, k_base, v_base, k_tile, v_tile, pos, j, high, m, total, acc, scale, softcap, window,
            D, DP, DV, DVP, BN, False, WINDOW, SOFTCAP, VALUES, PRECISION,
        )  # fmt: skip
        k_base += BN * k_row
        v_base += BN * v_row
    for j in range(free, high, BN):
        m, total, acc = advance(
            q, k_base, v_base, k_tile, v_tile, pos, j, high, m, total, acc, scale, softcap, window,
            D, DP, DV, DVP, BN, True, WINDOW, SOFTCAP, VALUES, PRECISION,
        )  # fmt: skip
        k_base += BN * k_row
        v_base += BN * v_row
    lse = tl.where(total == 0, float("-inf"), m * 0.6931471805599453 + tl.log(total))
    heads_all = tl.num_programs(1) * G
    query_head = head * G + r % GP
    tl.store(lses + (part * heads_all + query_head).to(tl.int64) * tokens + token, lse, mask=ok)
    if VALUES:
        acc = acc / tl.where(total == 0, 1.0, total)[:, None]
        row = (part.to(tl.int64) * tokens + token) * heads_all + query_head
        tl.store(outs + row[:, None] * DV + e[None, :], acc.to(outs.dtype.element_ty), mask=ok[:, None] & (e < DV)[None, :])


@triton.jit
def masses(
    queries,
    keys,
    positions,
    lses,
    mass,
    scale,
    softcap,
    tokens,
    num_keys,
    window,
    q_head,
    q_row,
    k_head,
    k_row,
    G: tl.constexpr,
    GP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BQ: tl.constexpr,
    BN: tl.constexpr,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    BM: tl.constexpr = BQ * GP
    head = tl.program_id(1)
    r, d, n = tl.arange(0, BM), tl.arange(0, DP), tl.arange(0, BN)
    j = tl.program_id(0) * BN
    real = j + n < num_keys
    k_base = keys + head.to(tl.int64) * k_head + j.to(tl.int64) * k_row
    k = tl.load(k_base + n[None, :] * k_row + d[:, None], mask=real[None, :] & (d < D)[:, None], other=0.0)
    acc = tl.zeros((BN,), tl.float32)
    q_base = queries + head.to(tl.int64) * G * q_head
    for start in range(0, tokens, BQ):
        token = start + r // GP
        ok = (token < tokens) & (r % GP < G)
        pos = tl.load(positions + token, mask=ok, other=-1).to(tl.int32)
        if tl.max(pos, 0) >= j:
            q_tile = ((r // GP) * q_row)[:, None] + ((r % GP).to(tl.int64) * q_head)[:, None] + d[None, :]
            q = tl.load(q_base + q_tile, mask=ok[:, None] & (d < D)[None, :], other=0.0)
            lse = tl.load(lses + (head * G + r % GP).to(tl.int64) * tokens + token, mask=ok, other=0.0)
            lse = tl.where(lse == float("-inf"), 0.0, lse)  # such a row sees nothing
            x = _scores(q, k, scale, softcap, SOFTCAP, PRECISION)
            seen = ok[:, None] & real[None, :] & (pos[:, None] >= (j + n)[None, :])
            seen = seen & ((window == 0) | ((j + n)[None, :] > pos[:, None] - window))
            acc += tl.sum(tl.where(seen, tl.exp(x - lse[:, None]), 0.0), 0)
        q_base += BQ * q_row
    tl.store(mass + head.to(tl.int64) * num_keys + j + n, acc, mask=real)
