"""Scores of postings and the best k of them: a reference in numpy, the same in compiled loops, and the choice between them.
Knows arrays; knows no text, no file and no corpus statistics.

A query is a list of posting ranges with one weight each. What a posting adds to its chunk depends on what the segment has:

- ``norms`` (BM25): ``weight * f / (f + norm)`` with ``f`` the posting's value, a count, and ``norm`` the length term of its chunk;
  ``weight = repeats * idf * (k1 + 1)``, ``norm = k1 (1 - b + b length / average)`` (Robertson & Zaragoza 2009, "The Probabilistic
  Relevance Framework: BM25 and Beyond"). An infinite norm scores a chunk zero: that is how deleted chunks vanish.
- ``scales`` (impacts): ``weight * f``, and the sum of a chunk times its scale. A scale of zero is a deleted chunk. Without ``values``
  every ``f`` is 1.

Both paths add in float32 in the same order, so their scores are equal bit for bit. Every posting of the query is scored: with
chunks by the hundred thousand, no rule that skips some has paid for itself (bench/learned_sparse.py measures two).
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

from rag.errors import ConfigError

Engine = Literal["auto", "numpy", "numba"]
ENGINES: tuple[str, ...] = ("auto", "numpy", "numba")

NUMBA_LOAD_POSTINGS = 100_000_000
"""Postings that numpy scores in about the second that importing numba and loading the compiled loops takes.
(The very first time on a machine they are compiled, which takes about four seconds.)"""

NUMBA_READY_POSTINGS = 10_000_000
"""The same where another part of the process has numba imported already."""


WINDOW_CHUNKS = 1 << 13
"""Chunks whose float32 scores fill 32 KiB, a first-level cache."""

BLOCK_CHUNKS = 128
"""Chunks that the compiled loops compare with the worst of the best at once; divides ``WINDOW_CHUNKS``."""


class Ranges(NamedTuple):
    """Queries as posting ranges of one segment: query ``q`` has the ranges ``query_starts[q]:query_starts[q + 1]``."""

    starts: NDArray[np.int64]  # (ranges,)
    ends: NDArray[np.int64]  # (ranges,)
    weights: NDArray[np.float32]  # (ranges,)
    query_starts: NDArray[np.int64]  # (queries + 1,)


class Scored(NamedTuple):
    """Chunks of one segment that were asked from: ``ordinals`` and ``values`` are its postings, the rest is per chunk.

    Exactly one of ``norms`` and ``scales`` is given, which says how postings add up.
    """

    ordinals: NDArray[np.int32]
    values: NDArray[Any] | None
    norms: NDArray[np.float32] | None
    scales: NDArray[np.float32] | None
    keys: NDArray[np.int64]


class Best(NamedTuple):
    """Per query the best chunks, best first, ties by ascending ordinal; only the first ``found[q]`` of a row are set."""

    ordinals: NDArray[np.int64]  # (queries, k)
    scores: NDArray[np.float32]  # (queries, k)
    found: NDArray[np.int64]  # (queries,)


def best_by_numpy(segment: Scored, ranges: Ranges, k: int, allow: NDArray[np.bool_] | None) -> Best:
    """The best ``k`` allowed chunks of each query; a chunk without any of its terms is not found. The reference."""
    num_queries, num_chunks = len(ranges.query_starts) - 1, len(segment.keys)
    best = Best(np.zeros((num_queries, k), np.int64), np.zeros((num_queries, k), np.float32), np.zeros(num_queries, np.int64))
    for query in range(num_queries):
        scores = np.zeros(num_chunks, np.float32)
        for part in range(int(ranges.query_starts[query]), int(ranges.query_starts[query + 1])):
            postings = slice(int(ranges.starts[part]), int(ranges.ends[part]))
            ordinals = segment.ordinals[postings]
            values = np.ones(len(ordinals), np.float32)
            if segment.values is not None:
                values = segment.values[postings].astype(np.float32)
            inside = ordinals.view(np.uint32) < num_chunks
            if not inside.all():  # a damaged file
                ordinals, values = ordinals[inside], values[inside]
            added = ranges.weights[part] * values
            scores[ordinals] += added if segment.norms is None else added / (values + segment.norms[ordinals])
        if segment.scales is not None:
            scores *= segment.scales
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
    ordinals: Any, values: Any, norms: Any, scales: Any, keys: Any, allow: Any, filtered: Any, cursors: Any, ends: Any,
    weights: Any, query_starts: Any, scores: Any, best_ordinals: Any, best_scores: Any, found: Any,
) -> None:  # fmt: skip
    """``best_by_numpy`` in loops for numba; ``cursors`` are the starts, and move to the ends.

    Chunks are scored a window at a time, as many as ``scores`` has places (zeros, a multiple of ``BLOCK_CHUNKS``), so that their
    scores stay in the cache while every term adds to them and while the best are taken. Each row of ``best_*`` is first a binary
    heap of ``k`` chunks that score nothing, its root the worst; at the end it is sorted. What is ``None`` costs nothing: numba
    compiles the loops anew without it.
    """

    def sink(heap_scores: Any, heap_ordinals: Any, size: Any, score: Any, ordinal: Any) -> None:
        """Puts a chunk in place of the root: parents are worse than children (lower score, or equal and later)."""
        hole = 0
        while 2 * hole + 1 < size:
            child = 2 * hole + 1
            right = child + 1
            if right < size and (
                heap_scores[right] < heap_scores[child]
                or (heap_scores[right] == heap_scores[child] and heap_ordinals[right] > heap_ordinals[child])
            ):
                child = right
            if heap_scores[child] > score or (heap_scores[child] == score and heap_ordinals[child] < ordinal):
                break
            heap_scores[hole] = heap_scores[child]
            heap_ordinals[hole] = heap_ordinals[child]
            hole = child
        heap_scores[hole] = score
        heap_ordinals[hole] = ordinal

    num_chunks = len(keys)
    for query in range(len(query_starts) - 1):
        parts = range(query_starts[query], query_starts[query + 1])
        heap_scores, heap_ordinals = best_scores[query], best_ordinals[query]
        heap_scores[:] = 0.0
        heap_ordinals[:] = num_chunks
        entered = 0
        while True:
            start: Any = np.int64(num_chunks)  # of the next window that has a posting
            for part in parts:
                if cursors[part] < ends[part]:
                    start = min(start, np.int64(np.uint32(ordinals[cursors[part]])))
            if start >= num_chunks:
                break
            start -= start % len(scores)
            size = min(len(scores), num_chunks - start)
            for part in parts:
                place, end, weight = cursors[part], ends[part], weights[part]
                while place < end:
                    ordinal = np.uint32(ordinals[place])
                    offset = np.uint64(np.int64(ordinal) - start)
                    if offset >= np.uint64(size):  # in a later window, or out of range in a damaged file
                        break
                    if values is None:
                        scores[offset] += weight
                    elif norms is None:
                        scores[offset] += weight * np.float32(values[place])
                    else:
                        count = np.float32(values[place])
                        scores[offset] += weight * count / (count + norms[ordinal])
                    place += 1
                cursors[part] = place
            if scales is not None:
                own_scales = scales[start : start + size]  # counted from 0, so that the loop becomes vector code
                for place in range(size):
                    scores[place] *= own_scales[place]
            # The tests stand in the loop: a call would count references to the arrays it is given, for every chunk.
            for block in range(0, size, BLOCK_CHUNKS):
                least = heap_scores[0]
                any_above = np.uint8(0)
                for lane in range(
                    BLOCK_CHUNKS
                ):  # of fixed length, without a branch, with unsigned indices: so it becomes vector code
                    any_above |= scores[np.uint64(block) + np.uint64(lane)] > least
                if any_above:
                    for place in range(block, block + BLOCK_CHUNKS):
                        if scores[place] > heap_scores[0]:
                            key = keys[start + place]
                            if filtered and (key >= len(allow) or not allow[key]):
                                continue
                            entered += 1
                            sink(heap_scores, heap_ordinals, len(heap_scores), scores[place], start + place)
            scores[:] = 0.0
        found[query] = min(entered, len(heap_scores))
        for last in range(len(heap_scores) - 1, 0, -1):  # the worst goes to the end
            score, ordinal_of_leaf = heap_scores[last], heap_ordinals[last]
            heap_scores[last], ordinal_of_worst = heap_scores[0], heap_ordinals[0]
            sink(heap_scores, heap_ordinals, last, score, ordinal_of_leaf)
            heap_ordinals[last] = ordinal_of_worst


@cache
def _compiled() -> Callable[..., None]:
    """Imports numba and compiles the loops, or loads them from numba's cache where it may keep one."""
    import numba

    # No NaN and no signed zero comes up; nothing that would change a sum is allowed.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"nnan", "nsz"}}
    try:
        loops: Callable[..., None] = numba.njit(cache=True, **options)(_best_by_loops)
    except RuntimeError:  # "no locator available": neither the package's folder nor the user's cache folder can be written
        loops = numba.njit(**options)(_best_by_loops)
    return loops


def best_by_numba(segment: Scored, ranges: Ranges, k: int, allow: NDArray[np.bool_] | None) -> Best:
    """``best_by_numpy`` in compiled loops that let other threads run. The postings of a term ascend, as in every segment."""
    num_queries = len(ranges.query_starts) - 1
    best = Best(np.empty((num_queries, k), np.int64), np.empty((num_queries, k), np.float32), np.empty(num_queries, np.int64))
    allowed = np.zeros(0, np.bool_) if allow is None else allow.view()
    allowed.flags.writeable = False  # numba compiles anew for every combination of writable and read-only arrays
    scores = np.zeros(min(WINDOW_CHUNKS, -(-len(segment.keys) // BLOCK_CHUNKS) * BLOCK_CHUNKS), np.float32)
    _compiled()(*segment, allowed, allow is not None, ranges.starts.copy(), *ranges[1:], scores, *best)
    return best


# The choice ------------------------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """Which path scores, and why."""

    engine: Literal["numpy", "numba"]
    why: str


@dataclass(slots=True)
class Chooser:
    """Decides between the two paths. ``auto`` starts with numpy and turns to numba once numpy has done as much work as loading
    numba costs, so a short command never waits for a compiler and a server waits once, at worst twice what it had to.
    """

    engine: Engine = "auto"
    num_postings: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a word that names no engine."""
        if self.engine not in ENGINES:
            raise ConfigError(f"unknown engine {self.engine!r}; allowed: {', '.join(ENGINES)}")

    def choose(self, num_postings: int) -> Choice:
        """For a search that will score ``num_postings``; they count as done."""
        self.num_postings += num_postings
        return self.now()

    def now(self) -> Choice:
        """What the next posting would be scored by."""
        if self.engine == "numpy":
            return Choice("numpy", "engine is 'numpy'")
        if importlib.util.find_spec("numba") is None:
            return Choice("numpy", "numba is not installed")
        if self.engine == "numba":
            return Choice("numba", "engine is 'numba'")
        limit = NUMBA_READY_POSTINGS if "numba" in sys.modules else NUMBA_LOAD_POSTINGS
        work = f"{self.num_postings:,} postings asked for so far, numba pays from {limit:,} on"
        return Choice("numba" if self.num_postings > limit else "numpy", work)
