"""Assembly, codes and deviation of keys and values on a GPU: Triton kernels and their launchers. Knows addresses; checks no shape.

Assembly is one launch for all layers and pieces of a kind: a table holds, for every layer of every piece, where its rows lie (in numbers from
the first tensor) and where they go. All three read every byte once and are bound by that.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import triton
import triton.language as tl

from rag.kernels.assemble import LayerKV
from rag.kernels.rotate import Style

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK_TOKENS = 32
STYLES = {"none": 0, "half": 1, "interleaved": 2}
KINDS = {"plain": 0, "int8": 1, "int4": 2}


def assemble_triton(
    pieces: Sequence[Sequence[LayerKV]], starts: Sequence[int], cos: Tensor, sin: Tensor, style: Style, keys: Tensor, values: Tensor
) -> None:
    """See ``assemble.assemble_layers``."""
    import torch

    groups: dict[tuple[str, torch.dtype], list[tuple[int, int, LayerKV]]] = {}
    for layers, start in zip(pieces, starts, strict=True):
        for layer, piece in enumerate(layers):
            if piece.num_tokens:
                groups.setdefault((piece.kind, piece.keys.dtype), []).append((layer, start, piece))
    key_dim, value_dim = keys.shape[3], values.shape[3]
    pairs = 0 if style == "none" else cos.shape[1]
    turns = [keys, keys] if style == "none" else [cos.float().contiguous(), sin.float().contiguous()]
    for (kind, _), group in groups.items():
        held, rows, first = _table(group, keys)
        aligned = all(row[column] % 16 == 0 for row in rows for column in (4, 5, 6, 8, 9, 10)) and first[0].data_ptr() % 16 == 0
        longest = max(piece.num_tokens for _, _, piece in group)
        assemble_rows[(len(rows), triton.cdiv(longest, BLOCK_TOKENS), keys.shape[1])](
            torch.tensor(rows, device=keys.device),
            *first,
            *turns,
            keys,
            values,
            *keys.stride()[:3],
            *values.stride()[:3],
            D=key_dim,
            DV=value_dim,
            DVP=triton.next_power_of_2(value_dim),
            PAIRS=pairs,
            PAIRSP=triton.next_power_of_2(max(pairs, 1)),
            RESTP=triton.next_power_of_2(max(key_dim - 2 * pairs, 1)),
            BT=BLOCK_TOKENS,
            KIND=KINDS[kind],
            STYLE=STYLES[style],
            ALIGNED=aligned,
            num_warps=4,
        )
        del held


def _table(group: Sequence[tuple[int, int, LayerKV]], other: Tensor) -> tuple[list[Tensor], list[list[int]], tuple[Tensor, Tensor]]:
    """What must stay alive, rows of the table, and the tensors that keys, values and scales are counted from."""
    held: list[Tensor] = []
    rows = []
    size, base = group[0][2].keys.element_size(), group[0][2].keys
    for layer, start, piece in group:
        scales = [base, base]
        if piece.key_scales is not None and piece.value_scales is not None:
            scales = [piece.key_scales.float().contiguous(), piece.value_scales.float().contiguous()]
            held += scales
        origin = held[0] if held else base
        places = [(tensor.data_ptr() - base.data_ptr()) // size for tensor in (piece.keys, piece.values)]
        marks = [(tensor.data_ptr() - origin.data_ptr()) // 4 for tensor in scales]
        rows.append(
            [
                layer,
                start,
                piece.num_tokens,
                0,
                places[0],
                *piece.keys.stride()[:2],
                marks[0],
                places[1],
                *piece.values.stride()[:2],
                marks[1],
            ]
        )
    return held, rows, (base, held[0] if held else other)


@triton.jit
def _read(base, rows, dims, ok, ALL: tl.constexpr, KIND: tl.constexpr):
    """Numbers of the stored rows, not yet scaled."""
    if KIND == 2:
        code = tl.load(base + rows[:, None] + (dims % (ALL // 2))[None, :], mask=ok, other=0).to(tl.int32)
        x = ((code >> tl.where(dims >= ALL // 2, 4, 0)[None, :]) & 15).to(tl.float32) - 8.0
    else:
        x = tl.load(base + rows[:, None] + dims[None, :], mask=ok, other=0).to(tl.float32)
    return x


@triton.jit
def assemble_rows(
    table,
    stored,
    scales,
    cos,
    sin,
    keys,
    values,
    k_layer,
    k_head,
    k_row,
    v_layer,
    v_head,
    v_row,
    D: tl.constexpr,
    DV: tl.constexpr,
    DVP: tl.constexpr,
    PAIRS: tl.constexpr,
    PAIRSP: tl.constexpr,
    RESTP: tl.constexpr,
    BT: tl.constexpr,
    KIND: tl.constexpr,
    STYLE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    job = table + tl.program_id(0) * 12
    head = tl.program_id(2).to(tl.int64)
    layer, start, tokens = tl.load(job), tl.load(job + 1), tl.load(job + 2)
    key_at, key_head, key_row = tl.load(job + 4), tl.load(job + 5), tl.load(job + 6)
    value_at, value_head, value_row = tl.load(job + 8), tl.load(job + 9), tl.load(job + 10)
    if ALIGNED:
        key_at, key_head, key_row = tl.multiple_of(key_at, 16), tl.multiple_of(key_head, 16), tl.multiple_of(key_row, 16)
        value_at, value_head, value_row = (
            tl.multiple_of(value_at, 16),
            tl.multiple_of(value_head, 16),
            tl.multiple_of(value_row, 16),
        )
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    ok = (t < tokens)[:, None]
    key_base = stored + key_at + head * key_head
    key_rows = t.to(tl.int64) * key_row
    key_scales = scales + tl.load(job + 7) + head * D
    out = keys + layer * k_layer + head * k_head + start * k_row
    out_rows = (t * k_row)[:, None]
    if STYLE > 0:
        pair = tl.arange(0, PAIRSP)
        both = ok & (pair < PAIRS)[None, :]
        first = pair if STYLE == 1 else 2 * pair
        second = pair + PAIRS if STYLE == 1 else 2 * pair + 1
        a = _read(key_base, key_rows, first, both, D, KIND)
        b = _read(key_base, key_rows, second, both, D, KIND)
        if KIND > 0:
            a = a * tl.load(key_scales + first, mask=pair < PAIRS, other=0.0)[None, :]
            b = b * tl.load(key_scales + second, mask=pair < PAIRS, other=0.0)[None, :]
        turn = (start + t)[:, None] * PAIRS + pair[None, :]
        c, s = tl.load(cos + turn, mask=both, other=0.0), tl.load(sin + turn, mask=both, other=0.0)
        tl.store(out + out_rows + first[None, :], (a * c - b * s).to(keys.dtype.element_ty), mask=both)
        tl.store(out + out_rows + second[None, :], (b * c + a * s).to(keys.dtype.element_ty), mask=both)
    if 2 * PAIRS < D:
        rest = 2 * PAIRS + tl.arange(0, RESTP)
        left = ok & (rest < D)[None, :]
        x = _read(key_base, key_rows, rest, left, D, KIND)
        if KIND > 0:
            x = x * tl.load(key_scales + rest, mask=rest < D, other=0.0)[None, :]
        tl.store(out + out_rows + rest[None, :], x.to(keys.dtype.element_ty), mask=left)
    e = tl.arange(0, DVP)
    whole = ok & (e < DV)[None, :]
    y = _read(stored + value_at + head * value_head, t.to(tl.int64) * value_row, e, whole, DV, KIND)
    if KIND > 0:
        y = y * tl.load(scales + tl.load(job + 11) + head * tokens + t, mask=t < tokens, other=0.0)[:, None]
    out = values + layer * v_layer + head * v_head + start * v_row
    tl.store(out + (t * v_row)[:, None] + e[None, :], y.to(values.dtype.element_ty), mask=whole)


def kv_deviation_triton(new_keys: Tensor, new_values: Tensor, old_keys: Tensor, old_values: Tensor, part: str) -> Tensor:
    """See ``deviation.kv_deviation``."""
    import torch

    total = torch.zeros(new_keys.shape[1], device=new_keys.device)
    for new, old, words in ((new_keys, old_keys, ("k", "kv")), (new_values, old_values, ("v", "kv"))):
        if part in words and len(total):
            deviations[(triton.cdiv(len(total), 16),)](
                new, old, total, len(total), new.shape[0], *new.stride()[:2], *old.stride()[:2],
                D=new.shape[2], DP=triton.next_power_of_2(new.shape[2]), BT=16, num_warps=4,
            )  # fmt: skip
    return total


@triton.jit
def deviations(
    new, old, total, tokens, heads, new_head, new_row, old_head, old_row, D: tl.constexpr, DP: tl.constexpr, BT: tl.constexpr
):
    t, d = tl.program_id(0) * BT + tl.arange(0, BT), tl.arange(0, DP)
    ok = (t < tokens)[:, None] & (d < D)[None, :]
    acc = tl.zeros((BT, DP), tl.float32)
    for _ in range(heads):
        x = tl.load(new + (t * new_row)[:, None] + d[None, :], mask=ok, other=0.0).to(tl.float32)
        y = tl.load(old + (t * old_row)[:, None] + d[None, :], mask=ok, other=0.0).to(tl.float32)
        acc += (x - y) * (x - y)
        new += new_head
        old += old_head
    before = tl.load(total + t, mask=t < tokens, other=0.0)
    tl.store(total + t, before + tl.sum(acc, 1), mask=t < tokens)


def quantise_triton(keys: Tensor, values: Tensor, kind: Literal["int8", "int4"]) -> LayerKV:
    """See ``quantise.quantise_kv``; codes are those of the reference, bit for bit."""
    import torch

    found: list[tuple[Tensor, Tensor]] = []
    for x, by_token in ((keys.contiguous(), False), (values.contiguous(), True)):
        *lead, tokens, dim = x.shape
        scales = torch.zeros(*lead, tokens if by_token else dim, device=x.device)
        width, code = (dim, torch.int8) if kind == "int8" else (dim // 2, torch.uint8)
        codes = torch.empty(*lead, tokens, width, dtype=code, device=x.device)
        if x.numel():
            quantise_rows[(x.numel() // (tokens * dim),)](
                x, codes, scales, tokens, D=dim, INT4=kind == "int4", BY_TOKEN=by_token, num_warps=4,
            )  # fmt: skip
        found.append((codes, scales))
    return LayerKV(found[0][0], found[1][0], found[0][1], found[1][1], kind)


@triton.jit
def _levels(x, scale, LEVELS: tl.constexpr):
    """Whole numbers, half to even: 1.5 * 2^23 leaves no place for a fraction."""
    x = tl.where(scale > 0, tl.div_rn(x, tl.where(scale > 0, scale, 1.0)), 0.0)
    return tl.minimum(tl.maximum((x + 12582912.0) - 12582912.0, -LEVELS), LEVELS)


@triton.jit
def quantise_rows(x, codes, scales, tokens, D: tl.constexpr, INT4: tl.constexpr, BY_TOKEN: tl.constexpr):
    WIDTH: tl.constexpr = D // 2 if INT4 else D
    head = tl.program_id(0).to(tl.int64)
    scales += head * tokens if BY_TOKEN else head * D
    code_rows(x + head * tokens * D, D, codes + head * tokens * WIDTH, WIDTH, scales, tokens, D, INT4, BY_TOKEN)


@triton.jit
def code_rows(base, x_row, codes, code_row, scales, tokens, D: tl.constexpr, INT4: tl.constexpr, BY_TOKEN: tl.constexpr):
    """Codes and scales of the ``tokens`` rows of one head: a scale a token, or a scale a channel, whose maximum is a first read of the rows."""
    LEVELS: tl.constexpr = 7.0 if INT4 else 127.0
    WIDTH: tl.constexpr = D // 2 if INT4 else D
    WP: tl.constexpr = triton.next_power_of_2(WIDTH)
    BT: tl.constexpr = 32
    d = tl.arange(0, WP)
    most = tl.zeros((WP,), tl.float32)
    most_high = tl.zeros((WP,), tl.float32)
    if not BY_TOKEN:
        for start in range(0, tokens, BT):
            t = start + tl.arange(0, BT)
            ok = (t < tokens)[:, None] & (d < WIDTH)[None, :]
            a = tl.load(base + (t * x_row)[:, None] + d[None, :], mask=ok, other=0.0).to(tl.float32)
            most = tl.maximum(most, tl.max(tl.abs(a), 0))
            if INT4:
                b = tl.load(base + (t * x_row)[:, None] + d[None, :] + WIDTH, mask=ok, other=0.0).to(tl.float32)
                most_high = tl.maximum(most_high, tl.max(tl.abs(b), 0))
        most, most_high = tl.div_rn(most, LEVELS), tl.div_rn(most_high, LEVELS)
        tl.store(scales + d, most, mask=d < WIDTH)
        if INT4:
            tl.store(scales + d + WIDTH, most_high, mask=d < WIDTH)
    for start in range(0, tokens, BT):
        t = start + tl.arange(0, BT)
        ok = (t < tokens)[:, None] & (d < WIDTH)[None, :]
        a = tl.load(base + (t * x_row)[:, None] + d[None, :], mask=ok, other=0.0).to(tl.float32)
        b = a
        if INT4:
            b = tl.load(base + (t * x_row)[:, None] + d[None, :] + WIDTH, mask=ok, other=0.0).to(tl.float32)
        if BY_TOKEN:
            scale = tl.div_rn(tl.maximum(tl.max(tl.abs(a), 1), tl.max(tl.abs(b), 1)), LEVELS)
            tl.store(scales + t, scale, mask=t < tokens)
            low, high = _levels(a, scale[:, None], LEVELS), _levels(b, scale[:, None], LEVELS)
        else:
            low, high = _levels(a, most[None, :], LEVELS), _levels(b, most_high[None, :], LEVELS)
        if INT4:
            code = ((low + 8.0).to(tl.int32) | ((high + 8.0).to(tl.int32) << 4)).to(tl.uint8)
        else:
            code = low.to(tl.int8)
        tl.store(codes + (t * code_row)[:, None] + d[None, :], code, mask=ok)
