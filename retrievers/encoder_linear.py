"""Which matrix product to use on this CPU, and why. Knows ``x W^T + b`` and the processor; knows no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rag.kernels.narrow_linear import has_onednn, multiplies

Kind = Literal["torch", "onednn", "bfloat16"]


class Choice(NamedTuple):
    """A way to multiply, and the reason in one clause."""

    kind: Kind
    why: str


def choose_linear(dtype: str, cpuinfo: str | None = None) -> Choice:
    """The product for ``dtype`` (``auto``, ``float32``, ``bfloat16``) on the CPU that ``cpuinfo`` (default: Linux's own) describes.

    Measured: on a Zen 5 (AVX-512) torch's fp32 product, which is MKL's AVX2 code there, does 187 GFLOP/s and prepacked oneDNN
    416-435; on a Zen 3 (AVX2) both do 70-75 GFLOP/s per core for 256 to 16384 rows, so nothing is gained there.
    ``auto`` takes bfloat16 only where the processor has instructions for it (4.7 times the fp32 rate on that Zen 5); it moves a
    component of a unit vector by up to 2e-3 and its direction by a cosine of .9999, the same order as a GPU does. Vectors of single tokens,
    in which nothing averages out, turn by up to .9997: every product of every layer has its share, none stands out.
    """
    if dtype == "bfloat16":
        return Choice(
            "bfloat16",
            "asked for" if multiplies(torch.bfloat16) else "asked for; this processor multiplies the rounded numbers as float32",
        )
    text = _cpuinfo() if cpuinfo is None else cpuinfo
    native = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in text]
    if dtype == "auto" and native:
        return Choice("bfloat16", f"this processor has {native[0]}")
    if "AuthenticAMD" in text and "avx512f" in text and has_onednn():
        return Choice("onednn", "MKL keeps to AVX2 on AMD, oneDNN uses its AVX-512")
    return Choice("torch", "oneDNN is no faster on this processor")


class Linear:
    """``x -> x W^T + b``: ``(tokens, in)`` -> ``(tokens, out)``. The weights are laid out once, at construction.

    The result of ``bfloat16`` is in bfloat16. Laying its weights out for oneDNN is worth 2 to 10 % on a Zen 4. Where oneDNN has no products of
    bfloat16 (AVX2 alone), torch's own take 8 to 45 times as long as float32: rounded numbers are widened there, which is what hardware for them does.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: Kind) -> None:
        self.kind = kind
        self.num_outputs = weight.shape[0]
        self._widened = kind == "bfloat16" and not multiplies(torch.bfloat16)
        self._laid_out = kind != "torch" and not self._widened
        self._dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32  # of what goes in and comes out
        resident = torch.float32 if self._widened else self._dtype
        self.bias = bias.detach().to(self._dtype).to(resident) if bias is not None else None
        weight = weight.detach().to(self._dtype).to(resident)
        # The transpose is a view: MKL packs either layout equally fast.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self._laid_out else weight.t()

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``out`` ``(tokens, out)`` is used where the kind can write into it; read the result, not ``out``."""
        x = x.to(self._dtype)
        if self._laid_out:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return product
        x = x.to(self.weight.dtype)
        if self.bias is None:
            product = x @ self.weight
        elif out is None or out.dtype != x.dtype:
            product = torch.addmm(self.bias, x, self.weight)
        else:
            product = torch.addmm(self.bias, x, self.weight, out=out)
        return product.to(self._dtype)


class SwappedLinear(torch.nn.Module):
    """A ``Linear`` in the place of a ``torch.nn.Linear``: ``(..., in)`` -> ``(..., out)``."""

    def __init__(self, layer: torch.nn.Linear, kind: Kind) -> None:
        super().__init__()
        self._product = Linear(layer.weight, layer.bias, kind)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @property
    def weight(self) -> Tensor:
        """As it is laid out; models ask for its type and device."""
        return self._product.weight

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)


def swapped_linears(network: torch.nn.Module, kind: Kind) -> Callable[[], None]:
    """Replaces every ``torch.nn.Linear`` inside ``network`` by its product of ``kind``; what is returned puts them back."""
    swapped = [
        (parent, name, child)
        for parent in list(network.modules())
        for name, child in list(parent.named_children())
        if type(child) is torch.nn.Linear
    ]
    for parent, name, child in swapped:
        setattr(parent, name, SwappedLinear(child, kind))

    def undo() -> None:
        for parent, name, child in swapped:
            setattr(parent, name, child)

    return undo


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="ascii", errors="ignore") if path.is_file() else ""
