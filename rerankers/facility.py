"""Chooses hits that together stand for all that was found. Knows how alike texts are; knows no corpus.

Facility location with a relevance term, under a budget. With ``r`` the scores of the hits scaled to 0 to 1, a set S is worth

``(1 - relevance) * sum_j r_j max_{i in S} cosine(i, j) / sum_j r_j  +  relevance * sum_{i in S} r_i / sum_j r_j``,

from 0 to 1: every hit, as far as it is relevant, is to have one like it in S, and S is to be relevant itself. That function is
monotone and submodular, so the better of two greedy runs, by gain and by gain per token, is worth at least (1 - 1/e) / 2 of the
best set that fits (Leskovec et al., Cost-effective Outbreak Detection, KDD 2007), and (1 - 1/e) of it if all hits are of one size
or there is no limit in tokens (Nemhauser, Wolsey and Fisher, Mathematical Programming 14, 1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rag.core import Encoder, Hit, Tokenizer
from rag.rerankers.likeness import check_trade, cosines, vectors_of
from rag.rerankers.worth import token_costs, unit_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Coverage:
    """The worth of sets. ``alike``: ``(hits, hits)``, 0 to 1; ``covered_weights``, ``own_weights``: ``(hits,)``, none below 0."""

    alike: NDArray[np.float64]
    covered_weights: NDArray[np.float64]
    own_weights: NDArray[np.float64]

    @classmethod
    def of(cls, alike: NDArray[np.float32], relevance: Sequence[float], share: float) -> Coverage:
        """``share``: how much of the worth is relevance alone."""
        import numpy as np

        weights = np.array(relevance) / (sum(relevance) or 1.0)
        return cls(alike.astype(np.float64), (1 - share) * weights, share * weights)

    def gain(self, covered: NDArray[np.float64], number: int) -> float:
        """What hit ``number`` adds to a set that covers each hit as well as ``covered`` says."""
        more = (self.alike[number] - covered).clip(min=0.0)
        return float(self.covered_weights @ more) + float(self.own_weights[number])

    def worth(self, chosen: Sequence[int]) -> float:
        """The worth of a set."""
        if not chosen:
            return 0.0
        best = self.alike[list(chosen)].max(axis=0)
        return float(self.covered_weights @ best) + float(self.own_weights[list(chosen)].sum())


def greedy(coverage: Coverage, costs: Sequence[int], max_cost: float, k: int, *, per_cost: bool) -> list[int]:
    """At most ``k`` numbers, each the one that gains most (per token, if ``per_cost``) among those that still fit; ties: the first.

    Lazy (Minoux 1978): a gain never rises, so an old one is a bound, and only what stands on top is computed again.
    """
    import numpy as np

    covered = np.zeros(len(costs))
    scale = [max(cost, 1) if per_cost else 1 for cost in costs]
    bounds = [(-coverage.gain(covered, number) / scale[number], number) for number in range(len(costs))]
    heapq.heapify(bounds)
    chosen: list[int] = []
    room = max_cost
    while bounds and len(chosen) < k:
        _, number = heapq.heappop(bounds)
        if costs[number] > room:  # nor will it fit later
            continue
        now = (-coverage.gain(covered, number) / scale[number], number)
        if bounds and bounds[0] < now:
            heapq.heappush(bounds, now)
            continue
        chosen.append(number)
        room -= costs[number]
        covered = np.maximum(covered, coverage.alike[number])
    return chosen


class FacilitySelector:
    """Hits that cover what was found, see above, within ``k`` hits (``null``: any number) and ``max_tokens`` tokens with contexts.

    ``relevance``: share of the worth that is relevance alone, 0 to 1. ``by``: cosines of ``words`` (TF-IDF over the hits given) or
    of the ``encoder``, which then reads all of them in one call. If not one hit fits, the best is kept alone.

    Measured on chunking_evaluation, at equal numbers of tokens, it brought no more of the answers than the ranking itself, and less
    within 200 and 400 (``bench/selection.py``): it is meant for collections that say the same thing often, and for questions with
    several sides.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        encoder: Encoder | None = None,
        relevance: float = 0.8,
        k: int | None = 5,
        max_tokens: int | None = None,
        by: Literal["words", "encoder"] = "words",
    ) -> None:
        check_trade(tokenizer, encoder, relevance, k, max_tokens, by)
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.relevance = relevance
        self.k = k
        self.max_tokens = max_tokens
        self.by: Literal["words", "encoder"] = by

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The chosen hits, the one that adds most first; its score is that, so scores add up to the worth of the set."""
        if not hits:
            return []
        alike = cosines(vectors_of(query, [hit.chunk.indexed_text for hit in hits], self.by, self.encoder).texts)
        coverage = Coverage.of(alike, unit_scores(hits), self.relevance)
        chosen = self._chosen(coverage, hits)
        return self._ranked(coverage, hits, chosen)

    def _chosen(self, coverage: Coverage, hits: Sequence[Hit]) -> list[int]:
        k = self.k or len(hits)
        if self.max_tokens is None:
            return greedy(coverage, [0] * len(hits), 0, k, per_cost=False)
        assert self.tokenizer is not None  # see check_tokenizer
        costs = token_costs(self.tokenizer, hits)
        runs = [greedy(coverage, costs, self.max_tokens, k, per_cost=per_cost) for per_cost in (True, False)]
        return max(runs, key=coverage.worth) or [max(range(len(hits)), key=lambda number: (hits[number].score, -number))]

    def _ranked(self, coverage: Coverage, hits: Sequence[Hit], chosen: Sequence[int]) -> list[Hit]:
        """The chosen hits by what each adds to those before it."""
        import numpy as np

        covered = np.zeros(len(hits))
        left, ranked = sorted(chosen), list[Hit]()
        while left:
            gains = [coverage.gain(covered, number) for number in left]
            first = gains.index(max(gains))
            number = left.pop(first)
            ranked.append(hits[number].placed("facility", gains[first], len(ranked) + 1))
            covered = np.maximum(covered, coverage.alike[number])
        return ranked
