"""Log-probabilities of given words on a GPU: a Triton kernel and its launcher. Knows tiles; checks no shape. See ``token_logprob``.

A program takes a tile of rows and a part of the vocabulary, keeps a running maximum and sum per row, and picks the target's logit when it
comes by. The parts are merged at the end: with few rows the vocabulary is what there is to share out.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from rag.kernels import tiles

if TYPE_CHECKING:
    from torch import Tensor

PROGRAMS = 264
"""About two a multiprocessor of an H200."""


def token_logprob_triton(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    """See ``token_logprob.token_logprob``."""
    import torch

    num_rows, num_words = len(hidden), len(weight)
    if not num_rows:
        return torch.empty(0, device=hidden.device)
    arch, dim = tiles.architecture(hidden.device), hidden.shape[1]
    tile = tiles.tile_for("logprob", arch, dim, tiles.shape_of("logprob", num_rows))
    row_tiles, word_tiles = triton.cdiv(num_rows, tile.rows), triton.cdiv(num_words, tile.keys)
    num_parts = max(1, min(word_tiles, triton.cdiv(PROGRAMS, row_tiles)))
    lses = torch.empty(num_parts, num_rows, device=hidden.device)
    chosen = torch.empty_like(lses)
    sums[(row_tiles, num_parts)](
        hidden.contiguous(),
        weight.contiguous(),
        targets,
        hidden if bias is None else bias.contiguous(),
        lses,
        chosen,
        num_rows,
        num_words,
        triton.cdiv(word_tiles, num_parts) * tile.keys,
        dim,
        BIAS=bias is not None,
        BM=tile.rows,
        BV=tile.keys,
        BD=tile.depth,
        PRECISION="ieee" if hidden.dtype == torch.float32 else "tf32",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return chosen.amax(0) - torch.logsumexp(lses, 0)  # one part found the target, the others say minus infinity


@triton.jit
def sums(
    hidden,
    weight,
    targets,
    bias,
    lses,
    chosen,
    num_rows,
    num_words,
    words_a_part,
    dim,
    BIAS: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    part = tl.program_id(1)
    there = row < num_rows
    target = tl.load(targets + row, mask=there, other=-1)
    place, d = tl.arange(0, BV), tl.arange(0, BD)
    rows = hidden + row.to(tl.int64)[:, None] * dim
    most = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    found = tl.full((BM,), float("-inf"), tl.float32)
    end = tl.minimum((part + 1) * words_a_part, num_words)
    for begin in range(part * words_a_part, end, BV):
        word = begin + place
        known = word < end
        words = weight + word.to(tl.int64)[None, :] * dim
        logits = tl.zeros((BM, BV), tl.float32)
        for start in range(0, dim, BD):
            inside = (start + d) < dim
            x = tl.load(rows + (start + d)[None, :], mask=there[:, None] & inside[None, :], other=0.0)
            w = tl.load(words + (start + d)[:, None], mask=inside[:, None] & known[None, :], other=0.0)
            logits = tl.dot(x, w, logits, input_precision=PRECISION)
        if BIAS:
            logits += tl.load(bias + word, mask=known, other=0.0).to(tl.float32)[None, :]
        logits = tl.where(known[None, :], logits, float("-inf"))
        found = tl.maximum(found, tl.max(tl.where(word[None, :] == target[:, None], logits, float("-inf")), 1))
        higher = tl.maximum(most, tl.max(logits, 1))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        most = higher
    tl.store(lses + part.to(tl.int64) * num_rows + row, most + tl.log(total), mask=there)
    tl.store(chosen + part.to(tl.int64) * num_rows + row, found, mask=there)
