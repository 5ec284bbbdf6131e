"""Rotation in memory: one compiled pass, a row of a head at a time. Knows addresses; checks no shape. See ``rotate``.

Torch's operations go over everything five to eight times. Results are bit for bit those of the reference.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from rag.kernels.crew import split
from rag.kernels.numbers_cpu import array_at, bits, narrow, pointer, wide
from rag.kernels.row_vectors import fits, move_row

if TYPE_CHECKING:
    from torch import Tensor

STYLES = {"none": 0, "half": 1, "interleaved": 2}
FEW_NUMBERS = 1 << 16
"""Below this many numbers the threads are not asked: waking them takes longer than the work."""


def rotate_cpu(x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
    """See ``rotate.rotate``; ``x`` float32 or bfloat16 ``(heads, tokens, dim)``, its last dimension contiguous."""
    import torch

    out = torch.empty_like(x)
    places = np.array(
        [[each.data_ptr(), *(each.element_size() * step for step in each.stride()[:2])] for each in (x, out)], np.int64
    )
    turns, like = (cos.float().contiguous().numpy(), sin.float().contiguous().numpy()), bits(x).dtype.type(0)

    turn: Any = partial(_turn_rows, style=STYLES[style])
    if style == "half" and fits(x.shape[2], cos.shape[1], packed=False):
        turn = _turn_vectors

    def work(first: int, last: int) -> None:
        turn(places, like, len(x), first, last, x.shape[2], *turns)

    if x.numel() < FEW_NUMBERS:
        work(0, x.shape[1])
    else:
        split(x.shape[1], work)
    return out


@numba.njit(nogil=True, cache=True)
def _turn_vectors(
    places: Any, like: Any, heads: int, first: int, last: int, dim: int, cos: Any, sin: Any
) -> None:  # pragma: no cover - compiled
    for token in range(first, last):
        turned = token * cos.strides[0]
        for head in range(heads):
            stored = places[0, 0] + head * places[0, 1] + token * places[0, 2]
            out = places[1, 0] + head * places[1, 1] + token * places[1, 2]
            move_row(stored, like, 0, cos.ctypes.data + turned, sin.ctypes.data + turned, dim, cos.shape[1], out, like)


@numba.njit(nogil=True, cache=True)
def _turn_rows(
    places: Any, like: Any, heads: int, first: int, last: int, dim: int, cos: Any, sin: Any, style: int
) -> None:  # pragma: no cover - compiled
    row = np.empty(dim, np.float32)
    for token in range(first, last):
        for head in range(heads):
            stored = array_at(pointer(places[0, 0] + head * places[0, 1] + token * places[0, 2], like), dim)
            out = array_at(pointer(places[1, 0] + head * places[1, 1] + token * places[1, 2], like), dim)
            for place in range(dim):
                row[place] = wide(stored[place])
            turn_row(row, cos[token], sin[token], style, out, like)


@numba.njit
def turn_row(row: Any, cos: Any, sin: Any, style: int, out: Any, like: Any) -> None:  # pragma: no cover - compiled
    """Writes a float32 row, turned, to ``out``, rounded to the type of ``like``; what no pair takes in is copied."""
    pairs = len(cos)
    if style == 1:
        for pair in range(pairs):
            out[pair] = narrow(row[pair] * cos[pair] - row[pair + pairs] * sin[pair], like)
        for pair in range(pairs):
            out[pair + pairs] = narrow(row[pair + pairs] * cos[pair] + row[pair] * sin[pair], like)
    elif style == 2:
        for pair in range(pairs):
            out[2 * pair] = narrow(row[2 * pair] * cos[pair] - row[2 * pair + 1] * sin[pair], like)
            out[2 * pair + 1] = narrow(row[2 * pair + 1] * cos[pair] + row[2 * pair] * sin[pair], like)
    for place in range(2 * pairs, len(out)):
        out[place] = narrow(row[place], like)
