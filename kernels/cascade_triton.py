"""Decoding with a common beginning on a GPU: a Triton kernel and its launchers. Knows addresses; checks no shape. See ``cascade_decode``.

Two launches. The first is ``attention_triton.attend`` with all requests' queries as rows over the common keys, which are split over programs. In the
second a program takes one key head of one request over its own keys, and takes in the states of the first at its end: where own keys are not
split it writes the result, and no state is written and read again. Requests lie in buffers of their own: a table says where.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from rag.kernels import attention_triton, tiles
from rag.kernels.attention_triton import advance
from rag.kernels.merge_triton import joined, merge_triton
from rag.kernels.selective_attention import with_sinks

if TYPE_CHECKING:
    from torch import Tensor


def cascade_triton(
    queries: Tensor,
    common_keys: Tensor,
    common_values: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    num_keys: Sequence[int],
    *,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """See ``cascade_decode.cascade_decode``."""
    import torch

    num_requests, num_heads, dim = queries.shape
    heads, num_common = common_keys.shape[:2]
    value_dim, group = common_values.shape[2], num_heads // heads
    device = queries.device
    if not num_requests:
        return queries.new_empty(0, num_heads, value_dim)
    everywhere = torch.full((num_requests,), num_common, device=device)
    common, common_lses = attention_triton.attend_states(
        queries.transpose(0, 1), common_keys, common_values, everywhere, num_common, scale, None, softcap, dtype=torch.float32
    )
    shape = tiles.shape_of("attention", group)
    tile = tiles.tile_for("attention", tiles.architecture(device), max(dim, value_dim), shape)
    longest = max(num_keys)
    splits = max(1, min(attention_triton.PROGRAMS // (num_requests * heads), longest // attention_triton.LEAST_KEYS))
    span = triton.cdiv(triton.cdiv(max(longest, 1), splits), tile.keys) * tile.keys
    splits = triton.cdiv(max(longest, 1), span)
    dtype = queries.dtype if splits == 1 else torch.float32
    outs = torch.empty(splits, num_requests, num_heads, value_dim, dtype=dtype, device=device)
    lses = torch.empty(splits, num_heads, num_requests, device=device)
    rows = table_of(keys, values, num_keys)
    aligned = all(number % 16 == 0 for row in rows for number in row[:-1]) and keys[0].data_ptr() % 16 == 0
    attend_own[(num_requests, heads, splits)](
        queries,
        torch.tensor(rows, device=device),
        keys[0],
        values[0],
        common,
        common_lses,
        outs,
        lses,
        scale,
        softcap or 1.0,
        len(common),
        span,
        *queries.stride()[:2],
        G=group,
        BM=max(16, triton.next_power_of_2(group)),
        D=dim,
        DP=max(16, triton.next_power_of_2(dim)),
        DV=value_dim,
        DVP=max(16, triton.next_power_of_2(value_dim)),
        BN=tile.keys,
        SOFTCAP=bool(softcap),
        ALIGNED=aligned,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    out, lse = (outs[0], lses[0]) if splits == 1 else merge_triton(outs, lses, queries.dtype)
    return with_sinks(out, lse, sinks)[0]


def table_of(keys: Sequence[Tensor], values: Sequence[Tensor], num_keys: Sequence[int]) -> list[list[int]]:
    """Per request where its keys and values lie, in numbers from those of the first, with their strides, and how many are to be read."""
    size = keys[0].element_size()
    return [
        [
            (own_keys.data_ptr() - keys[0].data_ptr()) // size,
            *own_keys.stride()[:2],
            (own_values.data_ptr() - values[0].data_ptr()) // size,
            *own_values.stride()[:2],
            count,
        ]
        for own_keys, own_values, count in zip(keys, values, num_keys, strict=True)
    ]


@triton.jit
def attend_own(
    queries,
    table,
    keys,
    values,
    common,
    common_lses,
    outs,
    lses,
    scale,
    softcap,
    num_common_parts,
    span,
    q_row,
    q_head,
    G: tl.constexpr,
    BM: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    DV: tl.constexpr,
    DVP: tl.constexpr,
    BN: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    request, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_requests, num_heads = tl.num_programs(0), tl.num_programs(1) * G
    job = table + request * 7
    key_at, key_head, key_row = tl.load(job), tl.load(job + 1), tl.load(job + 2).to(tl.int32)
    value_at, value_head, value_row = tl.load(job + 3), tl.load(job + 4), tl.load(job + 5).to(tl.int32)
    if ALIGNED:
        key_at, key_head, key_row = tl.multiple_of(key_at, 16), tl.multiple_of(key_head, 16), tl.multiple_of(key_row, 16)
        value_at, value_head, value_row = (
            tl.multiple_of(value_at, 16),
            tl.multiple_of(value_head, 16),
            tl.multiple_of(value_row, 16),
        )
    low = part * span
    high = tl.minimum(low + span, tl.load(job + 6).to(tl.int32))
    r, d, e, n = tl.arange(0, BM), tl.arange(0, DP), tl.arange(0, DVP), tl.arange(0, BN)
    ok = r < G
    q_base = queries + request.to(tl.int64) * q_row + head.to(tl.int64) * G * q_head
    q = tl.load(q_base + (r * q_head)[:, None] + d[None, :], mask=ok[:, None] & (d < D)[None, :], other=0.0)
    pos = tl.full((BM,), 2147483647, tl.int32)
    m = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DVP), tl.float32)
    k_tile = n[None, :] * key_row + d[:, None]
    v_tile = n[:, None] * value_row + e[None, :]
    k_base = keys + key_at + head * key_head + low.to(tl.int64) * key_row
    v_base = values + value_at + head * value_head + low.to(tl.int64) * value_row
    whole = low + tl.maximum(high - low, 0) // BN * BN
    for j in range(low, whole, BN):
        m, total, acc = advance(
            q, k_base, v_base, k_tile, v_tile, pos, j, high, m, total, acc, scale, softcap, 0,
            D, DP, DV, DVP, BN, False, False, SOFTCAP, True, PRECISION,
        )  # fmt: skip
        k_base += BN * key_row
        v_base += BN * value_row
    for j in range(whole, high, BN):
        m, total, acc = advance(
            q, k_base, v_base, k_tile, v_tile, pos, j, high, m, total, acc, scale, softcap, 0,
            D, DP, DV, DVP, BN, True, False, SOFTCAP, True, PRECISION,
        )  # fmt: skip
    m = m * 0.6931471805599453
    query_head = head * G + r
    if part == 0:
        place = (request * num_heads + query_head)[:, None] * DV + e[None, :]
        log_at = query_head * num_requests + request
        for _ in range(num_common_parts):
            log = tl.load(common_lses + log_at, mask=ok, other=float("-inf"))
            m, total, acc = joined(m, total, acc, log, common, place, ok[:, None] & (e < DV)[None, :])
            common_lses += num_requests * num_heads
            common += num_requests * num_heads * DV
    lse = tl.where(total == 0, float("-inf"), m + tl.log(total))
    tl.store(lses + (part * num_heads + query_head).to(tl.int64) * num_requests + request, lse, mask=ok)
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    at = (part.to(tl.int64) * num_requests + request) * num_heads + query_head
    tl.store(outs + at[:, None] * DV + e[None, :], acc.to(outs.dtype.element_ty), mask=ok[:, None] & (e < DV)[None, :])
