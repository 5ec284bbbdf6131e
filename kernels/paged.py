"""Keys and values that lie in pages of a pool: pieces to assemble out of them, and rows to assemble into them. Knows slots; no model, no allocator.

A pool is one buffer of rows; page p of n rows has the rows ``p n .. (p + 1) n``. A chunk or a prompt is a list of pages, its block table: its row t is
the row ``pages[t // n] * n + t % n`` of the pool, its slot (PagedAttention, arXiv 2309.06180). What one page holds lies in a row, so a paged chunk is as many pieces as it has
pages, and ``assemble`` takes it as it takes any others: views (but for the scales of values), and the same launch. Floor: that of ``assemble``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.kernels.assemble import LayerKV, assemble_layers
from rag.kernels.rotate import Style

if TYPE_CHECKING:
    from torch import Tensor


def pieces_of_pages(
    pool: Sequence[LayerKV], pages: Sequence[int], page_rows: int, num_tokens: int, start: int = 0
) -> tuple[list[list[LayerKV]], list[int]]:
    """Pieces and starts for ``assemble_layers``: the first ``num_tokens`` tokens of a chunk that lies in ``pages``, to stand from ``start`` on.

    ``pool``: by layer keys ``(Hkv, rows, Dk)`` and values ``(Hkv, rows, Dv)`` of whole pages of ``page_rows`` rows. Codes come with the chunk's own ``key_scales``
    ``(Hkv, Dk)`` and the pool's ``value_scales`` ``(Hkv, rows)``. Raises ``ValueError`` for pages that the pool does not have and for a table that is too short.
    """
    _check_pages(pages, page_rows, pool[0].num_tokens if pool else 0, num_tokens)
    pieces, starts = [], []
    for number, first in enumerate(range(0, num_tokens, page_rows)):
        begin = pages[number] * page_rows
        rows = slice(begin, begin + min(page_rows, num_tokens - first))
        pieces.append([_rows_of(layer, rows) for layer in pool])
        starts.append(start + first)
    return pieces, starts


def assemble_pages(
    pieces: Sequence[Sequence[LayerKV]],
    starts: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    style: Style,
    keys: Tensor,
    values: Tensor,
    *,
    pages: Sequence[int],
    page_rows: int,
) -> None:
    """``assemble_layers`` into pages: token t of a piece is rotated to position ``start + t`` and written to that position's slot.

    ``keys`` ``(L, Hkv, slots, Dk)`` and ``values`` ``(L, Hkv, slots, Dv)`` are pools of whole pages, ``pages`` the block table of the prompt. No other slot is touched.
    Raises ``ValueError`` as ``assemble_layers`` does (rows are slots then), and for pages that the pools do not have or that are named twice.
    """
    import torch

    num_tokens = max((start + layers[0].num_tokens for layers, start in zip(pieces, starts, strict=True)), default=0)
    _check_pages(pages, page_rows, keys.shape[2], num_tokens)
    if len(set(pages)) < len(pages):
        raise ValueError("a page is named twice")
    parts: list[list[LayerKV]] = []
    slots: list[int] = []
    turned: list[tuple[int, int, int]] = []
    for layers, start in zip(pieces, starts, strict=True):
        if start < 0:
            raise ValueError(f"a piece would start at row {start}")
        position, end = start, start + layers[0].num_tokens
        while position < end:
            until = min(end, (position // page_rows + 1) * page_rows)
            slot = pages[position // page_rows] * page_rows + position % page_rows
            parts.append([_rows_of(layer, slice(position - start, until - start)) for layer in layers])
            slots.append(slot)
            turned.append((slot, position, until - position))
            position = until
    if style != "none" and turned:
        if num_tokens > min(len(cos), len(sin)):
            raise ValueError(f"the table of rotations has {min(len(cos), len(sin))} rows, {num_tokens} are needed")
        by_slot = torch.zeros(2, max(slot + length for slot, _, length in turned), cos.shape[1], device=cos.device)
        for slot, position, length in turned:
            for table, given in zip(by_slot, (cos, sin), strict=True):
                table[slot : slot + length] = given[position : position + length]
        cos, sin = by_slot
    assemble_layers(parts, slots, cos, sin, style, keys, values)


def _rows_of(layer: LayerKV, rows: slice) -> LayerKV:
    value_scales = None if layer.value_scales is None else layer.value_scales[:, rows].contiguous()
    return LayerKV(layer.keys[:, rows], layer.values[:, rows], layer.key_scales, value_scales, layer.kind)


def _check_pages(pages: Sequence[int], page_rows: int, num_rows: int, num_tokens: int) -> None:
    if page_rows < 1 or num_rows % page_rows:
        raise ValueError(f"pages of {page_rows} rows do not make up a pool of {num_rows}")
    wrong = [page for page in pages if not 0 <= page < num_rows // page_rows]
    if wrong:
        raise ValueError(f"page {wrong[0]} is not among the {num_rows // page_rows} of the pool")
    if num_tokens > len(pages) * page_rows:
        raise ValueError(f"{num_tokens} tokens do not fit into {len(pages)} pages of {page_rows} rows")
