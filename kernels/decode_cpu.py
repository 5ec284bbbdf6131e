"""Attention of one token in memory: a compiled pass over keys, one over values. Knows addresses; checks no shape. See ``selective_attention``.

A decoding step reads every key and value once for a handful of query heads: too few rows for a matrix product, and nothing but the reading should
cost. The query heads of a key head share each row that is read; bfloat16 is widened on the way. Scores stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from rag.kernels.crew import each
from rag.kernels.numbers_cpu import bits
from rag.kernels.row_vectors import add_row, dot_row, fits

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADS = 8
"""Query heads of a key head; more are rows enough for a matrix product."""
BLOCK_KEYS = 256
"""Keys whose values are summed apart: a sum of thousands of float32 loses digits."""
FEW_NUMBERS = 1 << 22
"""Below this many numbers of keys the threads are not asked: waking them takes longer than the work."""


def takes(group: int, key_dim: int, value_dim: int) -> bool:
    """Whether heads of these sizes are computed here."""
    return group <= MOST_HEADS and fits(key_dim, 0, packed=False) and fits(value_dim, 0, packed=False)


def decode_cpu(
    queries: Tensor, keys: Tensor, values: Tensor, begin: int, end: int, *, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """``(Hq, Dv)`` in the queries' type and float32 ``(Hq,)``: ``queries`` ``(Hq, Dk)`` over the keys ``begin .. end``, one at least.

    ``keys`` ``(Hkv, capacity, Dk)`` and ``values`` ``(Hkv, capacity, Dv)`` are of the queries' type, their last dimension contiguous; see ``takes``.
    """
    import torch

    heads, _, value_dim = values.shape
    rows = queries.detach().float().view(heads, -1, queries.shape[1]).contiguous()
    out, lse = torch.zeros(*rows.shape[:2], value_dim), torch.empty(rows.shape[:2])

    def work(some: slice) -> None:
        scores = torch.empty(some.stop - some.start, rows.shape[1], end - begin)
        _products(_places(keys, some, begin), like, rows[some].numpy(), scores.numpy())
        scores *= scale
        if softcap:
            scores.div_(softcap).tanh_().mul_(softcap)
        torch.logsumexp(scores, 2, out=lse[some])
        weights = scores.sub_(lse[some, :, None]).exp_()
        _weighted_sums(_places(values, some, begin), like, weights.numpy(), out[some].numpy())

    like = bits(keys[:0]).dtype.type(0)
    if heads * (end - begin) * queries.shape[1] < FEW_NUMBERS:
        work(slice(0, heads))
    else:
        step = -(-heads // torch.get_num_threads())
        each([slice(head, min(head + step, heads)) for head in range(0, heads, step)], work)
    return out.flatten(0, 1).to(queries.dtype), lse.flatten()


def _places(rows: Tensor, heads: slice, begin: int) -> NDArray[np.int64]:
    """Address of the first row, bytes to the next head, bytes to the next row."""
    size, (to_head, to_row, _) = rows.element_size(), rows.stride()
    return np.array([rows.data_ptr() + size * (heads.start * to_head + begin * to_row), size * to_head, size * to_row], np.int64)


@numba.njit(nogil=True, cache=True)
def _products(places: Any, like: Any, rows: Any, scores: Any) -> None:  # pragma: no cover - compiled
    heads, group, num_keys = scores.shape
    dim = rows.shape[2]
    for head in range(heads):
        for key in range(num_keys):
            stored = places[0] + head * places[1] + key * places[2]
            for query in range(group):
                scores[head, query, key] = dot_row(rows.ctypes.data + 4 * dim * (head * group + query), stored, like, dim)


@numba.njit(nogil=True, cache=True)
def _weighted_sums(places: Any, like: Any, weights: Any, out: Any) -> None:  # pragma: no cover - compiled
    heads, group, num_keys = weights.shape
    dim = out.shape[2]
    sums = np.empty((group, dim), np.float32)
    for head in range(heads):
        for first in range(0, num_keys, BLOCK_KEYS):
            sums[:] = 0
            for key in range(first, min(first + BLOCK_KEYS, num_keys)):
                stored = places[0] + head * places[1] + key * places[2]
                for query in range(group):
                    add_row(stored, like, weights[head, query, key], dim, sums.ctypes.data + 4 * dim * query)
            out[head] += sums
