"""How likely given words are under a model's last layer, without the logits of all words. Knows states, weights and ids; no model.

``logprob_i = x_i w_t - log sum_v exp(x_i w_v)`` with ``t = targets_i``, each logit with its bias. The ``(n, vocabulary)`` logits are made a tile at a
time and summed on the way (the idea of Cut Cross-Entropy, arXiv 2411.09009), so memory does not grow with texts times vocabulary.
Floor: 2 n V D operations; one read of the weights per tile of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY_BLOCK = 8192
"""Words of the vocabulary whose logits exist at a time on a processor: of 512 rows that is 16 MiB."""


def token_logprob(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """Float32 ``(n,)``, natural logarithms.

    ``hidden`` ``(n, D)``, ``weight`` ``(V, D)``, both of one type, ``targets`` int64 ``(n,)`` in ``[0, V)``, ``bias`` ``(V,)``. Raises ``ValueError``
    for shapes and types that do not fit (targets are looked at in memory only, not on a GPU).
    """
    _check(hidden, weight, targets, bias)
    return _implementation(choose(targets).name)(hidden, weight, targets, bias)  # any float type: it is widened tile by tile


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "triton":
        from rag.kernels.token_logprob_triton import token_logprob_triton

        return token_logprob_triton
    return _token_logprob_cpu if name == "cpu" else token_logprob_reference


def token_logprob_reference(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """All logits at once, in float64."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    return (logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)).float()


def _token_logprob_cpu(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    """The target's own logit is one product; the others are summed a block of words at a time."""
    import torch

    rows = hidden.float()
    chosen = (rows * weight[targets].float()).sum(-1)
    if bias is not None:
        chosen = chosen + bias[targets].float()
    total = torch.full_like(chosen, -math.inf)
    for begin in range(0, len(weight), VOCABULARY_BLOCK):
        logits = rows @ weight[begin : begin + VOCABULARY_BLOCK].float().T
        if bias is not None:
            logits += bias[begin : begin + VOCABULARY_BLOCK].float()
        total = torch.logaddexp(total, logits.logsumexp(-1))
    return chosen - total


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    import torch

    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or hidden.dtype != weight.dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} {tuple(hidden.shape)} and weight {weight.dtype} {tuple(weight.shape)}: (n, D) and (V, D) of one type"
        )
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"targets are {targets.dtype} {tuple(targets.shape)}: int64, one for each of {len(hidden)} rows")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias is {tuple(bias.shape)} for {len(weight)} words")
    if targets.device.type == "cpu" and len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(weight):
        raise ValueError(f"targets go from {int(targets.min())} to {int(targets.max())}; there are {len(weight)} words")
