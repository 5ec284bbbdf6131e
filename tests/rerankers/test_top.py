"""The plainest selector."""

from __future__ import annotations

import pytest

from rag.core import Chunk, Document, Hit, Placed, Span
from rag.rerankers.top import TopSelector

DOCUMENT = Document(Document.id_of("a"), "a", "abcdefgh")
HITS = [Hit(Chunk.of(DOCUMENT, Span(i, i + 1)), 1.0 - i / 10, {"rrf": Placed(0.5, i + 1)}) for i in range(8)]


def test_the_first_are_kept_as_they_are() -> None:
    assert [hit.chunk for hit in TopSelector().rerank("q", HITS)] == [hit.chunk for hit in HITS[:5]]
    kept = TopSelector(2).rerank("q", HITS)
    assert [hit.score for hit in kept] == [1.0, 0.9]
    assert kept[1].why == {"rrf": Placed(0.5, 2), "top": Placed(0.9, 2)}
    assert len(TopSelector(20).rerank("q", HITS)) == 8
    with pytest.raises(ValueError, match="k=0"):
        TopSelector(0)
