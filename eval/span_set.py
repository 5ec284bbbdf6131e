"""Questions whose answers are marked in the text: the words for them. Knows no file format and no chunk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rag.core import Document, Element, Span

_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(frozen=True, slots=True)
class SpanQuestion:
    """A question and the characters of ``source`` that answer it; the spans ascend and have no character in common."""

    query: str
    source: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Topics:
    """Where the topic changes in one document.

    ``units``: the pieces that a topic is made of (turns), in order. ``starts``: numbers of the units that begin a topic,
    ascending, never 0. ``labels``: what they were marked for, ``topics`` or, for want of those, ``questions``.
    """

    units: tuple[Span, ...]
    starts: tuple[int, ...]
    labels: str = "topics"


@dataclass(frozen=True, slots=True)
class SpanSet:
    """Documents and questions about them. ``topics``: document source -> its topics, for the documents that have them marked."""

    name: str
    documents: tuple[Document, ...]
    questions: tuple[SpanQuestion, ...]
    topics: Mapping[str, Topics] = field(default_factory=dict)


def disjoint(spans: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """The same characters as ascending spans that neither overlap nor touch.

    >>> disjoint([(5, 7), (0, 2), (1, 3), (7, 8)])
    (Span(start=0, end=3), Span(start=5, end=8))
    """
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(end, merged[-1].end))
        else:
            merged.append(Span(start, end))
    return tuple(merged)


def document_of(source: str, text: str) -> Document:
    """``text``, every character of it, as a document whose elements are the paragraphs between blank lines."""
    elements, start = [], 0
    for gap in [*_BLANK_LINES.finditer(text), None]:
        end = gap.start() if gap else len(text)
        if paragraph := trimmed(text, Span(start, end)):
            elements.append(Element(paragraph, "paragraph"))
        start = gap.end() if gap else end
    return Document(Document.id_of(source), source, text, tuple(elements))


def trimmed(text: str, span: Span) -> Span | None:
    """``span`` without the blanks at its ends; ``None`` if it holds nothing else."""
    piece = span.of(text)
    solid = piece.strip()
    start = span.start + len(piece) - len(piece.lstrip())
    return Span(start, start + len(solid)) if solid else None
