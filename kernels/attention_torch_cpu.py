"""Attention by position in memory with torch's products: tiles of query tokens, each over the keys that its last one may see. Knows tiles; checks no shape.

For processors that ``attention_tiles_cpu`` has no registers on. All positions of a prompt, of which nothing can be left out, are one call of torch's.
Else a tile is some tokens of some heads, the query heads that share a key head folded into rows: keys are read once, not once a
query head. It is divided into rectangles (see ``visibility``): torch's flash attention without a mask where all rows see all keys, with one at the
edge, and ``merge_states`` in the end. Where the processor has no registers for tiles of bfloat16, a tile is computed in float32: torch is a little
faster at it, and rounds nothing on the way. Tiles are apart from each other, so every thread has tiles of its own (see ``crew``). Capped scores go
another way: scores as a whole, in float32 for bfloat16 tensors too, because their rounding would be an error of some percent.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rag.kernels.choose import multiplies_bfloat16_tiles
from rag.kernels.crew import each
from rag.kernels.selective_attention import with_sinks
from rag.kernels.visibility import hidden_keys, rectangles, seeing_rows, seen_keys

if TYPE_CHECKING:
    from torch import Tensor

TILE_ROWS = 1024
"""Rows of a tile: tokens times query heads of a key head. Torch's products are a tenth faster from some 768 rows on."""
EDGE_ROWS = 128
"""Rows that share a mask where they see unlike keys."""
SCORE_ROWS = 256
"""Rows of a tile whose scores are held as a whole."""


def attention_torch_cpu(
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
    """Output and logarithm of the denominator; see ``selective_attention.selective_attention``. Float32 or bfloat16."""
    import torch

    num_heads, num_tokens, key_dim = queries.shape
    heads, value_dim = keys.shape[0], values.shape[2]
    group = num_heads // heads
    out = queries.new_zeros(num_tokens, num_heads, value_dim)
    lse = torch.full((num_heads, num_tokens), float("-inf"))
    first, last = seeing_rows(positions, num_keys, window)
    span = int(positions[last - 1] - positions[first]) + 1 if first < last else 0
    if span == num_tokens == num_keys and not (window or softcap) and key_dim == value_dim:  # so the first position is 0
        found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries[None], keys[None, :, :num_keys], values[None, :, :num_keys], is_causal=True, scale=scale
        )
        return with_sinks(found[0].transpose(0, 1).contiguous(), logs.view(num_heads, num_tokens), sinks)
    whole = bool(softcap) or key_dim != value_dim
    tokens = max(1, (SCORE_ROWS if whole else TILE_ROWS) // group)
    step = -(-heads // torch.get_num_threads())

    def attend(tile: tuple[int, int]) -> None:
        start, head = tile
        rows, some = slice(start, min(start + tokens, last)), slice(head, min(head + step, heads))
        attention = partial(_whole, softcap=softcap) if whole else _flash
        folded = asked[some, :, rows].transpose(1, 2).flatten(1, 2)
        found, logs = attention(folded, keys[some], values[some], positions[rows], num_keys, scale, window)
        outs[rows, some] = found.view(-1, group, len(folded), value_dim).transpose(1, 2)
        lses[some, :, rows] = logs.view(len(folded), -1, group).transpose(1, 2)

    asked = queries.view(heads, group, num_tokens, key_dim)
    outs, lses = out.view(num_tokens, heads, group, value_dim), lse.view(heads, group, num_tokens)
    latest_first = range(first + (last - first - 1) // tokens * tokens, first - 1, -tokens)
    each([(start, head) for start in latest_first for head in range(0, heads, step)], attend)
    return with_sinks(out, lse, sinks)


def one_token_torch_cpu(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """``(1, Hq, D)`` and ``(Hq, 1)`` of ``queries`` ``(Hq, 1, D)`` that see all ``keys``, one at least: the query heads of a key head are the rows of one call, so
    each key is read once, not once a query head. Its threads wait actively, so it may have some where waking ours takes longer than the work."""
    import torch

    num_heads, _, dim = queries.shape
    folded = queries.reshape(1, len(keys), -1, dim)
    found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(folded, keys[None], values[None], scale=scale)
    return found.reshape(1, num_heads, dim), logs.reshape(num_heads, 1)


def tile_scores(
    rows: Tensor, keys: Tensor, positions: Tensor, *, num_keys: int, scale: float, window: int | None, softcap: float | None
) -> tuple[Tensor, int, int]:
    """Scores float32 ``(Hkv, tokens * group, end - begin)`` of ``rows`` ``(Hkv, tokens * group, D)`` with keys ``begin .. end``, hidden ones minus infinity."""
    begin, common, end = seen_keys(positions, num_keys, window)
    scores = (rows.float() * scale) @ keys[:, begin:end].float().transpose(1, 2)
    if softcap:
        scores.div_(softcap).tanh_().mul_(softcap)
    by_token = scores.view(len(rows), len(positions), -1, end - begin)
    by_token[..., common - begin :].masked_fill_(hidden_keys(positions, common, end, window)[:, None], float("-inf"))
    return scores, begin, end


def _flash(
    rows: Tensor, keys: Tensor, values: Tensor, positions: Tensor, num_keys: int, scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """Of ``rows`` ``(Hkv, T * group, D)``: ``(T * group, Hkv, D)`` and ``(Hkv, T * group)``, rectangle by rectangle, then merged in one pass."""
    import torch

    from rag.kernels.merge_states import merge_states

    if rows.dtype == torch.bfloat16 and not multiplies_bfloat16_tiles():
        begin, _, end = seen_keys(positions, num_keys, window)
        near = positions - begin
        return _flash(rows.float(), keys[:, begin:end].float(), values[:, begin:end].float(), near, end - begin, scale, window)
    heads, num_rows, dim = rows.shape
    group = num_rows // len(positions)
    outs: list[Tensor] = []
    lses: list[Tensor] = []
    num_states = [0] * len(positions)
    for first, last, begin, end, whole in rectangles(positions.tolist(), num_keys, window, max(1, EDGE_ROWS // group)):
        some, mask = slice(first * group, last * group), None
        if not whole:
            hidden = hidden_keys(positions[first:last], begin, end, window)
            mask = torch.zeros(hidden.shape, dtype=rows.dtype).masked_fill_(hidden, float("-inf"))
            mask = mask[:, None].expand(-1, group, -1).flatten(0, 1)[None, None]
        found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            rows[None, :, some], keys[None, :, begin:end], values[None, :, begin:end], attn_mask=mask, scale=scale
        )
        out, lse = found[0].transpose(0, 1), logs.view(heads, -1)
        number = max(num_states[first:last])
        num_states[first:last] = [number + 1] * (last - first)
        if number < len(outs):
            outs[number][some], lses[number][:, some] = out, lse
        elif len(out) == num_rows:
            outs.append(out)
            lses.append(lse)
        else:
            outs.append(rows.new_empty(num_rows, heads, dim))
            lses.append(torch.full((heads, num_rows), float("-inf")))
            outs[number][some], lses[number][:, some] = out, lse
    return merge_states(outs, lses) if len(outs) > 1 else (outs[0], lses[0])


def _whole(
    rows: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """As ``_flash``, through all scores of the tile."""
    import torch

    scores, begin, end = tile_scores(rows, keys, positions, num_keys=num_keys, scale=scale, window=window, softcap=softcap)
    largest = scores.amax(2)
    weights = torch.softmax(scores, 2, out=scores)
    logs = largest - weights.amax(2).log()  # the largest weight is exp(largest - lse)
    return (weights @ values[:, begin:end].float()).transpose(0, 1).to(rows.dtype), logs
