"""How likely given words are under a model's last layer, without the logits of all words. Knows states, weights and ids; no model.

``logprob_i = x_i w_t - log sum_v exp(x_i w_v)`` with ``t = targets_i``, each logit with its bias. The ``(n, vocabulary)`` logits are made a tile at a
time and summed on the way (the idea of Cut Cross-Entropy, arXiv 2411.09009), so memory does not grow with texts times vocabulary.
Floor: 2 n V D operations; one read of the weights per tile of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rag.kernels.choose import choose, processor_way

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY_BLOCK = 8192
"""Words of the vocabulary whose logits exist at a time on a processor: of 512 rows that is 16 MiB."""
MOST_DIM = 2048
"""Wider rows are left to torch's products, of which more of a row stays in the caches."""
FEW_ROWS = 4
"""So are fewer float32 rows: they would leave most lanes of a vector idle."""


def token_logprob(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, *, rows: Tensor | None = None
) -> Tensor:
    """Float32 ``(n,)``, natural logarithms.

    ``hidden`` ``(n, D)``, ``weight`` ``(V, D)``, both of one type, ``targets`` int64 ``(n,)`` in ``[0, V)``, ``bias`` ``(V,)``. ``rows`` int64 ``(n,)``: whose targets
    they are, where a row of ``hidden`` has several or none. Raises ``ValueError`` for shapes and types that do not fit (targets are looked at in
    memory only, not on a GPU).
    """
    _check(hidden, weight, targets, bias, rows)
    name = choose(targets).name  # any float type: it is widened tile by tile
    if name == "cpu":
        return _token_logprob_cpu(hidden, weight, targets, bias, rows)
    return _implementation(name)(hidden if rows is None else hidden[rows], weight, targets, bias)


def logprob_of_logits(logits: Tensor, targets: Tensor, *, rows: Tensor | None = None) -> Tensor:
    """The same from ``logits`` ``(n, V)`` that are there, because a network makes them in a way of its own."""
    import torch

    wide = logits.float()
    chosen = torch.arange(len(logits), device=logits.device) if rows is None else rows
    return wide[chosen, targets] - wide.logsumexp(-1)[chosen]


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "triton":
        from rag.kernels.token_logprob_triton import token_logprob_triton

        return token_logprob_triton
    return token_logprob_reference


def token_logprob_reference(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """All logits at once, in float64."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    return (logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)).float()


def _token_logprob_cpu(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, rows: Tensor | None) -> Tensor:
    """The target's own logit is one product; the others are summed a block of words at a time."""
    import torch

    wide = hidden.float()
    chosen = ((wide if rows is None else wide[rows]) * weight[targets].float()).sum(-1)
    if bias is not None:
        chosen = chosen + bias[targets].float()
    if bias is None and _fits_vectors(hidden, weight):
        return chosen - _in_rows(_totals(hidden, weight), rows)
    total = torch.full((len(hidden),), -math.inf)
    for begin in range(0, len(weight), VOCABULARY_BLOCK):
        logits = wide @ weight[begin : begin + VOCABULARY_BLOCK].float().T
        if bias is not None:
            logits += bias[begin : begin + VOCABULARY_BLOCK].float()
        total = torch.logaddexp(total, logits.logsumexp(-1))
    return chosen - _in_rows(total, rows)


def _fits_vectors(hidden: Tensor, weight: Tensor) -> bool:
    import torch

    if hidden.stride(1) != 1 or weight.stride(1) != 1 or hidden.shape[1] > MOST_DIM or not len(hidden):
        return False
    if hidden.dtype not in (torch.float32, torch.bfloat16) or (hidden.dtype == torch.float32 and len(hidden) < FEW_ROWS):
        return False
    return processor_way(hidden.dtype, hidden.shape[1]).in_tiles


def _in_rows(totals: Tensor, rows: Tensor | None) -> Tensor:
    return totals if rows is None else totals[rows]


def _totals(hidden: Tensor, weight: Tensor) -> Tensor:
    """Float32 ``(n,)``: the log-sum-exp of all logits, that of attention over words instead of keys, without values."""
    import numpy as np
    import torch

    from rag.kernels.attention_tiles_cpu import attend, jobs_of, tokens_of_a_job

    num_rows, num_words = len(hidden), len(weight)
    first_words = range(0, num_words, VOCABULARY_BLOCK)
    totals = torch.empty(len(first_words), num_rows)
    nothing = hidden.new_empty(num_rows, 1, 0)
    starts = np.arange(0, num_rows, tokens_of_a_job(1, num_rows * len(first_words)))
    ends = np.append(starts[1:], num_rows)
    lowest = torch.zeros(num_rows, dtype=torch.int32)
    jobs, held = [], [lowest]
    for word, total in zip(first_words, totals, strict=True):
        held.append(torch.full_like(lowest, min(VOCABULARY_BLOCK, num_words - word) - 1))
        keys = weight[None, word:]
        into = (nothing, total[None], lowest, held[-1])
        jobs.append(jobs_of(hidden[None], keys, keys[..., :0], *into, starts, ends, np.zeros_like(starts)))
    attend(np.concatenate(jobs), hidden, weight[:, :0], 1, scale=1.0, softcap=None)
    del held  # the bounds' addresses are good until here
    return totals.logsumexp(0)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, rows: Tensor | None) -> None:
    import torch

    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or hidden.dtype != weight.dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} {tuple(hidden.shape)} and weight {weight.dtype} {tuple(weight.shape)}: (n, D) and (V, D) of one type"
        )
    owners = hidden if rows is None else rows
    if targets.shape != owners.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"targets are {targets.dtype} {tuple(targets.shape)}: int64, one for each of {len(owners)} rows")
    if rows is not None and (rows.ndim != 1 or rows.dtype != torch.int64):
        raise ValueError(f"rows are {rows.dtype} {tuple(rows.shape)}: int64 (n,)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias is {tuple(bias.shape)} for {len(weight)} words")
    if targets.device.type == "cpu" and len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(weight):
        raise ValueError(f"targets go from {int(targets.min())} to {int(targets.max())}; there are {len(weight)} words")
