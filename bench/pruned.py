"""Exact top k that skips postings, in two classic ways: tried against scoring them all, and not part of the library.

``block_max``: chunks stand in blocks; per term and block the largest weight is known. Upper bounds of all blocks are summed first,
then blocks are scored from the best bound down until no bound reaches the k-th best score (as in block-max pruning, arXiv 2405.01117).
``max_score``: terms are split by their largest weight; the lists of those that cannot lift a chunk into the top k together are only
asked about chunks that the others made candidates of (Turtle & Flood 1995).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

_LEVELS = 1024


class Lists(NamedTuple):
    """Posting lists by term, ordinals ascending, weights in float32."""

    starts: Any
    ordinals: Any
    weights: Any
    num_chunks: int


class BlockMax(NamedTuple):
    """Per term its blocks, their largest weights, and where their postings begin."""

    size: int
    starts: Any
    blocks: Any
    largest: Any
    places: Any


def block_max_of(lists: Lists, size: int) -> BlockMax:
    term = np.repeat(np.arange(len(lists.starts) - 1), np.diff(lists.starts))
    pair = term * (lists.num_chunks // size + 1) + lists.ordinals // size
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    largest = np.maximum.reduceat(lists.weights, first)
    starts = np.searchsorted(first, lists.starts)
    blocks = (lists.ordinals[first] // size).astype(np.int32)
    return BlockMax(size, starts, blocks, largest.astype(np.float32), np.append(first, len(pair)).astype(np.int64))


@numba.njit(cache=True)
def _push(scores: Any, ordinals: Any, score: Any, ordinal: Any) -> None:
    """Into a list that is sorted, best first; ``k`` is small."""
    place = len(scores) - 1
    while place > 0 and (score > scores[place - 1] or (score == scores[place - 1] and ordinal < ordinals[place - 1])):
        scores[place] = scores[place - 1]
        ordinals[place] = ordinals[place - 1]
        place -= 1
    scores[place] = score
    ordinals[place] = ordinal


@numba.njit(cache=True)
def block_max(
    ordinals: Any, weights: Any, num_chunks: Any, size: Any, starts: Any, blocks: Any, largest: Any, places: Any,
    terms: Any, query: Any, k: Any,
) -> Any:  # fmt: skip
    """Best ordinals, their scores, and the share of blocks that was scored."""
    num_blocks = num_chunks // size + 1
    bounds = np.zeros(num_blocks, np.float32)
    for number in range(len(terms)):
        for entry in range(starts[terms[number]], starts[terms[number] + 1]):
            bounds[blocks[entry]] += query[number] * largest[entry]
    top = bounds.max() * np.float32(1.0001) + np.float32(1e-9)
    counts = np.zeros(_LEVELS + 1, np.int64)
    for block in range(num_blocks):
        counts[_LEVELS - np.int64(bounds[block] / top * _LEVELS)] += 1
    ends = np.cumsum(counts)
    order = np.empty(num_blocks, np.int64)
    for block in range(num_blocks - 1, -1, -1):
        level = _LEVELS - np.int64(bounds[block] / top * _LEVELS)
        ends[level] -= 1
        order[ends[level]] = block
    best_scores, best_ordinals = np.zeros(k, np.float32), np.full(k, num_chunks)
    scores = np.zeros(size, np.float32)
    scored = 0
    for block in order:
        level = np.int64(bounds[block] / top * _LEVELS)
        if (level + 1) * top / _LEVELS < best_scores[k - 1] or bounds[block] == 0:
            break  # no block after this one has a higher bound
        if bounds[block] * np.float32(1.00001) < best_scores[k - 1]:
            continue
        scored += 1
        scores[:] = 0
        for number in range(len(terms)):
            low, high = starts[terms[number]], starts[terms[number] + 1]
            end = high
            while low < high:
                middle = (low + high) // 2
                if blocks[middle] < block:
                    low = middle + 1
                else:
                    high = middle
            if low < end and blocks[low] == block:
                for place in range(places[low], places[low + 1]):
                    scores[ordinals[place] - block * size] += query[number] * weights[place]
        for lane in range(size):
            ordinal = block * size + lane
            if scores[lane] > best_scores[k - 1] or (scores[lane] == best_scores[k - 1] and ordinal < best_ordinals[k - 1]):
                _push(best_scores, best_ordinals, scores[lane], ordinal)
    return best_ordinals, best_scores, scored / num_blocks


@numba.njit(cache=True)
def max_score(starts: Any, ordinals: Any, weights: Any, num_chunks: Any, largest: Any, terms: Any, query: Any, k: Any) -> Any:
    """Best ordinals, their scores, and the share of postings that was read in order."""
    window = 8192
    bounds = np.empty(len(terms), np.float32)
    for number in range(len(terms)):
        bounds[number] = query[number] * largest[terms[number]]
    order = np.argsort(bounds)
    below = np.cumsum(bounds[order])
    cursors = starts[terms].copy()
    best_scores, best_ordinals = np.zeros(k, np.float32), np.full(k, num_chunks)
    scores = np.zeros(window, np.float32)
    read, total = 0, 0
    for number in range(len(terms)):
        total += starts[terms[number] + 1] - starts[terms[number]]
    for first in range(0, num_chunks, window):
        num_optional = 0  # the first so many of ``order`` cannot lift a chunk into the best
        while num_optional < len(terms) and below[num_optional] * np.float32(1.0001) < best_scores[k - 1]:
            num_optional += 1
        missing = below[num_optional - 1] * np.float32(1.0001) if num_optional else np.float32(0)
        for rank in range(num_optional, len(terms)):
            number = order[rank]
            place, end = cursors[number], starts[terms[number] + 1]
            while place < end and ordinals[place] < first:
                low, high = place, end
                while low < high:
                    middle = (low + high) // 2
                    if ordinals[middle] < first:
                        low = middle + 1
                    else:
                        high = middle
                place = low
            begin = place
            while place < end and ordinals[place] < first + window:
                scores[ordinals[place] - first] += query[number] * weights[place]
                place += 1
            read += place - begin
            cursors[number] = place
        for lane in range(min(window, num_chunks - first)):
            score = scores[lane]
            if score > 0 and score + missing >= best_scores[k - 1]:
                rank = num_optional - 1
                while rank >= 0 and score + below[rank] * np.float32(1.0001) >= best_scores[k - 1]:
                    number = order[rank]
                    low, high = cursors[number], starts[terms[number] + 1]
                    while low < high:
                        middle = (low + high) // 2
                        if ordinals[middle] < first + lane:
                            low = middle + 1
                        else:
                            high = middle
                    if low < starts[terms[number] + 1] and ordinals[low] == first + lane:
                        score += query[number] * weights[low]
                    rank -= 1
                if rank < 0 and score > best_scores[k - 1]:
                    _push(best_scores, best_ordinals, score, first + lane)
        scores[:] = 0
    return best_ordinals, best_scores, read / max(total, 1)
