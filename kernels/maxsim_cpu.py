"""Late interaction on a processor: a matrix product per block of documents, then a compiled loop over maxima. See ``maxsim``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from rag.kernels.crew import each

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_TOKENS = 16_384
"""Tokens of documents whose products exist at a time, per thread."""


def maxsim_cpu(
    queries: Tensor, query_starts: Tensor, vectors: Tensor, starts: Tensor, scales: Tensor | None, *, rows: Tensor | None
) -> Tensor:
    """See ``maxsim.maxsim``."""
    import torch

    out = torch.empty(len(starts) - 1, len(query_starts) - 1)
    asked, borders, query_borders = queries.float().T.contiguous(), starts.numpy(), query_starts.numpy()
    found = out.numpy()
    nearest = None if rows is None else np.empty((len(out), len(queries)), np.int64)

    def score(block: tuple[int, int]) -> None:
        first, last = block
        begin, end = int(borders[first]), int(borders[last])
        products = vectors[begin:end].float() @ asked
        if scales is not None:
            products *= scales[begin:end, None]
        within = borders[first : last + 1] - begin
        if nearest is None:
            _sums_of_maxima(products.numpy(), within, query_borders, found[first:last])
        else:
            _rows_of_maxima(products.numpy(), within, query_borders, begin, found[first:last], nearest[first:last])

    each(_blocks(borders), score)
    if rows is not None:
        rows.copy_(torch.from_numpy(nearest).T)
    return out.T.contiguous()


def _blocks(borders: Any) -> list[tuple[int, int]]:
    """Ranges of documents of about ``BLOCK_TOKENS`` tokens, one document at least."""
    ranges, first = list[tuple[int, int]](), 0
    while first < len(borders) - 1:
        last = int(np.searchsorted(borders, borders[first] + BLOCK_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), len(borders) - 1)
        ranges.append((first, last))
        first = last
    return ranges


@numba.njit(nogil=True, cache=True)
def _add_up(best: Any, query_borders: Any, out: Any) -> None:  # pragma: no cover - compiled
    for query in range(len(query_borders) - 1):
        total = np.float32(0)
        for place in range(query_borders[query], query_borders[query + 1]):
            total += best[place]
        out[query] = total


@numba.njit(nogil=True, cache=True)
def _sums_of_maxima(products: Any, borders: Any, query_borders: Any, out: Any) -> None:  # pragma: no cover - compiled
    best = np.empty(products.shape[1], np.float32)
    for row in range(len(out)):
        best[:] = -np.inf
        for token in range(borders[row], borders[row + 1]):
            for place in range(products.shape[1]):
                best[place] = max(best[place], products[token, place])
        _add_up(best, query_borders, out[row])


@numba.njit(nogil=True, cache=True)
def _rows_of_maxima(
    products: Any, borders: Any, query_borders: Any, begin: Any, out: Any, rows: Any
) -> None:  # pragma: no cover - compiled
    best = np.empty(products.shape[1], np.float32)
    for row in range(len(out)):
        best[:] = -np.inf
        rows[row] = -1
        for token in range(borders[row], borders[row + 1]):
            for place in range(products.shape[1]):
                nearer = products[token, place] > best[place]
                best[place] = products[token, place] if nearer else best[place]
                rows[row, place] = begin + token if nearer else rows[row, place]
        _add_up(best, query_borders, out[row])
