"""How far recomputed keys and values are from the stored ones, per token. Knows two tensors; no model, no selection.

Published scores differ: CacheBlend's code (arXiv 2405.16444) takes values, LMCache keys after rotation; rotation does not change a sum of
squares, so keys may be compared before it. Per token: the sum over heads and dimensions of ``(new - old)^2``, in float32.
Floor: one read of the four (or two) tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["k", "v", "kv"]
_BLOCK_TOKENS = 256


def kv_deviation(new_keys: Tensor, new_values: Tensor, old_keys: Tensor, old_values: Tensor, part: Part = "kv") -> Tensor:
    """Float32 ``(T,)``; keys ``(Hkv, T, Dk)``, values ``(Hkv, T, Dv)``; ``part``: keys, values, or the sum of both.

    Raises ``ValueError`` for an unknown part and for shapes that differ.
    """
    if part not in get_args(Part):
        raise ValueError(f"part is {part!r}; it can be {', '.join(get_args(Part))}")
    if new_keys.shape != old_keys.shape or new_values.shape != old_values.shape:
        raise ValueError(
            f"new {tuple(new_keys.shape)}, {tuple(new_values.shape)} and old {tuple(old_keys.shape)}, {tuple(old_values.shape)} differ"
        )
    name = choose(new_keys, new_values, old_keys, old_values).name
    if name == "triton":
        from rag.kernels.assemble_triton import kv_deviation_triton

        return kv_deviation_triton(new_keys, new_values, old_keys, old_values, part)
    if name == "cpu":
        return _kv_deviation_cpu(new_keys, new_values, old_keys, old_values, part)
    return kv_deviation_reference(new_keys, new_values, old_keys, old_values, part)


def _kv_deviation_cpu(new_keys: Tensor, new_values: Tensor, old_keys: Tensor, old_values: Tensor, part: Part) -> Tensor:
    """A block of tokens at a time, so that differences stay in the cache."""
    import torch

    total = torch.zeros(new_keys.shape[1])
    pairs = [(new_keys, old_keys)] * (part != "v") + [(new_values, old_values)] * (part != "k")
    for new, old in pairs:
        for start in range(0, len(total), _BLOCK_TOKENS):
            block = slice(start, start + _BLOCK_TOKENS)
            difference = new[:, block].float() - old[:, block].float()
            total[block] += difference.square_().sum((0, 2))
    return total


def kv_deviation_reference(new_keys: Tensor, new_values: Tensor, old_keys: Tensor, old_values: Tensor, part: Part = "kv") -> Tensor:
    """The same in torch, in float64."""
    total = new_keys.new_zeros(new_keys.shape[1]).double()
    if part != "v":
        total += (new_keys.double() - old_keys.double()).square().sum((0, 2))
    if part != "k":
        total += (new_values.double() - old_values.double()).square().sum((0, 2))
    return total.float()
