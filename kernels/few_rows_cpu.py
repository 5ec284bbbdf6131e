"""Attention of a few query rows over many keys in memory: decoding. Knows rows that share a key head; checks no shape.

Keys and values are read once, as they are stored, 32 keys at a time. A part of the keys of one head is one piece of work with a state of its
own (largest score, denominator, weighted sum); the states are merged at the end. With so few rows the time is that of reading.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from rag.kernels.crew import split
from rag.kernels.numbers_cpu import exponential, wide

_KEYS_PER_PART = 512
_BLOCK_KEYS = 32
_LANES = 4
_LOOSE = {"reassoc", "contract", "nsz"}  # no promise about the order of sums; infinities and NaN stay what they are


def few_rows(
    rows: NDArray[np.float32],
    keys: NDArray[Any],
    values: NDArray[Any],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    softcap: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``(Hkv, R, Dv)`` and the logarithm of the denominators ``(Hkv, R)``.

    ``rows`` ``(Hkv, R, Dk)`` are scaled queries; row r of every head sees the keys ``first[r] <= j < last[r]``. ``keys`` ``(Hkv, N, Dk)`` and
    ``values`` ``(Hkv, N, Dv)`` are float32 or the bits of bfloat16. ``softcap`` 0: none.
    """
    num_heads, num_rows, _ = rows.shape
    padded = -num_rows % _LANES
    lanes = np.pad(rows, ((0, 0), (0, padded), (0, 0)))
    first = np.pad(first, (0, padded), constant_values=np.iinfo(np.int64).max)
    last = np.pad(last, (0, padded))
    low, high = max(int(first.min(initial=0)), 0), int(last.max(initial=0))
    if num_rows:
        low = max(int(first[:num_rows].min()), 0)
    parts = max(1, -(-(high - low) // _KEYS_PER_PART))
    largest = np.full((num_heads, parts, num_rows + padded), -np.inf, np.float32)
    total = np.zeros((num_heads, parts, num_rows + padded), np.float32)
    weighted = np.zeros((num_heads, parts, num_rows + padded, values.shape[2]), np.float32)

    def work(begin: int, end: int) -> None:
        _read(begin, end, low, high, lanes, keys, values, first, last, np.float32(softcap), largest, total, weighted)

    split(num_heads * parts, 2, work)
    whole = largest.max(1)
    shift = np.where(np.isneginf(whole), np.float32(0), whole)
    weight = np.exp(largest - shift[:, None])
    total = (weight * total).sum(1)
    with np.errstate(divide="ignore"):
        lse = shift + np.log(total)
    out = (weight[..., None] * weighted).sum(1) / np.where(total > 0, total, np.float32(1))[..., None]
    return out[:, :num_rows], lse[:, :num_rows]


@numba.njit(nogil=True, cache=True, fastmath=_LOOSE)
def _read(
    begin: int,
    end: int,
    low: int,
    high: int,
    lanes: Any,
    keys: Any,
    values: Any,
    first: Any,
    last: Any,
    softcap: Any,
    largest: Any,
    total: Any,
    weighted: Any,
) -> None:  # pragma: no cover - compiled
    num_rows, key_dim, value_dim, parts = lanes.shape[1], lanes.shape[2], values.shape[2], largest.shape[1]
    scores = np.empty((num_rows, _BLOCK_KEYS), np.float32)
    for unit in range(begin, end):
        head, part = unit // parts, unit % parts
        start = low + part * _KEYS_PER_PART
        stop = min(start + _KEYS_PER_PART, high)
        for block in range(start, stop, _BLOCK_KEYS):
            num_keys = min(_BLOCK_KEYS, stop - block)
            for place in range(num_keys):
                key = keys[head, block + place]
                for lane in range(0, num_rows, _LANES):
                    one, two, three, four = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                    for dim in range(key_dim):
                        number = wide(key[dim])
                        one += lanes[head, lane, dim] * number
                        two += lanes[head, lane + 1, dim] * number
                        three += lanes[head, lane + 2, dim] * number
                        four += lanes[head, lane + 3, dim] * number
                    scores[lane, place] = one
                    scores[lane + 1, place] = two
                    scores[lane + 2, place] = three
                    scores[lane + 3, place] = four
            for lane in range(num_rows):
                if softcap > 0:
                    for place in range(num_keys):
                        scores[lane, place] = softcap * np.tanh(scores[lane, place] / softcap)
                for place in range(num_keys):
                    if not first[lane] <= block + place < last[lane]:
                        scores[lane, place] = np.float32(-np.inf)
                best = largest[head, part, lane]
                for place in range(num_keys):
                    best = max(best, scores[lane, place])
                if best == -np.inf:
                    scores[lane, :num_keys] = np.float32(0)
                    continue
                if best > largest[head, part, lane]:
                    fade = np.float32(np.exp(largest[head, part, lane] - best))
                    largest[head, part, lane] = best
                    total[head, part, lane] *= fade
                    for dim in range(value_dim):
                        weighted[head, part, lane, dim] *= fade
                whole = np.float32(0)
                for place in range(num_keys):
                    weight = exponential(scores[lane, place] - best)
                    scores[lane, place] = weight
                    whole += weight
                total[head, part, lane] += whole
            for lane in range(num_rows):
                scores[lane, num_keys:] = np.float32(0)
            for place in range(0, num_keys, 8):  # rows past the end: the last one again, with weight 0
                end_row = block + num_keys - 1
                at = block + place
                v0, v1 = values[head, at], values[head, min(at + 1, end_row)]
                v2, v3 = values[head, min(at + 2, end_row)], values[head, min(at + 3, end_row)]
                v4, v5 = values[head, min(at + 4, end_row)], values[head, min(at + 5, end_row)]
                v6, v7 = values[head, min(at + 6, end_row)], values[head, min(at + 7, end_row)]
                for lane in range(num_rows):
                    sums, w = weighted[head, part, lane], scores[lane, place : place + 8]
                    w0, w1, w2, w3, w4, w5, w6, w7 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]
                    for dim in range(value_dim):
                        low_sum = w0 * wide(v0[dim]) + w1 * wide(v1[dim]) + w2 * wide(v2[dim]) + w3 * wide(v3[dim])
                        high_sum = w4 * wide(v4[dim]) + w5 * wide(v5[dim]) + w6 * wide(v6[dim]) + w7 * wide(v7[dim])
                        sums[dim] += low_sum + high_sum
