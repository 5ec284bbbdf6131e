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


def maxsim_cpu(queries: Tensor, query_starts: Tensor, vectors: Tensor, starts: Tensor, scales: Tensor | None) -> Tensor:
    """See ``maxsim.maxsim``."""
    import torch

    out = torch.empty(len(starts) - 1, len(query_starts) - 1)
    asked, borders, query_borders = queries.float().T.contiguous(), starts.numpy(), query_starts.numpy()
    found = out.numpy()

    def score(block: tuple[int, int]) -> None:
        first, last = block
        begin, end = int(borders[first]), int(borders[last])
        products = vectors[begin:end].float() @ asked
        if scales is not None:
            products *= scales[begin:end, None]
        _sums_of_maxima(products.numpy(), borders[first : last + 1] - begin, query_borders, found[first:last])

    each(_blocks(borders), score)
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
def _sums_of_maxima(products: Any, borders: Any, query_borders: Any, out: Any) -> None:  # pragma: no cover - compiled
    best = np.empty(products.shape[1], np.float32)
    for row in range(len(out)):
        best[:] = -np.inf
        for token in range(borders[row], borders[row + 1]):
            for place in range(products.shape[1]):
                best[place] = max(best[place], products[token, place])
        for query in range(len(query_borders) - 1):
            total = np.float32(0)
            for place in range(query_borders[query], query_borders[query + 1]):
                total += best[place]
            out[row, query] = total
