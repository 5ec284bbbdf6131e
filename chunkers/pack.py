"""Cuts a stretch of text into pieces under a token limit, at the best places there are. Knows no layout and no chunk.

A *level* names the places where one may cut inside a stretch; levels come in order of preference (paragraphs before
sentences before words). Pieces are given by the places where they start; they follow one another without gaps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from rag.chunkers.ruler import Ruler
from rag.core import Span


class Level(NamedTuple):
    """``places(start, end)``: the places strictly inside the stretch, ascending.

    What lies between two places of a *firm* level (a table row) is cut only if it alone is above the limit.
    """

    places: Callable[[int, int], Sequence[int]]
    is_firm: bool = False


def split(ruler: Ruler, start: int, end: int, levels: Sequence[Level], max_tokens: int, min_tokens: int = 0) -> list[int]:
    """The starts of pieces of at most ``max_tokens`` tokens, the first of them ``start``.

    Greedy: as much as fits between two places of the first level; what does not fit by itself is cut at the next level, and
    its last piece is filled up with what follows. What fits but is under ``min_tokens`` (a title before a long paragraph)
    takes in a part of what follows, which is cut at the next level too. Where no level helps, the cut falls between tokens.
    """
    if ruler.count(start, end) <= max_tokens:
        return [start]
    if not levels:
        return _split_anywhere(ruler, start, end, max_tokens)
    places = levels[0].places(start, end)
    if not places:
        return split(ruler, start, end, levels[1:], max_tokens, min_tokens)
    bounds = [start, *places, end]
    num_before = ruler.indexes(bounds)
    last = len(bounds) - 1
    starts = [start]
    while True:
        here = starts[-1]
        begun = ruler.index(here)
        done = bisect_right(bounds, here) - 1
        reach = bisect_right(num_before, begun + max_tokens) - 1
        if reach == last:
            return starts
        if reach > done:
            next_is_whole = levels[0].is_firm and num_before[reach + 1] - num_before[reach] <= max_tokens
            if next_is_whole or num_before[reach] - begun >= min_tokens:
                starts.append(bounds[reach])
                continue
        stop = bounds[max(reach, done) + 1]
        inner = split(ruler, here, stop, levels[1:], max_tokens, min_tokens)
        starts += inner[1:]
        if ruler.count(starts[-1], stop) > max_tokens:  # one character above the limit: nothing can be done here
            if stop == end:
                return starts
            starts.append(stop)


def _split_anywhere(ruler: Ruler, start: int, end: int, max_tokens: int) -> list[int]:
    starts = [start]
    while (place := ruler.cut(starts[-1], end, max_tokens)) < end:
        starts.append(place)
    return starts


def spread_tail(ruler: Ruler, starts: list[int], end: int, levels: Sequence[Level], min_tokens: int, max_tokens: int) -> list[int]:
    """``starts`` with a last piece under ``min_tokens`` joined to the one before, or, if that is too long, the two cut anew.

    The new cut is the one nearest to their middle, of the first level that leaves both of them at least ``min_tokens``.
    """
    if len(starts) < 2 or ruler.count(starts[-1], end) >= min_tokens:
        return starts
    begin, middle = starts[-2], (ruler.index(starts[-2]) + ruler.index(end)) / 2
    if ruler.count(begin, end) <= max_tokens:
        return starts[:-1]
    for level in levels:
        places = level.places(begin, end)
        fitting = [place for place in places if min_tokens <= ruler.count(place, end) and ruler.count(begin, place) >= min_tokens]
        fitting = [place for place in fitting if max(ruler.count(begin, place), ruler.count(place, end)) <= max_tokens]
        if fitting:
            return [*starts[:-1], min(fitting, key=lambda place: abs(ruler.index(place) - middle))]
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
