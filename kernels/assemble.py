"""One key-value buffer out of the pieces of a prompt: gather, dequantise, rotate, write. Knows layers of keys and values; no model, no file.

The keys of a piece are stored before rotation, so that a piece fits at any place: row ``start + t`` of the buffer receives key ``t``
turned to its position (see ``rotate``) and value ``t`` as it is. Codes become numbers on the way (see ``quantise``).
Floor: read every stored byte once, write every row once; with 8192 tokens, 32 layers, 8 heads of 128 in bfloat16 that is 2.15 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from rag.kernels.choose import choose
from rag.kernels.rotate import Style, check_table, rotate_reference

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["plain", "int8", "int4"]


class LayerKV(NamedTuple):
    """Keys ``(Hkv, T, Dk)`` before rotation and values ``(Hkv, T, Dv)`` of one layer; rows may be strided, the last dimension is contiguous.

    ``kind`` ``plain``: numbers. ``int8``: int8 codes. ``int4``: uint8 codes of half the width, two dimensions a byte. Codes come with
    ``key_scales`` float32 ``(Hkv, Dk)`` and ``value_scales`` float32 ``(Hkv, T)``; see ``quantise``.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    kind: Kind = "plain"

    @property
    def num_tokens(self) -> int:
        return int(self.keys.shape[-2])


def assemble(
    pieces: Sequence[LayerKV], starts: Sequence[int], cos: Tensor, sin: Tensor, style: Style, keys: Tensor, values: Tensor
) -> None:
    """Writes rows ``[start, start + T)`` of ``keys`` ``(Hkv, capacity, Dk)`` and ``values`` ``(Hkv, capacity, Dv)`` for every piece.

    ``cos``, ``sin`` float32 ``(positions, R/2)``: row ``p`` turns a key to position ``p``. No other row is touched. Raises ``ValueError``
    for pieces that overlap, do not fit into the buffer or the table, or do not have the buffer's heads and dimensions.
    """
    assemble_layers([[piece] for piece in pieces], starts, cos, sin, style, keys[None], values[None])


def assemble_layers(
    pieces: Sequence[Sequence[LayerKV]], starts: Sequence[int], cos: Tensor, sin: Tensor, style: Style, keys: Tensor, values: Tensor
) -> None:
    """The same for all layers: ``pieces[i][layer]``, ``keys`` ``(L, Hkv, capacity, Dk)``, ``values`` ``(L, Hkv, capacity, Dv)``."""
    _check(pieces, starts, cos, sin, style, keys, values)
    stored = [
        tensor for layers in pieces for piece in layers if piece.kind == "plain" for tensor in piece[:2] if tensor is not None
    ]
    name = choose(keys, values, *stored).name
    if name == "triton":
        from rag.kernels.assemble_triton import assemble_triton

        assemble_triton(pieces, starts, cos, sin, style, keys, values)
    elif name == "cpu":
        from rag.kernels.assemble_cpu import assemble_cpu

        assemble_cpu(pieces, starts, cos, sin, style, keys, values)
    else:
        assemble_reference(pieces, starts, cos, sin, style, keys, values)


def assemble_reference(
    pieces: Sequence[Sequence[LayerKV]], starts: Sequence[int], cos: Tensor, sin: Tensor, style: Style, keys: Tensor, values: Tensor
) -> None:
    """The same in torch, piece by piece."""
    from rag.kernels.quantise import dequantise_reference

    for layers, start in zip(pieces, starts, strict=True):
        for layer, piece in enumerate(layers):
            rows = slice(start, start + piece.num_tokens)
            plain_keys, plain_values = dequantise_reference(piece)
            keys[layer, :, rows] = rotate_reference(plain_keys.float(), cos[rows], sin[rows], style).to(keys.dtype)
            values[layer, :, rows] = plain_values.to(values.dtype)


def _check(
    pieces: Sequence[Sequence[LayerKV]], starts: Sequence[int], cos: Tensor, sin: Tensor, style: str, keys: Tensor, values: Tensor
) -> None:
    num_layers, num_heads, capacity, key_dim = keys.shape
    value_dim = values.shape[3]
    if values.shape[:3] != keys.shape[:3]:
        raise ValueError(f"keys are {tuple(keys.shape)} and values {tuple(values.shape)}: layers, heads or rows differ")
    if len(pieces) != len(starts):
        raise ValueError(f"{len(pieces)} pieces, but {len(starts)} starts")
    ends = []
    for number, (layers, start) in enumerate(zip(pieces, starts, strict=True)):
        if len(layers) != num_layers:
            raise ValueError(f"piece {number} has {len(layers)} layers, the buffer {num_layers}")
        tokens = layers[0].num_tokens
        for piece in layers:
            packed = 2 if piece.kind == "int4" else 1
            if piece.kind not in ("plain", "int8", "int4"):
                raise ValueError(f"piece {number} is {piece.kind!r}; it can be plain, int8, int4")
            if (piece.kind == "plain") != (piece.key_scales is None or piece.value_scales is None):
                raise ValueError(f"piece {number} is {piece.kind}: scales belong to int8 and int4, and to nothing else")
            for tensor, dim in ((piece.keys, key_dim), (piece.values, value_dim)):
                if (tensor.shape[0], tensor.shape[1], packed * tensor.shape[2]) != (num_heads, tokens, dim):
                    raise ValueError(f"piece {number} has {tuple(tensor.shape)}; {(num_heads, tokens, dim // packed)} is needed")
        if start < 0 or start + tokens > capacity:
            raise ValueError(f"piece {number} would take rows {start} to {start + tokens} of {capacity}")
        ends.append((start, start + tokens))
    for (_, end), (start, _) in pairwise(sorted(span for span in ends if span[0] < span[1])):
        if start < end:
            raise ValueError(f"two pieces overlap at row {start}")
    check_table(style, key_dim, max((end for _, end in ends), default=0), cos, sin)
