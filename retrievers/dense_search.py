"""Exact nearest neighbours among some rows of a matrix. Knows unit vectors and row numbers; knows no key, file or model.

Two steps: a blocked float32 matrix product finds every row that could be among the best, then those few are scored again
one by one in float64. So a score depends on the two vectors alone: not on how many queries came together, nor on which
segment or block a row lies in, and equal vectors get equal scores.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.retrievers.dense_codes import Int8Rows, widened

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_BLOCK_ROWS = 1 << 14  # 24 MiB of 384-wide vectors: bounds what a gather has to hold at once
_CONVERTED_ROWS = 1 << 10  # rows that become float32 on the way stay in the processor's cache: 10 ms instead of 42 for 50,000
_SCORES_AT_A_TIME = 1 << 24  # 64 MiB of float32
_SLACK = 1e-5  # far above the rounding of a float32 product of unit vectors, far below what tells two chunks apart


class Vectors(Protocol):
    """Rows of vectors that can be read by slice or by row numbers: an array, a memory map, or rows of several of those."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice | Rows, /) -> NDArray[np.float32 | np.float16]: ...


class Found(NamedTuple):
    """Rows of one query, best first (ties: ascending row), and their scores."""

    rows: Rows
    scores: Floats


def search_exact(vectors: Vectors, queries: Floats, k: int, allowed: NDArray[np.bool_] | None = None) -> list[Found]:
    """The best ``k`` allowed rows for each of ``queries`` ``(queries, dim)`` by inner product.

    ``allowed`` is one boolean per row; ``None`` allows all. Rows that are not allowed are not read where they are many.
    """
    num_rows = vectors.shape[0]
    rows = np.arange(num_rows, dtype=np.int64) if allowed is None else np.flatnonzero(allowed)
    if not len(rows) or not len(queries):
        return [_nothing() for _ in queries]
    read_all = len(rows) * 2 > num_rows  # gathering half the rows costs more than multiplying the other half
    columns = num_rows if read_all else len(rows)
    at_a_time = max(1, _SCORES_AT_A_TIME // columns)
    is_float32 = isinstance(vectors, np.ndarray) and vectors.dtype == np.float32
    num_block_rows = _BLOCK_ROWS if is_float32 else _CONVERTED_ROWS
    found: list[Found] = []
    for first in range(0, len(queries), at_a_time):
        some = queries[first : first + at_a_time]
        scores = np.empty((len(some), columns), np.float32)
        for start in range(0, columns, num_block_rows):
            stop = min(start + num_block_rows, columns)
            scores[:, start:stop] = _products(vectors, some, slice(start, stop) if read_all else rows[start:stop])
        for query, row_scores in zip(some, scores, strict=True):
            candidates = _could_be_best(row_scores[rows] if read_all and len(rows) < num_rows else row_scores, k)
            found.append(rescore(vectors, query, rows[candidates], k))
    return found


def rescore(vectors: Vectors, query: Floats, rows: Rows, k: int) -> Found:
    """The best ``k`` of ``rows`` with their float64 inner products, rounded to float32."""
    if not len(rows):
        return _nothing()
    exact = np.einsum("ij,j->i", vectors[rows].astype(np.float64), query.astype(np.float64))
    scores = exact.astype(np.float32)
    best = np.lexsort((rows, -scores))[:k]
    return Found(rows[best], scores[best])


def search_reference(vectors: Vectors, queries: Floats, k: int, allowed: NDArray[np.bool_] | None = None) -> list[Found]:
    """The same by sorting every row: slow, and what ``search_exact`` is held against."""
    rows = np.arange(vectors.shape[0]) if allowed is None else np.flatnonzero(allowed)
    return [rescore(vectors, query, rows, k) for query in queries]


def _products(vectors: Vectors, queries: Floats, rows: slice | Rows) -> Floats:
    """``(queries, rows)`` inner products in float32."""
    if isinstance(vectors, Int8Rows):
        return vectors.products(queries, rows)
    block = vectors[rows]
    numbers = widened(block.astype(np.float16, copy=False)) if block.dtype == np.float16 else block.astype(np.float32, copy=False)
    products: Floats = np.matmul(queries, numbers.T)
    return products


def _could_be_best(scores: Floats, k: int) -> Rows:
    """Ascending places of all scores that may belong to the best ``k``, rounding considered."""
    if k >= len(scores):
        return np.arange(len(scores))
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= kth - _SLACK)


def _nothing() -> Found:
    return Found(np.empty(0, np.int64), np.empty(0, np.float32))
