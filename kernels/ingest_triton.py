"""Chunk prefill on a GPU: attention with rotation and the write of keys and values in one launch. Knows tiles; checks no shape.

A program takes a tile of one chunk's tokens with the query heads of one key head. Queries and keys are rotated in registers where they are
read: a pair's two halves are loaded apart, turned, and enter the products as two operands, so a rotated key is never written. The first programs
of the launch write what is kept instead, one chunk of one head each; what they read the others read from the cache. See ``ingest_prefill``.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from rag.kernels import tiles
from rag.kernels.assemble import LayerKV
from rag.kernels.assemble_triton import KINDS, STYLES, code_rows
from rag.kernels.attention_triton import weighed
from rag.kernels.rotate import Style
from rag.kernels.selective_attention import with_sinks

if TYPE_CHECKING:
    from torch import Tensor


def ingest_triton(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    borders: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    style: Style,
    into: LayerKV,
    *,
    before: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """See ``ingest_prefill.ingest_prefill``."""
    import torch

    num_heads, tokens, dim = queries.shape
    heads, value_dim = keys.shape[0], values.shape[2]
    out = torch.empty(tokens, num_heads, value_dim, dtype=queries.dtype, device=queries.device)
    lse = torch.empty(num_heads, tokens, device=queries.device)
    if not tokens:
        return out
    group = num_heads // heads
    packed = triton.next_power_of_2(group)
    tile = tiles.tile_for("ingest", tiles.architecture(queries.device), max(dim, value_dim))
    tile_tokens = max(1, tile.rows // packed)
    table = _table(borders, tile_tokens)
    old_keys, old_values = before or (keys, values)
    pairs = 0 if style == "none" else cos.shape[1]
    rest = dim - 2 * pairs
    turns = [queries, queries] if style == "none" else [cos.float().contiguous(), sin.float().contiguous()]
    ingest_rows[(len(table), heads)](
        torch.tensor(table, dtype=torch.int32, device=queries.device),
        queries, keys, values, old_keys, old_values, *turns, out, lse,
        into.keys, into.values,
        out if into.key_scales is None else into.key_scales,
        out if into.value_scales is None else into.value_scales,
        scale, softcap or 1.0, len(borders) - 1, tokens, old_keys.shape[1] if before else 0, window or 0,
        *queries.stride()[:2], *keys.stride()[:2], *values.stride()[:2], *old_keys.stride()[:2], *old_values.stride()[:2],
        *into.keys.stride()[:2], *into.values.stride()[:2],
        G=group, GP=packed, D=dim, DV=value_dim, DVP=max(16, triton.next_power_of_2(value_dim)),
        PAIRS=pairs, PAIRSP=max(16, triton.next_power_of_2(pairs)), REST=rest, RESTP=max(16, triton.next_power_of_2(rest)),
        BQ=tile_tokens, BN=tile.keys, STYLE=STYLES[style], KIND=KINDS[into.kind],
        WINDOW=bool(window), SOFTCAP=bool(softcap), PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return with_sinks(out, lse, sinks)[0]


def _table(borders: Sequence[int], tile_tokens: int) -> list[list[int]]:
    """Rows (first row of the chunk, its length, first token of the tile): first a row a chunk, whose keys are written, then the tiles, longest first."""
    chunks = [(first, last - first) for first, last in pairwise(borders)]
    tiles = [[first, length, token] for first, length in chunks for token in range(0, length, tile_tokens)]
    return [[first, length, 0] for first, length in chunks] + sorted(tiles, key=lambda tile: -tile[2])


@triton.jit
def _turned(base, rows, at_rows, ok_rows, place, cos, sin, position, PAIRS: tl.constexpr, STYLE: tl.constexpr, TURN: tl.constexpr):
    """The two halves of the pairs of some rows, ``place`` along the other axis; turned to ``position`` and rounded as stored, or as they are."""
    first = place if STYLE == 1 else 2 * place
    second = place + PAIRS if STYLE == 1 else 2 * place + 1
    ok = ok_rows & (place < PAIRS)
    a, b = tl.load(base + at_rows + first, mask=ok, other=0.0), tl.load(base + at_rows + second, mask=ok, other=0.0)
    if TURN:
        at = position * PAIRS + place
        c, s = tl.load(cos + at, mask=ok, other=0.0), tl.load(sin + at, mask=ok, other=0.0)
        x, y = a.to(tl.float32), b.to(tl.float32)
        a, b = (x * c - y * s).to(rows.dtype.element_ty), (y * c + x * s).to(rows.dtype.element_ty)
    return a, b


@triton.jit
def _over(
    qa, qb, qr, k_base, v_base, k_row, v_row, cos, sin, pos, shift, low, high, m, total, acc, scale, softcap, window,
    D: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr, PAIRS: tl.constexpr, PAIRSP: tl.constexpr, REST: tl.constexpr,
    RESTP: tl.constexpr, BN: tl.constexpr, STYLE: tl.constexpr, TURN: tl.constexpr, MASKED: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The running state after keys ``low .. high``; key j stands at position ``shift + j``."""
    n, e = tl.arange(0, BN), tl.arange(0, DVP)
    for j in range(low, high, BN):
        real = j + n < high
        rows = (n * k_row)[None, :]
        k_at = k_base + tl.cast(j, tl.int64) * k_row
        x = tl.zeros((pos.shape[0], BN), tl.float32)
        if STYLE > 0:
            place = tl.arange(0, PAIRSP)[:, None]
            ka, kb = _turned(k_at, k_base, rows, real[None, :], place, cos, sin, (shift + j + n)[None, :], PAIRS, STYLE, TURN)
            x = tl.dot(qb, kb, tl.dot(qa, ka, x, input_precision=PRECISION), input_precision=PRECISION)
        if REST > 0:
            left = tl.arange(0, RESTP)[:, None]
            kr = tl.load(k_at + rows + 2 * PAIRS + left, mask=real[None, :] & (left < REST), other=0.0)
            x = tl.dot(qr, kr, x, input_precision=PRECISION)
        x = x * scale
        if SOFTCAP:
            x = softcap * (2.0 / (1.0 + tl.exp(-2.0 * (x / softcap))) - 1.0)
        x = x * 1.4426950408889634
        if MASKED:
            key = shift + j + n
            seen = real[None, :] & (pos[:, None] >= key[None, :])
            if WINDOW:
                seen = seen & (key[None, :] > pos[:, None] - window)
            x = tl.where(seen, x, float("-inf"))
        m, p, fade, total = weighed(x, m, total)
        v = tl.load(
            v_base + tl.cast(j, tl.int64) * v_row + (n * v_row)[:, None] + e[None, :],
            mask=real[:, None] & (e < DV)[None, :],
            other=0.0,
        )
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
    return m, total, acc


@triton.jit
def ingest_rows(
    table, queries, keys, values, old_keys, old_values, cos, sin, out, lses, kept_keys, kept_values, key_scales, value_scales,
    scale, softcap, num_chunks, tokens, num_before, window,
    q_head, q_row, k_head, k_row, v_head, v_row, ok_head, ok_row, ov_head, ov_row, kk_head, kk_row, kv_head, kv_row,
    G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr, PAIRS: tl.constexpr,
    PAIRSP: tl.constexpr, REST: tl.constexpr, RESTP: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr, STYLE: tl.constexpr,
    KIND: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    job, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, length, token0 = tl.load(table + 3 * job), tl.load(table + 3 * job + 1), tl.load(table + 3 * job + 2)
    k_base = keys + head * k_head + start.to(tl.int64) * k_row
    v_base = values + head * v_head + start.to(tl.int64) * v_row
    if job < num_chunks:
        key_out = kept_keys + head * kk_head + start.to(tl.int64) * kk_row
        value_out = kept_values + head * kv_head + start.to(tl.int64) * kv_row
        if KIND == 0:
            _copy(k_base, k_row, key_out, kk_row, length, D)
            _copy(v_base, v_row, value_out, kv_row, length, DV)
        else:
            scales = key_scales + (job * tl.num_programs(1) + head) * D
            code_rows(k_base, k_row, key_out, kk_row, scales, length, D, KIND == 2, False)
            code_rows(v_base, v_row, value_out, kv_row, value_scales + head * tokens + start, length, DV, KIND == 2, True)
    else:
        r, e = tl.arange(0, BQ * GP), tl.arange(0, DVP)
        token = token0 + r // GP
        there = (token < length) & (r % GP < G)
        pos = tl.where(there, num_before + token, -1)
        q_base = queries + head * G * q_head + (start + token0).to(tl.int64) * q_row
        q_rows = (r // GP * q_row + (r % GP).to(tl.int64) * q_head)[:, None]
        qa, qb, qr = 0.0, 0.0, 0.0
        if STYLE > 0:
            place = tl.arange(0, PAIRSP)[None, :]
            qa, qb = _turned(q_base, queries, q_rows, there[:, None], place, cos, sin, pos[:, None], PAIRS, STYLE, True)
        if REST > 0:
            left = tl.arange(0, RESTP)[None, :]
            qr = tl.load(q_base + q_rows + 2 * PAIRS + left, mask=there[:, None] & (left < REST), other=0.0)
        m = tl.full((BQ * GP,), float("-inf"), tl.float32)
        total = tl.zeros((BQ * GP,), tl.float32)
        acc = tl.zeros((BQ * GP, DVP), tl.float32)
        first_old, first_own = 0, 0
        if WINDOW:
            first_old = tl.minimum(tl.maximum(num_before + token0 - window + 1, 0), num_before)
            first_own = tl.maximum(token0 - window + 1, 0) // BN * BN
        m, total, acc = _over(
            qa, qb, qr, old_keys + head * ok_head, old_values + head * ov_head, ok_row, ov_row, cos, sin, pos, 0, first_old, num_before,
            m, total, acc, scale, softcap, window,
            D, DV, DVP, PAIRS, PAIRSP, REST, RESTP, BN, STYLE, False, True, WINDOW, SOFTCAP, PRECISION,
        )  # fmt: skip
        free = first_own
        if not WINDOW:
            free = token0 // BN * BN
            m, total, acc = _over(
                qa, qb, qr, k_base, v_base, k_row, v_row, cos, sin, pos, num_before, 0, free, m, total, acc, scale, softcap, window,
                D, DV, DVP, PAIRS, PAIRSP, REST, RESTP, BN, STYLE, True, False, WINDOW, SOFTCAP, PRECISION,
            )  # fmt: skip
        m, total, acc = _over(
            qa, qb, qr, k_base, v_base, k_row, v_row, cos, sin, pos, num_before, free, tl.minimum(token0 + BQ, length),
            m, total, acc, scale, softcap, window,
            D, DV, DVP, PAIRS, PAIRSP, REST, RESTP, BN, STYLE, True, True, WINDOW, SOFTCAP, PRECISION,
        )  # fmt: skip
        row, query_head = start + token, head * G + r % GP
        lse = tl.where(total == 0, float("-inf"), m * 0.6931471805599453 + tl.log(tl.where(total == 0, 1.0, total)))
        tl.store(lses + query_head * tokens + row, lse, mask=there)
        acc = acc / tl.where(total == 0, 1.0, total)[:, None]
        at = (row.to(tl.int64) * tl.num_programs(1) * G + query_head)[:, None] * DV + e[None, :]
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=there[:, None] & (e < DV)[None, :])


@triton.jit
def _copy(source, source_row, target, target_row, tokens, D: tl.constexpr):
    DP: tl.constexpr = triton.next_power_of_2(D)
    d, b = tl.arange(0, DP), tl.arange(0, 32)
    for start in range(0, tokens, 32):
        t = start + b
        ok = (t < tokens)[:, None] & (d < D)[None, :]
        tl.store(
            target + (t * target_row)[:, None] + d[None, :],
            tl.load(source + (t * source_row)[:, None] + d[None, :], mask=ok),
            mask=ok,
        )
