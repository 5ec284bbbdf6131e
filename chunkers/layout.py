"""The layout of one document as blocks that cover all of its text, and what a chunk says about where it lies.

Knows elements, headings and pages; knows no tokens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rag.core import Document, Element, Span

MAX_HEADING_CHARS = 200
DEEPEST_LEVEL = 6


class Heading(NamedTuple):
    """A heading above a place in the text, and where it starts."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Block:
    """An element without blanks at its ends, or a stretch of text that no element covers. ``path``: outermost heading first."""

    span: Span
    element: Element
    path: tuple[Heading, ...]

    @property
    def kind(self) -> str:
        return self.element.kind


class Layout:
    """The blocks of ``document`` in reading order; ``blocks`` is empty only if the text is blank."""

    def __init__(self, document: Document) -> None:
        self.has_elements = bool(document.elements)
        self.blocks = _with_paths(document.text, list(_covering(document)))
        self._starts = [block.span.start for block in self.blocks]

    def overlapping(self, start: int, end: int) -> Sequence[Block]:
        """The blocks that share a character with ``text[start:end]``."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        last = bisect_right(self._starts, end - 1)
        if first < last and self.blocks[first].span.end <= start:
            first += 1
        return self.blocks[first:last]

    def starting(self, start: int, end: int) -> Iterator[tuple[Block, Block]]:
        """Each block that starts strictly inside ``(start, end)``, with the one before it."""
        for number in range(max(bisect_right(self._starts, start), 1), bisect_right(self._starts, end - 1)):
            yield self.blocks[number - 1], self.blocks[number]

    def path(self, span: Span) -> tuple[Heading, ...]:
        """The headings above the first block of ``span`` that is no heading itself (above its first heading if all are)."""
        blocks = self.overlapping(*span)
        body = next((block for block in blocks if block.kind != "heading"), None)
        return (body or blocks[0]).path

    def meta(self, span: Span) -> dict[str, Any]:
        """``page`` (the first), ``pages`` (if several), ``headings`` (outermost first), ``kinds`` (in order of appearance)."""
        if not self.has_elements:
            return {}
        blocks = self.overlapping(*span)
        pages = list(dict.fromkeys(block.element.page for block in blocks if block.element.page is not None))
        headings = [heading.text for heading in self.path(span)]
        meta: dict[str, Any] = {"kinds": list(dict.fromkeys(block.kind for block in blocks))}
        if headings:
            meta["headings"] = headings
        if pages:
            meta["page"] = pages[0]
        if len(pages) > 1:
            meta["pages"] = pages
        return meta


def _covering(document: Document) -> Iterator[tuple[Span, Element]]:
    """The elements, and a paragraph for each stretch between them that holds more than blanks."""
    text, done = document.text, 0
    for element in document.elements:
        start, end = max(element.span.start, done), min(element.span.end, len(text))
        if start < end:
            yield from _solid(text, done, start, Element(Span(done, start), "paragraph"))
            yield from _solid(text, start, end, element)
            done = end
    yield from _solid(text, done, len(text), Element(Span(done, len(text)), "paragraph"))


def _solid(text: str, start: int, end: int, element: Element) -> Iterator[tuple[Span, Element]]:
    piece = text[start:end]
    solid = piece.strip()
    if solid:
        begin = start + len(piece) - len(piece.lstrip())
        yield Span(begin, begin + len(solid)), element


def _with_paths(text: str, covering: Sequence[tuple[Span, Element]]) -> list[Block]:
    blocks: list[Block] = []
    open_headings: list[tuple[int, Heading]] = []
    path: tuple[Heading, ...] = ()
    for span, element in covering:
        if element.kind == "heading":
            level = heading_level(element)
            while open_headings and open_headings[-1][0] >= level:
                open_headings.pop()
            words = " ".join(text[span.start : min(span.end, span.start + 4 * MAX_HEADING_CHARS)].split())
            open_headings.append((level, Heading(words[:MAX_HEADING_CHARS], span.start)))
            path = tuple(heading for _, heading in open_headings)
        blocks.append(Block(span, element, path))
    return blocks


def heading_level(element: Element) -> int:
    """1 (outermost) to 6; a heading of no known level is taken for an outermost one."""
    return min(max(element.level or 1, 1), DEEPEST_LEVEL)
