"""Attention of several requests on a GPU, one launch: a Triton kernel and its launcher. Knows addresses; checks no shape. See ``selective_batch``.

A program takes a tile of rows of one request and one key head; a table says which rows, another where the request's keys and values lie. Within a
tile everything is as in ``attention_triton``. Keys are not split over programs here: where programs are too few for a GPU, requests go one by one
through ``attention_triton``, which splits them.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from rag.kernels import attention_triton, tiles
from rag.kernels.attention_triton import advance
from rag.kernels.cascade_triton import table_of

if TYPE_CHECKING:
    from torch import Tensor


def selective_batch_triton(
    queries: Tensor,
    starts: Sequence[int],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    positions: Tensor,
    *,
    num_keys: Sequence[int],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """See ``selective_batch.selective_attention_batch``; sinks are not yet counted."""
    import torch

    num_heads, num_rows, dim = queries.shape
    if not num_rows:
        value_dim = values[0].shape[2] if values else 0
        return queries.new_empty(0, num_heads, value_dim), torch.empty(num_heads, 0, device=queries.device)
    heads, value_dim = keys[0].shape[0], values[0].shape[2]
    group = num_heads // heads
    packed = triton.next_power_of_2(group)
    shape = tiles.shape_of("attention", group * max(end - start for start, end in pairwise(starts)))
    tile = tiles.tile_for("batch", tiles.architecture(queries.device), max(dim, value_dim), shape)
    tokens = max(1, tile.rows // packed)
    jobs = [(request, row, end) for request, (start, end) in enumerate(pairwise(starts)) for row in range(start, end, tokens)]
    if len(jobs) * heads < attention_triton.PROGRAMS // 2 and max(num_keys) >= 2 * attention_triton.LEAST_KEYS:
        found = [
            attention_triton.attention_triton(
                queries[:, start:end], seen, shown, positions[start:end],
                num_keys=count, scale=scale, window=window, softcap=softcap, sinks=None,
            )
            for (start, end), seen, shown, count in zip(pairwise(starts), keys, values, num_keys, strict=True)
        ]  # fmt: skip
        return torch.cat([out for out, _ in found]), torch.cat([lse for _, lse in found], 1)
    rows = table_of(keys, values, num_keys)
    aligned = all(number % 16 == 0 for row in rows for number in row[:-1]) and keys[0].data_ptr() % 16 == 0
    outs = torch.empty(num_rows, num_heads, value_dim, dtype=queries.dtype, device=queries.device)
    lses = torch.empty(num_heads, num_rows, device=queries.device)
    attend_requests[(len(jobs), heads)](
        queries,
        torch.tensor(jobs[::-1], dtype=torch.int32, device=queries.device),  # the last rows of a request see most
        torch.tensor(rows, device=queries.device),
        keys[0],
        values[0],
        positions,
        outs,
        lses,
        scale,
        softcap or 1.0,
        num_rows,
        window or 0,
        *queries.stride()[:2],
        G=group,
        GP=packed,
        D=dim,
        DP=max(16, triton.next_power_of_2(dim)),
        DV=value_dim,
        DVP=max(16, triton.next_power_of_2(value_dim)),
        BQ=tokens,
        BN=tile.keys,
        WINDOW=bool(window),
        SOFTCAP=bool(softcap),
        ALIGNED=aligned,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return outs, lses


@triton.jit
def attend_requests(
    queries,
    jobs,
    table,
    keys,
    values,
    positions,
    outs,
    lses,
    scale,
    softcap,
    num_rows,
    window,
    q_head,
    q_row,
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
    ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    BM: tl.constexpr = BQ * GP
    job, head = jobs + tl.program_id(0) * 3, tl.program_id(1)
    request, start, end = tl.load(job), tl.load(job + 1), tl.load(job + 2)
    own = table + request * 7
    key_at, key_head, key_row = tl.load(own), tl.load(own + 1), tl.load(own + 2).to(tl.int32)
    value_at, value_head, value_row = tl.load(own + 3), tl.load(own + 4), tl.load(own + 5).to(tl.int32)
    if ALIGNED:
        key_at, key_head, key_row = tl.multiple_of(key_at, 16), tl.multiple_of(key_head, 16), tl.multiple_of(key_row, 16)
        value_at, value_head, value_row = (
            tl.multiple_of(value_at, 16),
            tl.multiple_of(value_head, 16),
            tl.multiple_of(value_row, 16),
        )
    num_keys = tl.load(own + 6).to(tl.int32)
    r, d, e, n = tl.arange(0, BM), tl.arange(0, DP), tl.arange(0, DVP), tl.arange(0, BN)
    token = start + r // GP
    ok = (token < end) & (r % GP < G)
    q_base = queries + head.to(tl.int64) * G * q_head + start.to(tl.int64) * q_row
    q_tile = ((r // GP) * q_row)[:, None] + ((r % GP).to(tl.int64) * q_head)[:, None] + d[None, :]
    q = tl.load(q_base + q_tile, mask=ok[:, None] & (d < D)[None, :], other=0.0)
    pos = tl.load(positions + token, mask=ok, other=-1).to(tl.int32)
    earliest = tl.min(tl.where(ok, pos, 2147483647), 0)
    high = tl.minimum(num_keys, tl.max(pos, 0) + 1)
    low = high * 0
    if WINDOW:
        low = (tl.maximum(earliest - window + 1, 0) // BN) * BN
        free = low
    else:
        free = tl.maximum(tl.minimum(earliest + 1, high), 0) // BN * BN  # every row sees the keys before it
    m = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DVP), tl.float32)
    k_tile = n[None, :] * key_row + d[:, None]
    v_tile = n[:, None] * value_row + e[None, :]
    k_base = keys + key_at + head * key_head + low.to(tl.int64) * key_row
    v_base = values + value_at + head * value_head + low.to(tl.int64) * value_row
    for j in range(low, free, BN):
        m, total, acc = advance(
            q, k_base, v_base, k_tile, v_tile, pos, j, high, m, total, acc, scale, softcap, window,
            D, DP, DV, DVP, BN, False, WINDOW, SOFTCAP, True, PRECISION,
        )  # fmt: skip
        k_base += BN * key_row
        v_base += BN * value_row
    for j in range(free, high, BN):
        m, total, acc = advance(
            q, k_base, v_base, k_tile, v_tile, pos, j, high, m, total, acc, scale, softcap, window,
            D, DP, DV, DVP, BN, True, WINDOW, SOFTCAP, True, PRECISION,
        )  # fmt: skip
        k_base += BN * key_row
        v_base += BN * value_row
    lse = tl.where(total == 0, float("-inf"), m * 0.6931471805599453 + tl.log(total))
    heads_all = tl.num_programs(1) * G
    query_head = head * G + r % GP
    tl.store(lses + query_head.to(tl.int64) * num_rows + token, lse, mask=ok)
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    row = token.to(tl.int64) * heads_all + query_head
    tl.store(outs + row[:, None] * DV + e[None, :], acc.to(outs.dtype.element_ty), mask=ok[:, None] & (e < DV)[None, :])
