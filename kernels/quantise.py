"""Keys and values as small codes, and back. Knows scales and codes; no model, no file.

Keys are coded per channel (their outliers sit in fixed channels before rotation), values per token (KIVI, arXiv 2402.02750):
``scale = max |x| / levels``, ``code = round(x / scale)`` (half to even), levels 127 for ``int8`` and 7 for ``int4``. An ``int4`` byte holds
dimension ``i`` in its low and ``i + D/2`` in its high four bits, each plus 8: both halves of a rotated pair arrive together. Rows that are all
zero have scale 0 and codes 0.
Floor: one read of keys and values and one write of the codes; the maximum over a chunk's tokens is a second read, from the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rag.kernels.assemble import LayerKV
from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = {"int8": 127, "int4": 7}


def quantise_kv(keys: Tensor, values: Tensor, kind: Literal["int8", "int4"]) -> LayerKV:
    """Codes of ``keys`` ``(L, Hkv, T, Dk)`` and ``values`` ``(L, Hkv, T, Dv)``: a ``LayerKV`` whose tensors have the layers in front.

    Layer ``i`` of the result is ``layer_of(result, i)``. Any leading dimensions will do. Raises ``ValueError`` for an unknown kind, and for
    an odd head dimension with ``int4``.
    """
    if kind not in LEVELS:
        raise ValueError(f"kind of codes is {kind!r}; it can be {', '.join(LEVELS)}")
    if kind == "int4" and (keys.shape[-1] % 2 or values.shape[-1] % 2):
        raise ValueError(f"int4 needs even head dimensions, not {keys.shape[-1]} and {values.shape[-1]}")
    if choose(keys, values).name == "triton":
        from rag.kernels.assemble_triton import quantise_triton

        return quantise_triton(keys, values, kind)
    return quantise_reference(keys, values, kind)


def dequantise_kv(kv: LayerKV, dtype: str = "float32") -> tuple[Tensor, Tensor]:
    """Keys ``(..., T, Dk)`` and values ``(..., T, Dv)`` in the torch type of that name."""
    import torch

    keys, values = dequantise_reference(kv)
    return keys.to(getattr(torch, dtype)), values.to(getattr(torch, dtype))


def layer_of(kv: LayerKV, layer: int) -> LayerKV:
    """One layer of a ``LayerKV`` with the layers in front; views, no copies."""
    key_scales = None if kv.key_scales is None else kv.key_scales[layer]
    value_scales = None if kv.value_scales is None else kv.value_scales[layer]
    return LayerKV(kv.keys[layer], kv.values[layer], key_scales, value_scales, kv.kind)


def quantise_reference(keys: Tensor, values: Tensor, kind: Literal["int8", "int4"]) -> LayerKV:
    """The same in torch, in float32."""
    key_codes, key_scales = _codes(keys, kind, over=-2)
    value_codes, value_scales = _codes(values, kind, over=-1)
    return LayerKV(key_codes, value_codes, key_scales, value_scales, kind)


def dequantise_reference(kv: LayerKV) -> tuple[Tensor, Tensor]:
    """Float32 keys and values; those of a ``plain`` one as they are."""
    if kv.kind == "plain":
        return kv.keys, kv.values
    assert kv.key_scales is not None and kv.value_scales is not None
    return _numbers(kv.keys, kv.kind) * kv.key_scales[..., None, :], _numbers(kv.values, kv.kind) * kv.value_scales[..., :, None]


def _codes(x: Tensor, kind: str, over: int) -> tuple[Tensor, Tensor]:
    import torch

    wide = x.float()
    largest = wide.abs().amax(over) if x.shape[-2] else wide.abs().sum(over)  # nothing has no largest
    scales = largest / LEVELS[kind]
    spread = scales.unsqueeze(over)
    levels = torch.where(spread > 0, wide / spread, 0.0).round().clamp(-LEVELS[kind], LEVELS[kind])
    if kind == "int8":
        return levels.to(torch.int8), scales
    low, high = (levels + 8).to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4), scales


def _numbers(codes: Tensor, kind: str) -> Tensor:
    import torch

    if kind == "int8":
        return codes.float()
    return torch.cat([codes & 15, codes >> 4], dim=-1).float() - 8
