"""Pieces of keys and values to assemble, and tables of rotations, for the tests of kernels."""

from __future__ import annotations

import torch

from rag.kernels.assemble import LayerKV
from rag.kernels.quantise import layer_of, quantise_kv


def pieces_of(kind: str, lengths: list[int], key_dim: int, value_dim: int, dtype: torch.dtype) -> list[list[LayerKV]]:
    """Three layers of two heads each; rows of plain pieces are strided, as a view into a larger tensor is."""
    made = torch.Generator().manual_seed(3)
    pieces = []
    for tokens in lengths:
        keys = torch.randn(3, 2, tokens, 2 * key_dim, generator=made).to(dtype)[..., :key_dim]
        values = torch.randn(3, 2, tokens + 3, value_dim, generator=made).to(dtype)[:, :, 3:]
        kv = LayerKV(keys, values) if kind == "plain" else quantise_kv(keys, values, kind)  # type: ignore[arg-type]
        pieces.append([layer_of(kv, layer) for layer in range(3)])
    return pieces


def table(rows: int, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.rand(rows, pairs, generator=torch.Generator().manual_seed(4)) * 100
    return angles.cos(), angles.sin()
