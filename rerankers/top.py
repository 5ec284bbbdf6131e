"""Keeps the first hits. Knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import Hit


class TopSelector:
    """The ``k`` best hits, in the order they came."""

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        self.k = k

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """At most ``k`` hits, scores unchanged, ``why["top"]`` added."""
        return [hit.placed("top", hit.score, rank) for rank, hit in enumerate(hits[: self.k], start=1)]
