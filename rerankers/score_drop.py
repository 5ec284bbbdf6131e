"""Ends the list where the score falls. Knows scores and nothing of what hits say."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import Hit
from rag.rerankers.worth import check_limits, check_share, unit_scores


class ScoreDropSelector:
    """Keeps at least ``min_k`` and at most ``max_k`` hits, and ends before the first that falls by more than ``max_drop``.

    The rule of SAGE (arXiv 2503.01713), made to hold for any scores: they are first scaled to 0 (the lowest given) to 1 (the
    highest), so probabilities, logits and distances below zero are cut alike, and a hit falls by ``(before - its own) / before``, 0
    to 1. Since the lowest score is the zero, hand in more hits than are wanted (the pipeline does): of two hits with different
    scores the second has always fallen by 1. The hits must come best first.
    """

    def __init__(self, max_drop: float = 0.3, min_k: int = 2, max_k: int = 10) -> None:
        check_share(max_drop=max_drop)
        check_limits(min_k=min_k, max_k=max_k)
        if min_k > max_k:
            raise ValueError(f"min_k={min_k}: must be at most max_k={max_k}")
        self.max_drop = max_drop
        self.min_k = min_k
        self.max_k = max_k

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The first hits, scores unchanged, ``why["score-drop"]`` added."""
        scores = unit_scores(hits)
        number = min(self.min_k, len(hits))
        while number < min(self.max_k, len(hits)) and _drop(scores[number - 1], scores[number]) <= self.max_drop:
            number += 1
        return [hit.placed("score-drop", hit.score, rank) for rank, hit in enumerate(hits[:number], start=1)]


def _drop(before: float, after: float) -> float:
    return (before - after) / before if before > 0 else 0.0
