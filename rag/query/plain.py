"""The question as it is, searched once. Knows nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import Finding, Found, Message


class PlainQuery:
    """Searches for the question as it was asked; the conversation before it is not read."""

    rewrites = False

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """One search."""
        (hits,) = yield [question]
        return Found(question, hits)
