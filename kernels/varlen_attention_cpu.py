"""Attention within texts in memory: neighbours of equal length together. Knows lengths; checks no shape.

Torch's own attention on texts of one length, which keeps its scores in float32. In bfloat16, two matrix products around a softmax take .58 to .77
of its time up to 256 tokens, but round the scores to eight bits: a score of 20 is then off by up to .06, its weight by 6 %. They are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def varlen_attention_cpu(
    queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, *, longest: int, scale: float, causal: bool, window: int | None
) -> Tensor:
    """See ``varlen_attention.varlen_attention``. Float32 or bfloat16."""
    import torch

    num_heads, num_tokens, _ = queries.shape
    out = queries.new_empty(num_tokens, num_heads, values.shape[2])
    for first, count, length in _runs(starts.tolist()):
        last = first + count * length
        q, k, v = (tensor[:, first:last].unflatten(1, (count, length)).transpose(0, 1) for tensor in (queries, keys, values))  # type: ignore[no-untyped-call]
        into = out[first:last].view(count, length, num_heads, -1).transpose(1, 2)
        masked = (causal or (window is not None and window < length)) and length > 1
        mask = _mask(length, causal, window) if masked and not (causal and (window is None or window >= length)) else None
        into.copy_(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=masked and mask is None, scale=scale, enable_gqa=len(keys) != num_heads
            )
        )
    return out


def _runs(borders: list[int]) -> Iterator[tuple[int, int, int]]:
    """First token, texts and tokens per text of every run of texts of equal length; texts without tokens are left out."""
    first = 0
    for length, run in groupby(last - first for first, last in pairwise(borders)):
        count = sum(1 for _ in run)
        if length:
            yield first, count, length
        first += count * length


def _mask(length: int, causal: bool, window: int | None) -> Tensor:
    """Bool ``(length, length)``, true where a row may look."""
    import torch

    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen & (distance.abs() < window) if window is not None else seen
