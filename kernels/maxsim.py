"""Late interaction of many queries with many documents of any lengths: ``score = sum_i max_j <q_i, d_j>``. Knows vectors and borders.

Source of the score: ColBERT, arXiv 2004.12832. The products of a query with all tokens are never held as a whole. Where documents are
coded as int8, a product is scaled by the number of its token (``scales``). A document without vectors matches nothing: minus infinity.
Floor: 2 Tq Td D operations, and one read of the documents' vectors; at 32 query tokens bfloat16 is bound by that read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor


class Maxima(NamedTuple):
    """``scores`` ``(num_queries, num_documents)``, and in ``rows`` int64 ``(Tq, num_documents)`` the row of the vectors in which the maximum is found."""

    scores: Tensor
    rows: Tensor


def maxsim(queries: Tensor, query_starts: Tensor, vectors: Tensor, starts: Tensor, scales: Tensor | None = None) -> Tensor:
    """Float32 ``(num_queries, num_documents)``.

    Query ``a`` is ``queries[query_starts[a]:query_starts[a + 1]]``, ``queries`` ``(Tq, D)`` float; document ``b`` is
    ``vectors[starts[b]:starts[b + 1]]``, ``vectors`` ``(Td, D)`` of the queries' type, float16, or int8 with ``scales`` float32 ``(Td,)``. A query
    without vectors scores 0. Borders are int64, begin with 0 and ascend. Raises ``ValueError`` for shapes and types that do not fit (borders are
    looked at in memory only, not on a GPU).
    """
    _check(queries, query_starts, vectors, starts, scales)
    return _implementation(choose(queries).name)(queries, query_starts, vectors, starts, scales, rows=None)


def maxsim_rows(queries: Tensor, query_starts: Tensor, vectors: Tensor, starts: Tensor, scales: Tensor | None = None) -> Maxima:
    """``maxsim``, and for every vector of a query the row of ``vectors`` that is nearest to it in each document: what a gradient follows.

    Of equally near rows it is the first; -1 in a document without vectors. Float64 queries have float64 scores, by the reference. Raises as ``maxsim`` does.
    """
    import torch

    _check(queries, query_starts, vectors, starts, scales)
    rows = torch.empty(len(queries), len(starts) - 1, dtype=torch.int64, device=queries.device)
    scores = _implementation(choose(queries).name)(queries, query_starts, vectors, starts, scales, rows=rows)
    return Maxima(scores, rows)


class _Implementation(Protocol):
    def __call__(
        self, queries: Tensor, query_starts: Tensor, vectors: Tensor, starts: Tensor, scales: Tensor | None, *, rows: Tensor | None
    ) -> Tensor:
        """Scores; ``rows`` is filled if it is there."""


def _implementation(name: str) -> _Implementation:
    if name == "triton":
        from rag.kernels.maxsim_triton import maxsim_triton

        return maxsim_triton
    if name == "cpu":
        from rag.kernels.maxsim_cpu import maxsim_cpu

        return maxsim_cpu
    return maxsim_reference


def maxsim_reference(
    queries: Tensor,
    query_starts: Tensor,
    vectors: Tensor,
    starts: Tensor,
    scales: Tensor | None = None,
    *,
    rows: Tensor | None = None,
) -> Tensor:
    """The same pair by pair in float64."""
    import torch

    asked, borders = query_starts.tolist(), starts.tolist()
    wide = vectors.double() if scales is None else vectors.double() * scales.double()[:, None]
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    out = torch.empty(len(asked) - 1, len(borders) - 1, dtype=dtype, device=queries.device)
    for a in range(len(asked) - 1):
        query = queries[asked[a] : asked[a + 1]].double()
        for b in range(len(borders) - 1):
            products = query @ wide[borders[b] : borders[b + 1]].T
            empty = products.new_full((len(query),), float("-inf"))
            out[a, b] = (products.amax(1) if products.shape[1] else empty).sum()
            if rows is not None:
                nearest = products.argmax(1) + borders[b] if products.shape[1] else rows.new_full((len(query),), -1)
                rows[asked[a] : asked[a + 1], b] = nearest
    return out


def _check(queries: Tensor, query_starts: Tensor, vectors: Tensor, starts: Tensor, scales: Tensor | None) -> None:
    import torch

    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} and vectors {tuple(vectors.shape)} must be (tokens, the same dimension)")
    if (vectors.dtype == torch.int8) != (scales is not None):
        raise ValueError(f"vectors are {vectors.dtype}: scales belong to int8 and to nothing else")
    if scales is not None and scales.shape != vectors.shape[:1]:
        raise ValueError(f"{vectors.shape[0]} vectors, but scales {tuple(scales.shape)}")
    for name, borders, num_tokens in (("query_starts", query_starts, len(queries)), ("starts", starts, len(vectors))):
        if borders.ndim != 1 or not len(borders) or borders.dtype != torch.int64:
            raise ValueError(f"{name} is {borders.dtype} {tuple(borders.shape)}: int64 borders are needed, one more than texts")
        if borders.device.type == "cpu":
            ascending = bool((borders[1:] >= borders[:-1]).all())
            if not ascending or int(borders[0]) != 0 or int(borders[-1]) != num_tokens:
                raise ValueError(f"{name} must ascend from 0 to {num_tokens}, the number of vectors")
