"""What all rerankers that ask a language model share: their options, and how scores or an order become hits. Knows no method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from rag.core import LM, Hit, reordered
from rag.rerankers.asking import Asking, Task
from rag.rerankers.report import ReportingReranker, Reranked, RerankReport, at_least


class LMReranker(ReportingReranker):
    """Holds the model; a method says how it ranks. Safe to use from several threads: what a call needs is its own.

    ``max_passage_tokens``: where passages are cut, earlier if the model's context asks for it. ``batch_size``: prompts per call of the model.
    """

    stage: ClassVar[str]

    def __init__(self, lm: LM, max_passage_tokens: int, batch_size: int) -> None:
        at_least(1, max_passage_tokens=max_passage_tokens, batch_size=batch_size)
        self.lm = lm
        self.max_passage_tokens = max_passage_tokens
        self.batch_size = batch_size

    def _asking(self, task: Task, query: str, hits: Sequence[Hit]) -> Asking:
        return Asking(self.lm, task, query, hits, self.max_passage_tokens, self.batch_size)


class ScoringReranker(LMReranker):
    """One rung up: a score for each hit, higher is better; equal scores keep the order in which the hits came."""

    @abstractmethod
    def _task(self) -> Task: ...

    @abstractmethod
    def _scores(self, asking: Asking, num_hits: int) -> list[float]: ...

    def rerank_with_report(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """All hits, best first, with the method's score."""
        if not hits:
            return Reranked([], RerankReport())
        asking = self._asking(self._task(), query, hits)
        scores = self._scores(asking, len(hits))
        return Reranked(reordered(self.stage, zip(hits, scores, strict=True)), asking.report())


def by_place(stage: str, hits: Sequence[Hit], order: Sequence[int], asking: Asking, counts: Mapping[str, int]) -> Reranked:
    """``hits`` in ``order`` for methods that only compare. The score is one over the rank: it tells the place and no strength."""
    ranked = [hits[number].placed(stage, 1.0 / rank, rank) for rank, number in enumerate(order, start=1)]
    return Reranked(ranked, asking.report(counts))
