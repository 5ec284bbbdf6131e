"""Attention within each of many texts that lie end to end, without padding. Knows borders; no model, no tokenizer, no position.

``out_i = sum_j softmax_j(scale q_i k_j) v_j`` over the tokens j of i's own text: all of them, with ``causal`` those up to i, with a ``window``
those with ``|i - j| < window``. Floor: 4 Hq D sum(visible pairs) operations; queries, keys and values are read once and outputs written once,
which at texts of up to some 512 tokens is what a GPU spends its time on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor


def varlen_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    *,
    longest: int,
    scale: float,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """``(T, Hq, Dv)`` in the queries' type.

    ``queries`` ``(Hq, T, Dk)``, ``keys`` ``(Hkv, T, Dk)``, ``values`` ``(Hkv, T, Dv)``, any strides. ``starts`` int32 or int64 ``(texts + 1,)`` ascends
    from 0 to T: text n has the tokens ``starts[n] .. starts[n + 1]``, and may have none. Query head h reads key head ``h // (Hq / Hkv)``.
    ``longest``: tokens of the longest text, given because reading it from a GPU would wait for everything before.
    Raises ``ValueError`` for shapes that do not fit, and for borders that do not (looked at in memory only, not on a GPU).
    """
    _check(queries, keys, values, starts, longest, window)
    run = _implementation(choose(queries, keys, values).name)
    return run(queries, keys, values, starts, longest=longest, scale=scale, causal=causal, window=window)


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "cpu":
        from rag.kernels.varlen_attention_cpu import varlen_attention_cpu

        return varlen_attention_cpu
    if name == "triton":
        from rag.kernels.varlen_attention_triton import varlen_attention_triton

        return varlen_attention_triton
    return varlen_attention_reference


def varlen_attention_reference(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    *,
    longest: int,
    scale: float,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """In float64, text by text and head by head. ``longest`` is not needed."""
    import torch

    num_heads, num_tokens, _ = queries.shape
    group = num_heads // keys.shape[0]
    out = queries.new_empty(num_tokens, num_heads, values.shape[2])
    borders = starts.tolist()
    for first, last in pairwise(borders):
        distance = torch.arange(last - first)[:, None] - torch.arange(last - first)
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if causal:
            hidden |= distance < 0
        if window is not None:
            hidden |= distance.abs() >= window
        for head in range(num_heads):
            scores = queries[head, first:last].double() @ keys[head // group, first:last].double().T * scale
            weights = torch.softmax(scores.masked_fill(hidden.to(scores.device), float("-inf")), 1)
            out[first:last, head] = (weights @ values[head // group, first:last].double()).to(out.dtype)
    return out


def _check(queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, longest: int, window: int | None) -> None:
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[1:] != keys.shape[1:] or queries.shape[0] % keys.shape[0]:
        raise ValueError(f"queries {tuple(queries.shape)} do not fit keys {tuple(keys.shape)}: heads must divide, the rest agree")
    if keys.shape[:2] != values.shape[:2]:
        raise ValueError(f"keys are {tuple(keys.shape)} and values {tuple(values.shape)}: heads or tokens differ")
    if window is not None and window < 1:
        raise ValueError(f"a window of {window} tokens shows nothing")
    if starts.ndim != 1 or not len(starts) or starts.is_floating_point():
        raise ValueError(f"starts must be one row of whole numbers, not {starts.dtype} {tuple(starts.shape)}")
    if starts.device.type == "cpu":
        lengths = starts.diff()
        if starts[0] != 0 or starts[-1] != queries.shape[1] or bool((lengths < 0).any()):
            raise ValueError(f"starts must ascend from 0 to {queries.shape[1]}")
        if len(lengths) and int(lengths.max()) > longest:
            raise ValueError(f"a text has {int(lengths.max())} tokens, more than longest={longest}")
