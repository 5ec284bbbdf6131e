"""Linear layers of 16-bit weights on a processor that has no products of such numbers. Knows layers and the processor; knows no model."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

NARROW = (torch.bfloat16, torch.float16)
FEW_ROWS = 12
"""Up to here torch's own loop is sooner: it reads half the bytes, and there is little to compute."""
_BLOCK_BYTES = 4 << 20  # of weights as float32, so that they are still in a cache when they are multiplied


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether torch has products of ``dtype`` for this processor that keep up with those of float32."""
    if dtype not in NARROW:
        return True
    if not has_onednn():
        return False
    known = torch.ops.mkldnn._is_mkldnn_bf16_supported if dtype == torch.bfloat16 else torch.ops.mkldnn._is_mkldnn_fp16_supported
    return bool(known())


def has_onednn() -> bool:
    """Whether this torch was built with oneDNN and its linear layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


class WidenedLinear(torch.nn.Linear):
    """A linear layer whose weights stay in 16 bits and are multiplied as float32, a block of outputs at a time, when there are enough rows.

    Sums are float32 and the result is rounded once, as by hardware that multiplies 16 bits. Nothing is kept between calls.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() <= FEW_ROWS * self.in_features:
            return super().forward(x)
        rows = x.reshape(-1, self.in_features).float()
        found = torch.empty(len(rows), self.out_features, dtype=x.dtype)
        size = max(1, _BLOCK_BYTES // (4 * self.in_features))
        for begin in range(0, self.out_features, size):
            part = slice(begin, begin + size)
            weight = self.weight[part].float().t()
            found[:, part] = rows @ weight if self.bias is None else torch.addmm(self.bias[part].float(), rows, weight)
        return found.view(*x.shape[:-1], self.out_features)


def widen_products(network: Any) -> int:
    """Turns the plain linear layers of ``network`` that this processor multiplies slowly into ``WidenedLinear``; returns how many.

    The layers stay the objects they are, with the weights they have (and share). Layers of other classes (quantised, adapted) are left alone.
    """
    slow = [
        layer
        for layer in network.modules()
        if type(layer) is torch.nn.Linear and layer.weight.device.type == "cpu" and not multiplies(layer.weight.dtype)
    ]
    for layer in slow:
        layer.__class__ = WidenedLinear
    return len(slow)
