"""Late interaction on a GPU: a Triton kernel and its launcher. Knows tiles; checks no shape. See ``maxsim``.

A program holds a tile of one query and walks over one document; maxima stay in registers, and only one number is written. Products
are of the queries' type: int8 codes are exact in bfloat16, and their scale comes after the product.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from rag.kernels import tiles

if TYPE_CHECKING:
    from torch import Tensor


def maxsim_triton(
    queries: Tensor, query_starts: Tensor, vectors: Tensor, starts: Tensor, scales: Tensor | None, *, rows: Tensor | None
) -> Tensor:
    """See ``maxsim.maxsim``."""
    import torch

    num_queries, num_documents = len(query_starts) - 1, len(starts) - 1
    out = torch.empty(num_queries, num_documents, device=queries.device)
    if not num_queries or not num_documents:
        return out
    dim = queries.shape[1]
    tile = tiles.tile_for("maxsim", tiles.architecture(queries.device), dim, "plain" if scales is None else "codes")
    maxima[(num_documents, num_queries)](
        queries.contiguous(),
        query_starts,
        vectors.contiguous(),
        starts,
        queries if scales is None else scales.contiguous(),
        out,
        out if rows is None else rows,
        num_documents,
        D=dim,
        DP=max(16, triton.next_power_of_2(dim)),
        BQ=tile.rows,
        BN=tile.keys,
        CODED=scales is not None,
        ROWS=rows is not None,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


@triton.jit
def maxima(
    queries,
    query_starts,
    vectors,
    starts,
    scales,
    out,
    rows,
    num_documents,
    D: tl.constexpr,
    DP: tl.constexpr,
    BQ: tl.constexpr,
    BN: tl.constexpr,
    CODED: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    document, query = tl.program_id(0), tl.program_id(1)
    first, last = tl.load(starts + document), tl.load(starts + document + 1)
    begin, end = tl.load(query_starts + query), tl.load(query_starts + query + 1)
    d, row, column = tl.arange(0, DP), tl.arange(0, BQ), tl.arange(0, BN)
    total = 0.0
    for tile in range(begin, end, BQ):
        asked = (tile + row) < end
        q = tl.load(queries + (tile + row)[:, None] * D + d[None, :], mask=asked[:, None] & (d < D)[None, :], other=0.0)
        best = tl.full((BQ,), float("-inf"), tl.float32)
        nearest = tl.full((BQ,), -1, tl.int32)
        for token in range(first, last, BN):
            held = (token + column) < last
            v = tl.load(vectors + (token + column)[None, :] * D + d[:, None], mask=held[None, :] & (d < D)[:, None], other=0)
            products = tl.dot(q, v.to(q.dtype), input_precision=PRECISION)
            if CODED:
                products *= tl.load(scales + token + column, mask=held, other=0.0)[None, :]
            products = tl.where(held[None, :], products, float("-inf"))
            if ROWS:
                highest, place = tl.max(products, 1, return_indices=True, return_indices_tie_break_left=True)
                nearest = tl.where(highest > best, (token - first).to(tl.int32) + place, nearest)
                best = tl.maximum(best, highest)
            else:
                best = tl.maximum(best, tl.max(products, 1))
        total += tl.sum(tl.where(asked, best, 0.0), 0)
        if ROWS:
            found = tl.where(nearest < 0, -1, first + nearest)
            tl.store(rows + (tile + row) * num_documents + document, found, mask=asked)
    tl.store(out + query.to(tl.int64) * num_documents + document, total)
