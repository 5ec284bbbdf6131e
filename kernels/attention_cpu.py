"""Attention by position in memory: tiles of query tokens, each over the keys that its last one may see. Knows tiles; checks no shape.

A tile is some tokens of all heads, the heads that share a key head folded into rows. Keys that every row of the tile sees go through torch's
flash attention without a mask, those at the tile's edge with one, and the two states are merged. Tiles are apart from each other, so
every thread has tiles of its own (see ``crew``). Few rows go another way (``few_rows_cpu``), and so do capped scores: scores as a whole, in
float32 for bfloat16 tensors too, because their rounding would be an error of some percent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kernels.crew import each
from rag.kernels.selective_attention import merge_states

if TYPE_CHECKING:
    from torch import Tensor

TILE_ROWS = 512
FEW_ROWS = 16


def attention_cpu(
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
    tokens = max(1, (FEW_ROWS if last - first <= FEW_ROWS // group else TILE_ROWS) // group)

    def attend(start: int) -> None:
        tile = slice(start, min(start + tokens, last))
        rows = queries[:, tile].reshape(heads, -1, key_dim)
        if last - first <= FEW_ROWS // group:
            found, logs = _few(rows, keys, values, positions[tile], num_keys, scale, window, softcap)
        elif softcap or key_dim != value_dim:
            found, logs = _whole(rows, keys, values, positions[tile], num_keys, scale, window, softcap)
        else:
            found, logs = _flash(rows, keys, values, positions[tile], num_keys, scale, window)
        out[tile] = found.reshape(num_heads, -1, value_dim).transpose(0, 1)
        lse[:, tile] = logs.reshape(num_heads, -1)

    each(range(first + (last - first - 1) // tokens * tokens, first - 1, -tokens), attend)  # the longest first
    if sinks is not None:
        before, lse = lse, torch.logaddexp(lse, sinks.float()[:, None])
        out.mul_(torch.exp(before - lse).T[:, :, None])
    return out, lse


def seeing_rows(positions: Tensor, num_keys: int, window: int | None) -> tuple[int, int]:
    """The rows that see a key at all: one range, as positions ascend."""
    first = int((positions < 0).sum())
    last = int((positions < num_keys + window - 1).sum()) if window else len(positions)
    return (first, last) if num_keys and first < last else (0, 0)


def seen_keys(positions: Tensor, num_keys: int, window: int | None) -> tuple[int, int, int]:
    """``begin, common, end``: no row sees keys outside ``begin .. end``, every row sees ``begin .. common`` (with a window that is empty).

    Between ``common`` and ``end`` every row sees at least one key, if there is one.
    """
    end = min(num_keys, int(positions[-1]) + 1)
    if window:
        begin = max(0, int(positions[0]) - window + 1)
        return begin, begin, end
    return 0, min(end, int(positions[0])), end


def hidden_keys(positions: Tensor, begin: int, end: int, window: int | None) -> Tensor:
    """Bool ``(rows, end - begin)``: what each row does not see."""
    import torch

    key = torch.arange(begin, end)
    hidden = key > positions[:, None]
    return hidden | (key <= positions[:, None] - window) if window else hidden


def tile_scores(
    rows: Tensor, keys: Tensor, positions: Tensor, *, num_keys: int, scale: float, window: int | None, softcap: float | None
) -> tuple[Tensor, int, int]:
    """Scores float32 ``(Hkv, group * tokens, end - begin)`` of ``rows`` with keys ``begin .. end``, hidden ones minus infinity."""
    begin, common, end = seen_keys(positions, num_keys, window)
    scores = (rows.float() * scale) @ keys[:, begin:end].float().transpose(1, 2)
    if softcap:
        scores.div_(softcap).tanh_().mul_(softcap)
    by_token = scores.view(len(rows), -1, len(positions), end - begin)
    by_token[..., common - begin :].masked_fill_(hidden_keys(positions, common, end, window), float("-inf"))
    return scores, begin, end


def _flash(
    rows: Tensor, keys: Tensor, values: Tensor, positions: Tensor, num_keys: int, scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    import torch

    begin, common, end = seen_keys(positions, num_keys, window)
    outs, lses = [], []
    for low, high in ((begin, common), (common, end)):
        if low == high:
            continue
        mask = None
        if low == common:
            mask = torch.zeros(len(positions), high - low, dtype=rows.dtype)
            mask.masked_fill_(hidden_keys(positions, low, high, window), float("-inf"))
            mask = mask.repeat(rows.shape[1] // len(positions), 1)[None, None]
        found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            rows[None], keys[None, :, low:high], values[None, :, low:high], attn_mask=mask, scale=scale
        )
        outs.append(found[0].transpose(0, 1))
        lses.append(logs.view(rows.shape[:2]))
    if len(outs) == 1:
        return outs[0].transpose(0, 1), lses[0]
    merged, total = merge_states(outs, lses)
    return merged.transpose(0, 1), total


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
    import torch

    scores, begin, end = tile_scores(rows, keys, positions, num_keys=num_keys, scale=scale, window=window, softcap=softcap)
    largest = scores.amax(2)
    weights = torch.softmax(scores, 2, out=scores)
    logs = largest - weights.amax(2).log()  # the largest weight is exp(largest - lse)
    return weights @ values[:, begin:end].float(), logs


def _few(
    rows: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    import torch

    from rag.kernels.few_rows_cpu import few_rows
    from rag.kernels.numbers_cpu import bits

    group = rows.shape[1] // len(positions)
    until = (positions + 1).clamp(max=num_keys).repeat(group)
    since = (positions - window + 1).clamp(min=0).repeat(group) if window else torch.zeros_like(until)
    found, logs = few_rows((rows.float() * scale).numpy(), bits(keys), bits(values), since.numpy(), until.numpy(), softcap or 0.0)
    return torch.from_numpy(found), torch.from_numpy(logs)
