"""Cuts a stretch of text into pieces under a token limit, at the best places there are. Knows no layout and no chunk.

A *level* is a function that names the places where one may cut inside a stretch; levels come in order of preference
(paragraphs before sentences before words). Pieces are given by the places where they start; they follow one another
without gaps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from rag.chunkers.ruler import Ruler
from rag.core import Span

Level = Callable[[int, int], Sequence[int]]
"""``level(start, end)``: places strictly inside the stretch, ascending."""


def split(ruler: Ruler, start: int, end: int, levels: Sequence[Level], max_tokens: int) -> list[int]:
    """The starts of pieces of at most ``max_tokens`` tokens, the first of them ``start``.

    Greedy: as much as fits between two places of the first level; what does not fit by itself is cut at the next level, and
    its last piece is filled up with what follows. Where no level helps, the cut falls between tokens.
    """
    if ruler.count(start, end) <= max_tokens:
        return [start]
    if not levels:
        return _split_anywhere(ruler, start, end, max_tokens)
    places = levels[0](start, end)
    if not places:
        return split(ruler, start, end, levels[1:], max_tokens)
    bounds = [start, *places, end]
    num_before = ruler.indexes(bounds)
    starts = [start]
    while True:
        here = starts[-1]
        done = bisect_right(bounds, here) - 1
        reach = bisect_right(num_before, ruler.index(here) + max_tokens) - 1
        if reach == len(bounds) - 1:
            return starts
        if reach > done:
            starts.append(bounds[reach])
            continue
        inner = split(ruler, here, bounds[done + 1], levels[1:], max_tokens)
        starts.extend(inner[1:])
        if len(inner) == 1 or ruler.count(inner[-1], bounds[done + 1]) > max_tokens:  # one character above the limit
            if done + 1 == len(bounds) - 1:
                return starts
            starts.append(bounds[done + 1])


def _split_anywhere(ruler: Ruler, start: int, end: int, max_tokens: int) -> list[int]:
    starts = [start]
    while (place := ruler.cut(starts[-1], end, max_tokens)) < end:
        starts.append(place)
    return starts


def spread_tail(ruler: Ruler, starts: list[int], end: int, levels: Sequence[Level], min_tokens: int, max_tokens: int) -> list[int]:
    """``starts`` with a last piece under ``min_tokens`` joined to the one before, or, if that is too long, the two cut anew.

    The new cut is the one that makes them nearly equal; it is taken only if both then have ``min_tokens``.
    """
    if len(starts) < 2 or ruler.count(starts[-1], end) >= min_tokens:
        return starts
    begin = starts[-2]
    total = ruler.count(begin, end)
    if total <= max_tokens:
        return starts[:-1]
    for limit in ((total + 1) // 2 + total // 12, (total + 1) // 2 + total // 5):
        anew = split(ruler, begin, end, levels, min(limit, max_tokens))
        if len(anew) == 2 and ruler.count(anew[1], end) >= min_tokens:
            return [*starts[:-2], *anew]
    return starts


def spans_of(starts: Sequence[int], end: int) -> list[Span]:
    """The pieces that begin at ``starts`` and fill the text up to ``end``."""
    return [Span(start, stop) for start, stop in zip(starts, [*starts[1:], end], strict=True)]


def with_overlap(ruler: Ruler, spans: Sequence[Span], overlap_tokens: int) -> list[Span]:
    """Each span but the first, begun up to ``overlap_tokens`` earlier: at a word, and inside the span before it."""
    if not overlap_tokens:
        return list(spans)
    extended = list(spans[:1])
    for before, span in pairwise(spans):
        first = ruler.place(max(ruler.index(span.start) - overlap_tokens, 0))
        low = max(first, before.start + 1)
        extended.append(Span(min(ruler.word_start(low, span.start), span.start), span.end))
    return extended
