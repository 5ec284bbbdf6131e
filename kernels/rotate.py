"""Rotary position embedding of keys or queries. Knows a table of cosines and sines; knows no frequency and no model.

Pairs of dimensions turn by an angle of their own: ``x1' = x1 cos - x2 sin``, ``x2' = x2 cos + x1 sin`` (RoFormer, arXiv 2104.09864).
Which dimensions form a pair is the style: ``half``: (i, i + R/2) as in Llama; ``interleaved``: (2i, 2i + 1) as in GPT-J; ``none``: no
rotation. Only the first R dimensions turn (R = twice the width of the table), the rest is copied. Scaling of the angles (YaRN, llama3)
is already inside the table. Arithmetic in float32, one rounding at the end.
Floor: one read and one write of ``x``; the table is small and shared by heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor

Style = Literal["half", "interleaved", "none"]


def check_table(style: str, head_dim: int, num_rows: int, cos: Tensor, sin: Tensor) -> None:
    """Raises ``ValueError`` if the table cannot turn rows ``[0, num_rows)`` of ``head_dim`` dimensions."""
    if style not in get_args(Style):
        raise ValueError(f"style of rotation is {style!r}; it can be {', '.join(get_args(Style))}")
    if style == "none":
        return
    if cos.shape != sin.shape or cos.ndim != 2:
        raise ValueError(f"cos and sin must be of one shape (rows, pairs), not {tuple(cos.shape)} and {tuple(sin.shape)}")
    if 2 * cos.shape[1] > head_dim:
        raise ValueError(f"the table turns {2 * cos.shape[1]} dimensions, a head has {head_dim}")
    if cos.shape[0] < num_rows:
        raise ValueError(f"the table of rotations has {cos.shape[0]} rows, {num_rows} are needed")


def rotate(x: Tensor, cos: Tensor, sin: Tensor, style: Style) -> Tensor:
    """``x`` ``(..., tokens, head_dim)`` turned by row ``t`` of ``cos``, ``sin`` float32 ``(tokens, R/2)``; a new tensor of the same type.

    Raises ``ValueError`` for an unknown style and a table that does not fit.
    """
    check_table(style, x.shape[-1], x.shape[-2], cos, sin)
    if style != "none" and cos.shape[0] != x.shape[-2]:
        raise ValueError(f"{x.shape[-2]} tokens, but {cos.shape[0]} rows of rotations")
    if style == "none" or not x.numel() or x.stride(-1) != 1 or choose(x).name != "cpu":
        return rotate_reference(x, cos, sin, style)
    from rag.kernels.rotate_cpu import rotate_cpu

    return rotate_cpu(x.reshape(-1, *x.shape[-2:]), cos, sin, style).view(x.shape)


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor, style: Style) -> Tensor:
    """The same in torch, in float32 (float64 for a float64 ``x``)."""
    import torch

    if style == "none":
        return x.clone()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = cos.shape[1]
    if style == "half":
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    else:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    out = wide.clone()
    out[..., first] = wide[..., first] * cos - wide[..., second] * sin
    out[..., second] = wide[..., second] * cos + wide[..., first] * sin
    return out.to(x.dtype)
