"""Queries over several segments of postings: threads, and the best of all segments. Knows ranges and scores; knows no term."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from rag.core import Matches
from rag.errors import ConfigError
from rag.kernels.crew import num_cores
from rag.retrievers.posting_score import Best, Chooser, Ranges, Scored, best_by_numba, best_by_numpy

_POSTINGS_PER_THREAD = 2_000_000


def search_postings(
    num_queries: int,
    segments: Sequence[Scored],
    ranges: Sequence[Ranges],
    k: int,
    allow: NDArray[np.bool_] | None,
    chooser: Chooser,
    num_threads: int,
) -> list[Matches]:
    """At most ``k`` chunks per query, best first, ties by ascending key; ``ranges``: the same queries for each segment.

    A batch with many postings is shared between threads. Raises ``ValueError`` if ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k!r}")
    if allow is not None:
        allow = np.ascontiguousarray(allow, np.bool_)
    num_postings = sum(int((each.ends - each.starts).sum()) for each in ranges)
    choice = chooser.choose(num_postings)
    best_of = best_by_numba if choice.engine == "numba" else best_by_numpy

    def search(first: int, last: int) -> list[Matches]:
        found = [
            best_of(segment, _part(each, first, last), min(k, len(segment.keys)), allow)
            for segment, each in zip(segments, ranges, strict=True)
        ]
        return [_joined(segments, found, query, k) for query in range(last - first)]

    num_parts = min(num_threads, num_queries, num_postings // _POSTINGS_PER_THREAD) if choice.engine == "numba" else 1
    if num_parts < 2:
        return search(0, num_queries)
    size = -(-num_queries // num_parts)
    firsts = range(0, num_queries, size)
    with ThreadPoolExecutor(len(firsts)) as pool:
        parts = list(pool.map(lambda first: search(first, min(first + size, num_queries)), firsts))
    return [matches for part in parts for matches in part]


def _part(ranges: Ranges, first: int, last: int) -> Ranges:
    """The queries ``first:last`` alone."""
    if first == 0 and last == len(ranges.query_starts) - 1:
        return ranges
    start, end = int(ranges.query_starts[first]), int(ranges.query_starts[last])
    starts = ranges.query_starts[first : last + 1] - start
    return Ranges(ranges.starts[start:end], ranges.ends[start:end], ranges.weights[start:end], starts)


def _joined(segments: Sequence[Scored], found: Sequence[Best], query: int, k: int) -> Matches:
    """The best of all segments for one query."""
    parts = [
        (scored.keys[best.ordinals[query, :size]], best.scores[query, :size])
        for scored, best in zip(segments, found, strict=True)
        if (size := int(best.found[query]))
    ]
    if not parts:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.float32))
    if len(parts) == 1:
        return Matches(*parts[0])
    keys, scores = np.concatenate([keys for keys, _ in parts]), np.concatenate([scores for _, scores in parts])
    order = np.lexsort((keys, -scores))[:k]
    return Matches(keys[order], scores[order])


def checked_threads(num_threads: int) -> int:
    """``num_threads``, or one per core for 0. Raises ``ConfigError`` below that."""
    if num_threads < 0:
        raise ConfigError(f"num_threads must be at least 0 (one per core), got {num_threads!r}")
    return num_threads or num_cores()
