"""One attention out of attentions of the same queries over disjoint sets of keys. Knows outputs and log-sum-exps; no key and no query.

Part i counts with ``exp(lse_i - lse)``, where ``lse = log sum_i exp(lse_i)`` is the logarithm of the whole denominator (the state of attention as in
FlashInfer's cascade and FlashAttention's splits): ``out = sum_i exp(lse_i - lse) out_i``. A part that saw no key (minus infinity) is not read.
Floor: one read of every part and one write of the result; there is next to no arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor


def merge_states(outs: Sequence[Tensor] | Tensor, lses: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """``(T, Hq, Dv)`` in the type of the parts and float32 ``(Hq, T)``, as ``selective_attention`` returns them.

    ``outs``: parts ``(T, Hq, Dv)`` of one type; ``lses``: float32 ``(Hq, T)`` each, natural logarithms; both may be one tensor with the parts in front.
    Sinks must be in one part only. A row that no part saw gives zeros and minus infinity. Raises ``ValueError`` for nothing to merge and for shapes
    that differ.
    """
    _check(outs, lses)
    return _implementation(choose(*outs).name)(outs, lses)


def _implementation(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if name == "triton":
        from rag.kernels.merge_triton import merge_triton

        return merge_triton
    if name == "cpu":
        from rag.kernels.merge_cpu import merge_cpu

        return merge_cpu
    return merge_states_reference


def merge_states_reference(outs: Sequence[Tensor] | Tensor, lses: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """The same in torch, in float64."""
    import torch

    stacked = torch.stack(list(lses)).double()
    total = stacked.logsumexp(0)
    merged = torch.zeros(outs[0].shape, dtype=torch.float64, device=outs[0].device)
    for out, lse in zip(outs, stacked, strict=True):
        unread = (lse == float("-inf")).T[:, :, None]
        merged += torch.where(unread, 0.0, torch.exp(lse - total).T[:, :, None] * out.double())
    return merged.to(outs[0].dtype), total.float()


def _check(outs: Sequence[Tensor] | Tensor, lses: Sequence[Tensor] | Tensor) -> None:
    if not len(outs) or len(outs) != len(lses):
        raise ValueError(f"{len(outs)} outputs and {len(lses)} logarithms to merge")
    shape, dtype = outs[0].shape, outs[0].dtype
    for number, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        if out.ndim != 3 or out.shape != shape or out.dtype != dtype:
            raise ValueError(
                f"part {number} is {out.dtype} {tuple(out.shape)}; {dtype} {tuple(shape)} is needed, (tokens, heads, dimensions)"
            )
        if lse.shape != (shape[1], shape[0]):
            raise ValueError(
                f"logarithms of part {number} are {tuple(lse.shape)}; {(shape[1], shape[0])} is needed, (heads, tokens)"
            )
