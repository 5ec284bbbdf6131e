"""How much attention each key receives from a set of queries. Knows positions; no model, no selection.

``mass_j = sum over heads h and rows i of softmax_j(scale q_hi k_j)``: a column sum of the attention matrix, which is never held as a whole.
It is ``window_scores`` summed over key heads, for queries whose denominators are not known yet: they are computed first. With sinks the probabilities of a row sum to less than one. Masks are those of ``selective_attention``.
Floor: 2 Hq D sum(visible keys) operations twice (denominators first, then columns), one read of the keys each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rag.kernels.choose import choose
from rag.kernels.selective_attention import check_attention, finite, visible_scores_reference

if TYPE_CHECKING:
    from torch import Tensor


def column_mass(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Float32 ``(num_keys,)``; ``queries`` ``(Hq, Q, Dk)`` at ``positions`` int64 ``(Q,)`` ascending, ``keys`` ``(Hkv, capacity, Dk)``.

    Raises ``ValueError`` as ``selective_attention`` does.
    """
    check_attention(queries, keys, positions, num_keys, window)
    run = _implementation(choose(queries, keys).name)
    return run(queries, keys, positions, num_keys=num_keys, scale=scale, window=window, softcap=softcap, sinks=sinks)


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "triton":
        from rag.kernels.attention_triton import column_mass_triton

        return column_mass_triton
    return _column_mass_cpu if name == "cpu" else column_mass_reference


def _column_mass_cpu(queries: Tensor, keys: Tensor, positions: Tensor, **more: Any) -> Tensor:
    """The softmax of a tile gives the denominators on the way."""
    from rag.kernels.window_scores import window_scores_cpu

    return window_scores_cpu(queries, keys, positions, None, **more).sum(0)


def column_mass_reference(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The same in torch, in float64, head by head."""
    import torch

    group = queries.shape[0] // keys.shape[0]
    mass = torch.zeros(num_keys, dtype=torch.float64, device=keys.device)
    if not num_keys:
        return mass.float()
    for head in range(queries.shape[0]):
        scores = visible_scores_reference(queries[head], keys[head // group, :num_keys], positions, scale, window, softcap)
        total = scores.logsumexp(1, keepdim=True)
        if sinks is not None:
            total = torch.logaddexp(total, sinks[head].double())
        mass += torch.exp(scores - finite(total)).sum(0)
    return mass.float()
