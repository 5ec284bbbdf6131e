"""Hits for the tests of selectors: one document each, or paragraphs of one."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import Chunk, Document, Hit, Span


def hits_of(*texts: str, scores: Sequence[float] | None = None, context: str = "") -> list[Hit]:
    """A document per text, named by its number; scores fall from 1 unless given."""
    found = []
    for number, text in enumerate(texts):
        document = Document(Document.id_of(str(number)), str(number), text)
        score = scores[number] if scores else 1.0 - number / len(texts)
        found.append(Hit(Chunk.of(document, Span(0, len(text)), context), score))
    return found


def numbers_in(hits: Sequence[Hit], given: Sequence[Hit]) -> list[int]:
    """Where the hits stand among those that were given."""
    ids = [hit.chunk.id for hit in given]
    return [ids.index(hit.chunk.id) for hit in hits]
