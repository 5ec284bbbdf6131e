"""BM25 scores of postings and the best k of them: a reference in numpy, the same in compiled loops, and the choice between them.
Knows arrays; knows no text, no file and no corpus statistics.

A query is a list of posting ranges with one weight each. With ``f`` the count of a posting and ``norm`` the length term of its
chunk, a posting adds ``weight * f / (f + norm)``, ``weight = repeats * idf * (k1 + 1)``, ``norm = k1 (1 - b + b length / average)``
(Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"). An infinite norm scores a chunk zero: that is
how deleted chunks vanish. Both paths add in float32 in the same order, so their scores are equal bit for bit.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Engine = Literal["auto", "numpy", "numba"]
ENGINES: tuple[str, ...] = ("auto", "numpy", "numba")

NUMBA_LOAD_POSTINGS = 100_000_000
"""Postings that numpy scores in about the second that importing numba and loading its code takes."""

NUMBA_READY_POSTINGS = 10_000_000
"""The same where another part of the process has numba imported already."""


class Ranges(NamedTuple):
    """Queries as posting ranges of one segment: query ``q`` has the ranges ``query_starts[q]:query_starts[q + 1]``."""

    starts: NDArray[np.int64]  # (ranges,)
    ends: NDArray[np.int64]  # (ranges,)
    weights: NDArray[np.float32]  # (ranges,)
    query_starts: NDArray[np.int64]  # (queries + 1,)


class Scored(NamedTuple):
    """Chunks of one segment that were asked from: ``ordinals`` and ``counts`` are its postings, ``norms`` and ``keys`` per chunk."""

    ordinals: NDArray[np.int32]
    counts: NDArray[Any]
    norms: NDArray[np.float32]
    keys: NDArray[np.int64]


class Best(NamedTuple):
    """Per query the best chunks, best first, ties by ascending ordinal; only the first ``found[q]`` of a row are set."""

    ordinals: NDArray[np.int64]  # (queries, k)
    scores: NDArray[np.float32]  # (queries, k)
    found: NDArray[np.int64]  # (queries,)


def best_by_numpy(segment: Scored, ranges: Ranges, k: int, allow: NDArray[np.bool_] | None) -> Best:
    """The best ``k`` allowed chunks of each query; a chunk without any of its terms is not found. The reference."""
    num_queries, num_chunks = len(ranges.query_starts) - 1, len(segment.norms)
    best = Best(np.zeros((num_queries, k), np.int64), np.zeros((num_queries, k), np.float32), np.zeros(num_queries, np.int64))
    for query in range(num_queries):
        scores = np.zeros(num_chunks, np.float32)
        for part in range(int(ranges.query_starts[query]), int(ranges.query_starts[query + 1])):
            postings = slice(int(ranges.starts[part]), int(ranges.ends[part]))
            ordinals, counts = segment.ordinals[postings], segment.counts[postings].astype(np.float32)
            inside = ordinals.view(np.uint32) < num_chunks
            if not inside.all():  # a damaged file
                ordinals, counts = ordinals[inside], counts[inside]
            scores[ordinals] += ranges.weights[part] * counts / (counts + segment.norms[ordinals])
        found = np.flatnonzero(scores)
        if allow is not None:
            keys = segment.keys[found]
            inside = keys < len(allow)
            found = found[inside][allow[keys[inside]]]
        if len(found) > k:  # all that reach the k-th best score, so that ties can be cut by ordinal
            found = found[scores[found] >= np.partition(scores[found], len(found) - k)[len(found) - k]]
        found = found[np.lexsort((found, -scores[found]))][:k]
        best.ordinals[query, : len(found)] = found
        best.scores[query, : len(found)] = scores[found]
        best.found[query] = len(found)
    return best


# Compiled loops --------------------------------------------------------------------------------------------------------


def _best_by_loops(
    ordinals: NDArray[np.int32],
    counts: NDArray[Any],
    norms: NDArray[np.float32],
    keys: NDArray[np.int64],
    allow: NDArray[np.bool_],
    filtered: bool,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    weights: NDArray[np.float32],
    query_starts: NDArray[np.int64],
    scores: NDArray[np.float32],
    best_ordinals: NDArray[np.int64],
    best_scores: NDArray[np.float32],
    found: NDArray[np.int64],
) -> None:
    """``best_by_numpy`` as numba compiles it. ``scores`` is zero before and after, ``(num_chunks,)``.

    Row ``q`` of ``best_*`` is a binary heap whose root is the worst chunk kept, until it is sorted at the end.
    """
    num_chunks = np.uint32(len(norms))
    k = best_scores.shape[1]
    for query in range(len(query_starts) - 1):
        num_postings = 0
        for part in range(query_starts[query], query_starts[query + 1]):
            weight = weights[part]
            num_postings += ends[part] - starts[part]
            for place in range(starts[part], ends[part]):
                ordinal = np.uint32(ordinals[place])
                if ordinal < num_chunks:  # always, unless a file is damaged
                    count = np.float32(counts[place])
                    scores[ordinal] += weight * count / (count + norms[ordinal])

        heap_scores, heap_ordinals = best_scores[query], best_ordinals[query]
        size = 0
        least = np.float32(0.0)  # what a chunk must reach
        for part in range(query_starts[query], query_starts[query + 1]):
            for place in range(starts[part], ends[part]):
                ordinal = np.uint32(ordinals[place])
                if ordinal >= num_chunks:
                    continue
                score = scores[ordinal]
                scores[ordinal] = 0.0
                if score == 0.0 or score < least:
                    continue
                if size == k and score == least and ordinal > heap_ordinals[0]:
                    continue
                if filtered and (keys[ordinal] >= len(allow) or not allow[keys[ordinal]]):
                    continue
                size, least = 0, np.float32(0.0)
        found[query] = size
