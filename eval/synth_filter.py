"""Which made-up questions are worth keeping: new ones, whose evidence a search brings back. Knows the pipeline's search; no model.

The round trip makes a set fair to nobody but the configuration that it was made with: what that one never finds is not asked. So
``k`` is generous, what was dropped is counted, and configurations are compared on a set that one of them made with that in mind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag.core import Encoder, Hit
from rag.eval.overlap import common, intervals, size, union
from rag.eval.question import Evidence
from rag.eval.question_set import Sources
from rag.pipeline import Rag
from rag.sentences import content_words

MAX_SHARED_WORDS = 0.8
MAX_COSINE = 0.93
MIN_COVERED = 0.9  # of the characters: blanks between chunks belong to none


class SeenQuestions:
    """Questions that were kept; ``encoder`` compares meanings, without one only words count."""

    def __init__(self, encoder: Encoder | None = None) -> None:
        self._encoder = encoder
        self._words: list[frozenset[str]] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._last: tuple[str, NDArray[np.float32]] | None = None

    def add(self, question: str) -> None:
        """Remembers a question."""
        self._words.append(frozenset(content_words(question)))
        if self._encoder is not None:
            self._vectors.append(self._vector(self._encoder, question))

    def is_repeated(self, question: str) -> bool:
        """Whether a remembered question shares four fifths of all content words, or has nearly the same vector."""
        words = frozenset(content_words(question))
        if any(len(words & seen) >= MAX_SHARED_WORDS * max(1, len(words | seen)) for seen in self._words):
            return True
        if self._encoder is None or not self._vectors:
            return False
        vector = self._vector(self._encoder, question)
        return any(float(vector @ seen) > MAX_COSINE for seen in self._vectors)

    def _vector(self, encoder: Encoder, question: str) -> NDArray[np.float32]:
        """The vector of ``question``; it is asked for twice in a row where the question is kept."""
        if self._last is None or self._last[0] != question:
            self._last = (question, encoder.encode_queries([question])[0])
        return self._last[1]


def brought_back(rag: Rag, question: str, evidence: Sequence[Evidence], k: int) -> bool:
    """Whether the ``k`` best hits for ``question`` hold nine tenths of every piece of evidence."""
    hits = rag.search(question, k)
    with rag.catalog.reading() as read:
        sources = {row.id: row.source for row in read.documents(sorted({hit.chunk.doc_id for hit in hits}))}
    return all(_covered(each, hits, sources) for each in evidence)


def _covered(evidence: Evidence, hits: Sequence[Hit], sources: dict[str, str]) -> bool:
    docs = Sources(sources).find(evidence.source)
    if len(docs) != 1 or evidence.start is None or evidence.end is None:
        return False
    wanted = intervals([(evidence.start, evidence.end)])
    found = union(intervals((hit.chunk.span.start, hit.chunk.span.end) for hit in hits if hit.chunk.doc_id == docs[0]))
    return common(wanted, found) >= MIN_COVERED * size(wanted)
