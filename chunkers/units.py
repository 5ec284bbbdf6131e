"""The smallest pieces that chunkers by meaning weigh against one another: sentences, rows, items. Knows layout and sentences.

A heading is no piece of its own: it goes with the first sentence below it, a caption with its table, the head of a table
with the first row, a list with the line that introduces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rag.chunkers.breaks import PROSE, Breaks
from rag.chunkers.layout import DEEPEST_LEVEL, Layout
from rag.chunkers.pack import Level, split
from rag.chunkers.recursive import text_levels
from rag.chunkers.ruler import Ruler
from rag.chunkers.sentences import sentences_by
from rag.core import Splitter

_ITEMS_END = 2
"""The first levels of ``Breaks`` without section levels: groups of blocks, then items and rows."""


def unit_levels(text: str, layout: Layout) -> list[Level]:
    """Where a unit above the limit is cut, best places first."""
    return Breaks(layout, text).levels(DEEPEST_LEVEL) if layout.has_elements else text_levels(text)


def unit_starts(ruler: Ruler, layout: Layout, splitter: Splitter | None, max_tokens: int) -> list[int]:
    """Where the units start, none of them blank; each has at most ``max_tokens`` tokens as ``ruler`` counts.

    The first is the first character that is not blank: the text of ``layout`` must hold one.
    """
    text, end = ruler.text, len(ruler.text)
    boundaries = sentences_by(splitter, text)
    levels = unit_levels(text, layout)
    if layout.has_elements:
        places = {place for level in levels[:_ITEMS_END] for place in level.places(0, end)}
        for block in layout.blocks:
            if block.kind in PROSE:
                places.update(boundaries(text, *block.span))
    else:
        places = set(boundaries(text, 0, end))
    first = layout.blocks[0].span.start
    return fitted(ruler, [first, *sorted(place for place in places if place > first)], levels, max_tokens)


def fitted(ruler: Ruler, starts: list[int], levels: Sequence[Level], max_tokens: int) -> list[int]:
    """``starts`` of units that reach to the end of the text, and those of the parts of units above ``max_tokens``."""
    bounds = [*starts, len(ruler.text)]
    fitting: list[int] = []
    for (start, stop), (before, after) in zip(pairwise(bounds), pairwise(ruler.indexes(bounds)), strict=True):
        fitting += [start] if after - before <= max_tokens else split(ruler, start, stop, levels, max_tokens)
    return fitting
