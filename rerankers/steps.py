"""Several selectors, one after another. Knows their protocol and nothing of what they do."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import Hit, Reranker


class StepsSelector:
    """Hands the hits from one of ``selectors`` to the next.

    ``select: {use: steps, selectors: [{use: mmr, k: 20}, {use: budget, max_tokens: 1600}, {use: order}]}``
    """

    def __init__(self, selectors: Sequence[Reranker]) -> None:
        if not selectors:
            raise ValueError("selectors is empty: name at least one")
        self.selectors = list(selectors)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """What the last one returns, its rank and score as ``why["steps"]``."""
        for selector in self.selectors:
            hits = selector.rerank(query, hits)
        return [hit.placed("steps", hit.score, rank) for rank, hit in enumerate(hits, start=1)]
