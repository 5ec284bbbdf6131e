"""Where a text of known layout may be cut, best places first. Knows blocks and punctuation; knows no tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Set as AbstractSet
from functools import partial

from rag.chunkers.layout import DEEPEST_LEVEL, Block, Layout, heading_level
from rag.chunkers.pack import Level
from rag.chunkers.sentences import Boundaries, cells, clauses, lines, paragraphs, sentences, words

PROSE = frozenset({"heading", "paragraph", "list", "caption", "figure"})


class Breaks:
    """The places between and inside the blocks of ``layout``."""

    def __init__(self, layout: Layout, text: str) -> None:
        self._layout = layout
        self._text = text

    def levels(self, section_level: int) -> list[Level]:
        """Headings below ``section_level``; groups of blocks; items; rows; and then what cuts a row, an item or a sentence."""
        return [
            *self._whole(section_level),
            self._inside(cells, {"table"}),
            self._inside(sentences, PROSE | {"table"}),
            self._inside(lines, PROSE | {"table", "code"}),
            Level(self._subheadings),
            self._inside(clauses, PROSE | {"table"}),
            self._inside(words, PROSE | {"table", "code"}),
        ]

    def gentle_levels(self, section_level: int) -> list[Level]:
        """Those of ``levels`` that cut no row, no list item and no sentence."""
        return [*self._whole(section_level), self._inside(sentences, PROSE - {"list"})]

    def _whole(self, section_level: int) -> list[Level]:
        headings = [Level(partial(self._headings, level)) for level in range(section_level + 1, DEEPEST_LEVEL + 1)]
        return [*headings, Level(self._groups), Level(self._items, is_firm=True), Level(self._rows, is_firm=True)]

    def _headings(self, level: int, start: int, end: int) -> list[int]:
        return [block.span.start for before, block in self._layout.starting(start, end) if starts_section(before, block, level)]

    def _groups(self, start: int, end: int) -> list[int]:
        pairs = self._layout.starting(start, end)
        return [block.span.start for before, block in pairs if not _belong_together(before, block, self._text)]

    def _items(self, start: int, end: int) -> list[int]:
        """Between list items, lines of code, rows (but the head stays with the first row), and after tables and figures."""
        places = [block.span.start for before, block in self._layout.starting(start, end) if _are_items(before, block)]
        for block in self._layout.overlapping(start, end):
            stretch = (self._text, max(block.span.start, start), min(block.span.end, end))
            if block.kind == "table":
                places += _row_starts(block, start, end, block.element.num_header_rows + 1)
            if block.kind == "list" or (block.kind == "table" and not block.element.rows):
                places += lines(*stretch)
            if block.kind == "code":
                places += paragraphs(*stretch) or lines(*stretch)
        return sorted(set(places))

    def _rows(self, start: int, end: int) -> list[int]:
        """Between any two rows, even between a heading and its table: all of it is better than a cut inside a row."""
        places: list[int] = []
        for block in self._layout.overlapping(start, end):
            if block.kind == "table":
                places += [block.span.start] * (block.span.start > start)
                places += _row_starts(block, start, end, 1)
        return sorted(set(places))

    def _subheadings(self, start: int, end: int) -> list[int]:
        """Between headings that follow one another. Late, since it leaves a chunk of headings alone."""
        return [block.span.start for before, block in self._layout.starting(start, end) if _is_subheading(before, block)]

    def _inside(self, boundaries: Boundaries, kinds: AbstractSet[str]) -> Level:
        """Places strictly inside blocks of these kinds: a heading never loses what follows it to a full stop between them."""

        def places(start: int, end: int) -> list[int]:
            found: list[int] = []
            for block in self._layout.overlapping(start, end):
                if block.kind in kinds:
                    found += boundaries(self._text, max(block.span.start, start), min(block.span.end, end))
            return found

        return Level(places)


def starts_section(before: Block, block: Block, level: int) -> bool:
    """Whether ``block`` is a heading of ``level`` or above, and not the first below the heading just before it."""
    return block.kind == "heading" and heading_level(block.element) <= level and not _is_subheading(before, block)


def _is_subheading(before: Block, block: Block) -> bool:
    is_pair = before.kind == block.kind == "heading"
    return is_pair and heading_level(before.element) < heading_level(block.element)


def _belong_together(before: Block, block: Block, text: str) -> bool:
    """Whether a cut between two neighbours would leave a heading, a caption or a list without what it is about."""
    if before.kind == "heading":
        return block.kind != "heading" or _is_subheading(before, block)
    if block.kind == "list":
        return before.kind == "list" or text[before.span.end - 1] in ":\uff1a"
    if block.kind == "caption":
        return before.kind in ("table", "figure")
    return before.kind == "caption" and block.kind in ("table", "figure")


def _are_items(before: Block, block: Block) -> bool:
    return before.kind == block.kind == "list" or before.kind in ("table", "figure")


def _row_starts(block: Block, start: int, end: int, first: int) -> list[int]:
    """The starts of the rows of a table strictly inside ``(start, end)``, those before row ``first`` left out."""
    rows = block.element.rows
    low = max(bisect_right(rows, start, key=lambda row: row.start), first)
    high = bisect_left(rows, end, key=lambda row: row.start)
    return [row.start for row in rows[low:high]]
