"""Attention of queries at scattered positions over a buffer of keys, exact by position. Knows positions; no model, no chunk, no cache.

A query at position p sees the keys at positions ``max(0, p - window + 1) .. p``, never one behind it: recomputing some tokens in the middle of
a prompt needs this, and a bottom-right causal mask does not give it (each recomputed token would see about half of the later ones).
``out = sum_j softmax_j(scale q k_j) v_j``, with ``softcap tanh(s / softcap)`` as score where a model caps it (Gemma 2), and with one extra logit
per head in the denominator where it has attention sinks (gpt-oss). Positions ascend, so a tile of queries reads keys only up to its last one.
Floor: 4 Hq D sum(visible keys) operations; decoding (one query) reads keys and values once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, overload

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor


@overload
def selective_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def selective_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def selective_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``(T, Hq, Dv)`` in the queries' type and, with ``return_lse``, the natural logarithm of the denominators float32 ``(Hq, T)``.

    ``queries`` ``(Hq, T, Dk)``, ``keys`` ``(Hkv, capacity, Dk)``, ``values`` ``(Hkv, capacity, Dv)``, whose rows from ``num_keys`` on are never
    read. ``positions`` int64 ``(T,)``, ascending; row i sees key j when ``j <= positions[i]``, ``j < num_keys`` and, with a ``window``,
    ``j > positions[i] - window``. A row that sees no key (position -1) gives zeros and a logarithm of minus infinity. Query head h reads
    key head ``h // (Hq / Hkv)``. ``sinks`` ``(Hq,)`` are logits that count in the denominator only.
    Raises ``ValueError`` for shapes that do not fit and for positions that descend (looked at in memory only, not on a GPU).
    """
    check_attention(queries, keys, positions, num_keys, window)
    if keys.shape[:2] != values.shape[:2]:
        raise ValueError(f"keys are {tuple(keys.shape)} and values {tuple(values.shape)}: heads or rows differ")
    run = _implementation(choose(queries, keys, values).name)
    out, lse = run(queries, keys, values, positions, num_keys=num_keys, scale=scale, window=window, softcap=softcap, sinks=sinks)
    return (out, lse) if return_lse else out


def _implementation(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if name == "cpu":
        from rag.kernels.attention_cpu import attention_cpu

        return attention_cpu
    if name == "triton":
        from rag.kernels.attention_triton import attention_triton

        return attention_triton
    return selective_attention_reference


def selective_attention_reference(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and logarithm of the denominator in float64, head by head."""
    import torch

    num_heads, num_rows, _ = queries.shape
    group = num_heads // keys.shape[0]
    out = queries.new_empty(num_rows, num_heads, values.shape[2])
    lse = queries.new_empty(num_heads, num_rows, dtype=torch.float32)
    for head in range(num_heads):
        seen = keys[head // group, :num_keys]
        scores = visible_scores_reference(queries[head], seen, positions, scale, window, softcap)
        total = scores.logsumexp(1) if num_keys else scores.new_full((num_rows,), float("-inf"))
        if sinks is not None:
            total = torch.logaddexp(total, sinks[head].double())
        weights = torch.exp(scores - finite(total)[:, None])
        out[:, head] = (weights @ values[head // group, :num_keys].double()).to(out.dtype)
        lse[head] = total.float()
    return out, lse


def visible_scores_reference(
    queries: Tensor, keys: Tensor, positions: Tensor, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """Scores float64 ``(rows, keys)`` of one head, minus infinity where a row may not look."""
    import torch

    scores = (queries.double() @ keys.double().T) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    key = torch.arange(keys.shape[0], device=keys.device)
    hidden = key > positions[:, None]
    if window is not None:
        hidden |= key <= positions[:, None] - window
    return scores.masked_fill(hidden, float("-inf"))


def finite(lse: Tensor) -> Tensor:
    """Zero for minus infinity: a row that sees nothing then weighs every key ``exp(-inf - 0) = 0`` instead of ``exp(inf - inf)``."""
    return lse.masked_fill(lse == float("-inf"), 0.0)


def check_attention(queries: Tensor, keys: Tensor, positions: Tensor, num_keys: int, window: int | None) -> None:
    """Raises ``ValueError`` for shapes that do not belong together."""
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[2] != keys.shape[2] or queries.shape[0] % keys.shape[0]:
        raise ValueError(f"queries {tuple(queries.shape)} do not fit keys {tuple(keys.shape)}: heads must divide, dimensions agree")
    if positions.shape != queries.shape[1:2]:
        raise ValueError(f"{queries.shape[1]} queries, but positions {tuple(positions.shape)}")
    if not 0 <= num_keys <= keys.shape[1]:
        raise ValueError(f"{num_keys} keys in a buffer of {keys.shape[1]}")
    if window is not None and window < 1:
        raise ValueError(f"a window of {window} keys shows nothing")
    if len(positions) > 1 and positions.device.type == "cpu" and bool((positions[1:] < positions[:-1]).any()):
        raise ValueError("positions must ascend")


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """``out`` ``(T, Hq, Dv)``, changed in place, and ``lse`` ``(Hq, T)`` once the sinks count in the denominator."""
    import torch

    if sinks is None:
        return out, lse
    total = torch.logaddexp(lse, sinks.float()[:, None])
    return out.mul_(torch.exp(lse - total).T[:, :, None]), total
