"""Keeps what fits into a number of tokens. Knows sizes and nothing of what hits say."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import Hit, Tokenizer
from rag.rerankers.worth import check_limits, token_costs


class BudgetSelector:
    """As many of the best hits as fit into ``max_tokens``, in the order they came.

    Tokens are those of ``tokenizer`` in a chunk and its context, and ``hit_tokens`` for what a prompt puts around each. A hit that
    does not fit is passed over, and smaller ones after it may still come in. If not one fits, the best is kept alone: who writes
    the prompt cuts it. ``k``: at most so many hits.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = 1600, k: int | None = None, hit_tokens: int = 0) -> None:
        check_limits(max_tokens=max_tokens, k=k)
        if hit_tokens < 0:
            raise ValueError(f"hit_tokens={hit_tokens}: must be at least 0")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.k = k
        self.hit_tokens = hit_tokens

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The kept hits, scores unchanged, ``why["budget"]`` added."""
        kept: list[Hit] = []
        room = self.max_tokens
        for hit, cost in zip(hits, token_costs(self.tokenizer, hits), strict=True):
            if cost + self.hit_tokens <= room and (self.k is None or len(kept) < self.k):
                room -= cost + self.hit_tokens
                kept.append(hit)
        kept = kept or list(hits[:1])
        return [hit.placed("budget", hit.score, rank) for rank, hit in enumerate(kept, start=1)]
