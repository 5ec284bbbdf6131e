"""The nodes of a spatial graph: elements in reading order, and pieces of those that are too long. Knows layout and tokens; no weight.

Nodes follow one another without gaps, so any run of them is one stretch of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from rag.chunkers.breaks import Breaks, starts_section
from rag.chunkers.distance import step_lines
from rag.chunkers.layout import DEEPEST_LEVEL, Block, Layout
from rag.chunkers.pack import spans_of, split
from rag.chunkers.recursive import text_levels
from rag.chunkers.ruler import Ruler
from rag.chunkers.sentences import paragraphs, sentences
from rag.core import Document, Span

Headings = Literal["section", "link", "ignore"]
HEADINGS: tuple[str, ...] = get_args(Headings)

FLOATS = ("table", "figure")

PIECES_PER_CHUNK = 8
"""Pieces of a long element hold whole sentences or rows up to this part of the limit: finer nodes only cost encoding."""


class Node(NamedTuple):
    """One element, or a piece of a long one. ``span`` ends where the next node starts."""

    span: Span
    block: Block
    num_tokens: int
    is_tied: bool  # should stay with the node before
    is_section: bool  # a heading that must start a chunk


class _Stretch(NamedTuple):
    """What is one node if it fits: an element, or a paragraph of a text without elements."""

    span: Span
    block: Block
    is_tied: bool
    may_be_cut: bool  # so that its beginning fits beside what it is tied to
    is_section: bool


class NodeMaker:
    """The nodes of one document, none above ``max_tokens`` tokens (as ``ruler`` counts).

    A heading is tied to what follows it, a caption to its table or figure (between two of them, to the nearer), a list to the
    line that introduces it, the head of a table to its first row. What does not fit beside its heading or its introduction is
    cut in pieces, so that its beginning fits; a caption that does not fit beside its table goes alone.
    """

    def __init__(self, document: Document, layout: Layout, ruler: Ruler, max_tokens: int) -> None:
        self._text = document.text
        self._layout = layout
        self._ruler = ruler
        self._max_tokens = max_tokens
        self._breaks = Breaks(layout, document.text)
        self._groups, self._items, *_ = self._breaks.levels(DEEPEST_LEVEL)
        self.levels = self._breaks.levels(DEEPEST_LEVEL) if layout.has_elements else text_levels(self._text)

    def nodes(self, headings: Headings, section_level: int) -> list[Node]:
        """All nodes in reading order. ``headings`` says what a heading means: see ``SpatialChunker``."""
        made: list[Node] = []
        num_chained = 0  # tokens of the nodes that the next one may be tied to
        for stretch in self._stretches(headings, section_level):
            room = self._max_tokens - (num_chained if stretch.is_tied else 0)
            pieces = self._pieces(stretch.span, room if stretch.may_be_cut else self._max_tokens)
            for number, piece in enumerate(pieces):
                num_tokens = self._ruler.count(*piece)
                is_tied = stretch.is_tied and number == 0 and num_tokens <= room
                num_chained = num_tokens + (num_chained if is_tied else 0)
                made.append(Node(piece, stretch.block, num_tokens, is_tied, stretch.is_section and number == 0))
        return made

    def _stretches(self, headings: Headings, section_level: int) -> Iterator[_Stretch]:
        blocks, end = self._layout.blocks, len(self._text)
        if not blocks:
            return
        if not self._layout.has_elements:
            for span in spans_of([0, *paragraphs(self._text, 0, end)], end):
                yield _Stretch(span, blocks[0], False, False, False)
            return
        groups = {0, *self._groups.places(0, end)}
        spans = spans_of([0, *(block.span.start for block in blocks[1:])], end)
        yield _Stretch(spans[0], blocks[0], False, False, False)
        for number, span in enumerate(spans[1:], start=1):
            before, block = blocks[number - 1], blocks[number]
            is_tied = span.start not in groups and not before.kind == block.kind == "list"
            is_tied = is_tied and (headings != "ignore" or before.kind != "heading")
            is_tied = is_tied and not self._is_of_another(number)
            may_be_cut = "caption" not in (before.kind, block.kind)
            is_section = headings == "section" and starts_section(before, block, section_level)
            yield _Stretch(span, block, is_tied, may_be_cut, is_section)

    def _is_of_another(self, number: int) -> bool:
        """Whether block ``number`` and the one before are a caption and a float, but the caption is nearer to a float beyond."""
        caption = number if self._layout.blocks[number].kind == "caption" else number - 1
        around = self._layout.blocks[max(caption - 1, 0) : caption + 2]
        if [block.kind in FLOATS for block in around] != [True, False, True] or around[1].kind != "caption":
            return False
        is_after = step_lines(around[0].element, around[1].element) > step_lines(around[1].element, around[2].element)
        return is_after == (caption == number)

    def _pieces(self, span: Span, room: int) -> list[Span]:
        if self._ruler.count(*span) <= room:
            return [span]
        places = (self._items.places(*span) if self._layout.has_elements else []) or sentences(self._text, *span)
        filled = self._filled(spans_of([span.start, *places], span.end))
        fitting: list[Span] = []
        for piece in filled:
            fitting += spans_of(split(self._ruler, *piece, self.levels, self._max_tokens), piece.end)
        return fitting

    def _filled(self, parts: list[Span]) -> list[Span]:
        """Neighbouring parts joined up to an eighth of the limit."""
        most = max(self._max_tokens // PIECES_PER_CHUNK, 1)
        joined = parts[:1]
        for part in parts[1:]:
            if self._ruler.count(joined[-1].start, part.end) <= most:
                joined[-1] = Span(joined[-1].start, part.end)
            else:
                joined.append(part)
        return joined
