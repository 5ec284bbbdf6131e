"""Chunks that are cut out of chunks, and chunks named by where they stand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Chunk, Document, Span

DOCUMENT = Document(Document.id_of("d"), "d", "The tower is tall.")
CHUNK = Chunk.of(DOCUMENT, Span(4, 18), "A title", {"page": 2})


@settings(deadline=None)
@given(st.integers(0, 19), st.integers(0, 19))
def test_a_part_is_the_chunk_that_the_document_would_give(start: int, end: int) -> None:
    span = Span(start, end)
    if not 4 <= start < end <= 18:
        with pytest.raises(ValueError, match=r"is empty or outside the chunk at \(4, 18\)"):
            CHUNK.part(span)
        return
    part = CHUNK.part(span)
    assert (part.id, part.text, part.context) == (Chunk.of(DOCUMENT, span, "A title").id, span.of(DOCUMENT.text), "A title")
    assert part is CHUNK if span == CHUNK.span else part.meta == {"page": 2, "parent_chunk": CHUNK.id}


def test_a_chunk_by_its_place() -> None:
    assert Chunk.at(DOCUMENT.id, Span(4, 18), "tower is tall.", "A title", {"page": 2}) == CHUNK
    with pytest.raises(ValueError, match=r"span \(4, 18\) has 14 characters, its text has 5"):
        Chunk.at(DOCUMENT.id, Span(4, 18), "tower")
