"""Attention within texts in memory: pieces of texts as jobs of ``attention_tiles_cpu``. Knows lengths; checks no shape.

Where the processor has no registers for them (``choose.processor_way``), and for short texts, neighbours of equal length go together through torch's own attention, which
keeps its scores in float32 too. In bfloat16, two matrix products around a softmax would take .58 to .77 of torch's time up to 256 tokens, but round
the scores to eight bits: a score of 20 is then off by up to .06, its weight by 6 %. They are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from rag.kernels.choose import processor_way

if TYPE_CHECKING:
    from torch import Tensor


LONG_TOKENS = 128
"""Texts from here on go in vectors. What a text is to give depends on its own length alone, not on what stands beside it or was computed before; and a
question, which is short, waits for no compiled loops to load (.7 seconds)."""


def varlen_attention_cpu(
    queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, *, longest: int, scale: float, causal: bool, window: int | None
) -> Tensor:
    """See ``varlen_attention.varlen_attention``. Float32 or bfloat16."""
    out = queries.new_empty(queries.shape[1], len(queries), values.shape[2])
    in_rows = queries.stride(2) == keys.stride(2) == values.stride(2) == 1
    below = longest + 1
    if longest >= LONG_TOKENS and in_rows and processor_way(queries.dtype, queries.shape[2]).in_tiles:
        below = LONG_TOKENS
        _in_vectors(queries, keys, values, starts, out, longest, scale, causal, window)
    _in_products(queries, keys, values, starts, out, below, scale, causal, window)
    return out


def _in_vectors(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    out: Tensor,
    longest: int,
    scale: float,
    causal: bool,
    window: int | None,
) -> None:
    """Texts of ``LONG_TOKENS`` and more."""
    import numpy as np
    import torch

    from rag.kernels.attention_tiles_cpu import attend, jobs_of, tokens_of_a_job

    num_heads, num_tokens, _ = queries.shape
    group = num_heads // len(keys)
    borders = starts.numpy().astype(np.int64)
    lengths = np.diff(borders)
    within = np.arange(num_tokens) - np.repeat(borders[:-1], lengths)
    last = np.repeat(lengths - 1, lengths)
    lowest = np.zeros_like(within) if window is None else np.maximum(within - window + 1, 0)
    highest = within if causal else last if window is None else np.minimum(within + window - 1, last)
    step = tokens_of_a_job(group, num_heads * num_tokens)
    begins = borders[:-1, None] + np.arange(0, longest, step)
    text, part = np.nonzero((begins < borders[1:, None]) & (lengths >= LONG_TOKENS)[:, None])
    first = begins[text, part]
    low, high = (torch.from_numpy(bound.astype(np.int32)) for bound in (lowest, highest))
    jobs = jobs_of(queries, keys, values, out, None, low, high, first, np.minimum(first + step, borders[text + 1]), borders[text])
    attend(jobs, queries, values, group, scale=scale, softcap=None)


def _in_products(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    out: Tensor,
    below: int,
    scale: float,
    causal: bool,
    window: int | None,
) -> None:
    """Texts of fewer than ``below`` tokens, with torch's attention."""
    import torch

    num_heads = len(queries)
    for first, count, length in _runs(starts.tolist()):
        if length >= below:
            continue
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
