"""Passages of an index that questions can be made of, in a seeded order. Knows the pipeline's catalog; makes no question."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag.core import PUBLIC, Document, Element, Span, digest
from rag.eval.keyword_lm import SourceText
from rag.eval.span_set import trimmed
from rag.pipeline import Rag
from rag.sentences import sentence_spans

MIN_CHARS = 80
MIN_LETTERS = 0.5  # of the characters: rows of numbers make no question


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters ``span`` of the document ``source``. ``body``: those below ``headings`` (from the title down; may be empty) and
    above the next heading, counted in ``text``.
    """

    source: str
    doc_id: str
    span: Span
    text: str
    headings: tuple[str, ...]
    body: Span

    @property
    def key(self) -> str:
        """Changes with the place and the text."""
        return digest("passage", self.source, f"{self.span.start}:{self.span.end}", self.text)[:16]

    @property
    def located(self) -> SourceText:
        """The passage as clauses are looked up in it."""
        return SourceText(self.source, self.span.start, self.text)


def passages(rag: Rag) -> list[Passage]:
    """The chunks that everybody may read and that hold a sentence of prose, by source and position; each text once."""
    found: list[Passage] = []
    texts: set[str] = set()
    with rag.catalog.reading() as read:
        for row in sorted(read.documents(), key=lambda row: row.source):
            if PUBLIC not in row.principals:
                continue  # a question about it would show in a file what not everybody may read
            document = read.document(row.id)
            for _, chunk in read.chunks_of(row.id):
                span = trimmed(document.text, chunk.span)
                if span is not None and _is_prose(text := span.of(document.text)) and text not in texts:
                    texts.add(text)
                    found.append(Passage(row.source, row.id, span, text, *_section(document, span)))
    return found


def _section(document: Document, span: Span) -> tuple[tuple[str, ...], Span]:
    """The headings that the first prose in ``span`` stands under, and where it stands, counted from the start of ``span``."""
    headings = [element for element in document.elements if element.kind == "heading"]
    others = [element.span for element in document.elements if element.kind != "heading" and element.span.overlaps(span)]
    start = max(span.start, others[0].start) if others else span.start
    path: list[Element] = []
    for heading in headings:
        if heading.span.start > start:
            break
        path = [*(above for above in path if (above.level or 1) < (heading.level or 1)), heading]
    end = min([heading.span.start for heading in headings if heading.span.start > start] + [span.end])
    names = tuple(" ".join(heading.span.of(document.text).split()).lstrip("# ") for heading in path)
    return names, Span(start - span.start, max(start, min(end, span.end)) - span.start)


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    return len(text) >= MIN_CHARS and letters >= MIN_LETTERS * len(text) and bool(sentence_spans(text))


def drawn(found: Sequence[Passage], seed: int) -> Iterator[Passage]:
    """All passages in an order that the seed decides: one of every document before the second of any."""
    generator = random.Random(seed)
    by_document: dict[str, list[Passage]] = {}
    for each in found:
        by_document.setdefault(each.source, []).append(each)
    queues = list(by_document.values())
    generator.shuffle(queues)
    for queue in queues:
        generator.shuffle(queue)
    while queues:
        for queue in queues:
            yield queue.pop()
        queues = [queue for queue in queues if queue]


def partner(rag: Rag, passage: Passage, found: Sequence[Passage]) -> Passage | None:
    """The passage nearest to ``passage`` by the index's own search that does not overlap it."""
    by_place = {(each.doc_id, each.span.start): each for each in found}
    for hit in rag.search(passage.text[:300], 20):
        text = hit.chunk.text
        start = hit.chunk.span.start + len(text) - len(text.lstrip())
        other = by_place.get((hit.chunk.doc_id, start))
        if other and (other.doc_id != passage.doc_id or not other.span.overlaps(passage.span)):
            return other
    return None
