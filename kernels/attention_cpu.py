"""Attention by position in memory: tiles of query tokens, each over the keys that its last one may see. Knows tiles; checks no shape.

A tile is some tokens of one or all heads, the query heads that share a key head folded into rows: decoding reads keys once, not once a query
head. All positions of a prompt, of which nothing can be left out, are one call of torch's. Keys that every row of the tile sees go through torch's flash attention without a mask, those at the tile's edge with one, and the two
states are merged. Tiles are apart from each other, so every thread has tiles of its own (see ``crew``). Capped scores go another way: scores
as a whole, in float32 for bfloat16 tensors too, because their rounding would be an error of some percent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kernels.crew import each
from rag.kernels.selective_attention import with_sinks

if TYPE_CHECKING:
    from torch import Tensor

TILE_ROWS = 256
"""Rows of a tile: tokens times query heads of a key head. Scattered tokens waste half of the keys that a tile spans."""
NEIGHBOUR_TILE_ROWS = 1024
"""Rows of a tile where tokens are neighbours, and span as many keys as they are."""
FEW_TILES = 4
"""Up to this many tiles are split by key heads as well, so that every thread has a share."""


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
    span = int(positions[last - 1] - positions[first]) + 1 if first < last else 0
    if span == num_tokens == num_keys and not (window or softcap) and key_dim == value_dim:  # so the first position is 0
        found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries[None], keys[None, :, :num_keys], values[None, :, :num_keys], is_causal=True, scale=scale
        )
        return with_sinks(found[0].transpose(0, 1).contiguous(), logs.view(num_heads, num_tokens), sinks)
    tokens = max(1, (NEIGHBOUR_TILE_ROWS if span == last - first else TILE_ROWS) // group)
    latest_first = range(first + (last - first - 1) // tokens * tokens, first - 1, -tokens)
    step = heads if len(latest_first) > FEW_TILES else -(-heads // torch.get_num_threads())

    def attend(tile: tuple[int, int]) -> None:
        start, head = tile
        rows, some = slice(start, min(start + tokens, last)), slice(head, min(head + step, heads))
        query_heads = slice(some.start * group, some.stop * group)
        folded = queries[query_heads, rows].reshape(some.stop - some.start, -1, key_dim)
        if softcap or key_dim != value_dim:
            found, logs = _whole(folded, keys[some], values[some], positions[rows], num_keys, scale, window, softcap)
        else:
            found, logs = _flash(folded, keys[some], values[some], positions[rows], num_keys, scale, window)
        out[rows, query_heads] = found.reshape(-1, rows.stop - rows.start, value_dim).transpose(0, 1).to(out.dtype)
        lse[query_heads, rows] = logs.reshape(-1, rows.stop - rows.start)

    each([(start, head) for start in latest_first for head in range(0, heads, step)], attend)
    return with_sinks(out, lse, sinks)


def seeing_rows(positions: Tensor, num_keys: int, window: int | None) -> tuple[int, int]:
    """The rows that see a key at all: one range, as positions ascend."""
    first = int((positions < 0).sum())
    last = int((positions < num_keys + window - 1).sum()) if window else len(positions)
    return (first, last) if num_keys and first < last else (0, 0)


def seen_keys(positions: Tensor, num_keys: int, window: int | None) -> tuple[int, int, int]:
    """``begin, common, end``: no row sees keys outside ``begin .. end``, every row sees ``begin .. common`` (with a window, all of it or nothing).

    Between ``common`` and ``end`` every row sees at least one key, if there is one.
    """
    first, last = int(positions[0]), int(positions[-1])
    begin, end = max(0, first - window + 1) if window else 0, min(num_keys, last + 1)
    if first == last:
        return begin, end, end
    return begin, begin if window else min(end, first), end


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
    mask = None
    if common < end:
        mask = torch.zeros(len(positions), end - common, dtype=rows.dtype)
        mask.masked_fill_(hidden_keys(positions, common, end, window), float("-inf"))
        mask = mask.repeat(rows.shape[1] // len(positions), 1)[None, None]
    states = []
    for low, high, hidden in ((begin, common, None), (common, end, mask)):
        if low < high:
            found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                rows[None], keys[None, :, low:high], values[None, :, low:high], attn_mask=hidden, scale=scale
            )
            states.append((found[0], logs.view(rows.shape[:2])))
    if len(states) == 1:
        return states[0]
    (one, one_log), (other, other_log) = states
    share = torch.sigmoid(other_log - one_log)[..., None]
    return torch.lerp(one.float(), other.float(), share), torch.logaddexp(one_log, other_log)


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
