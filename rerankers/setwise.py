"""Asks a language model for the best of a few passages. Knows one prompt and three ways to sort with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

from rag.core import LM, Hit
from rag.rerankers.asking import LETTERS, Asking, Task
from rag.rerankers.lm_reranker import LMReranker, by_place
from rag.rerankers.report import Reranked, RerankReport, at_least, one_of
from rag.rerankers.sorting import Best, bubble_top, heap_top, insertion_top

Method = Literal["heapsort", "bubble", "insertion"]


class SetwiseReranker(LMReranker):
    """Finds the ``top_k`` best hits by asking which of a few passages is best, by the probability of its letter.

    Zhuang et al., "A Setwise Approach for Effective and Highly Efficient Zero-shot Ranking with Large Language Models" (SIGIR 2024).

    ``num_candidates``: challengers beside the best so far, so a prompt shows one passage more. ``method``: ``heapsort`` with that many
    children per node, ``bubble``: ``top_k`` passes from back to front, or ``insertion``: fewest prompts where the order that came
    is good. ``both_orders``: each group is also asked in reverse and the
    log-probabilities are averaged, for twice the prompts. The rest follows in the order in which it came; equal letters too.
    """

    stage: ClassVar[str] = "setwise"

    def __init__(
        self,
        lm: LM,
        num_candidates: int = 3,
        method: Method = "heapsort",
        top_k: int = 10,
        both_orders: bool = False,
        max_passage_tokens: int = 512,
        batch_size: int = 16,
    ) -> None:
        super().__init__(lm, max_passage_tokens, batch_size)
        one_of(get_args(Method), method=method)
        at_least(1, top_k=top_k)
        if not 1 <= num_candidates < len(LETTERS):
            raise ValueError(f"num_candidates={num_candidates}: must be between 1 and {len(LETTERS) - 1}")
        self.num_candidates = num_candidates
        self.method = method
        self.top_k = top_k
        self.both_orders = both_orders

    def rerank_with_report(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """All hits, best first. ``counts``: ``comparisons``, groups whose best was needed; no prompt is asked twice."""
        if not hits:
            return Reranked([], RerankReport())
        asking = self._asking(_task(self.num_candidates + 1), query, hits)
        judge = _Judge(asking, both_orders=self.both_orders)
        order = self._sorted(len(hits), judge.best)
        return by_place(self.stage, hits, order, asking, {"comparisons": judge.num_comparisons})

    def _sorted(self, num_hits: int, best: Best) -> list[int]:
        if self.method == "bubble":
            return bubble_top(num_hits, self.top_k, self.num_candidates + 1, best)
        sort = heap_top if self.method == "heapsort" else insertion_top
        return sort(num_hits, self.top_k, self.num_candidates, best)


class _Judge:
    """The best of a group by the probability of its letter."""

    def __init__(self, asking: Asking, *, both_orders: bool) -> None:
        self._asking = asking
        self._both_orders = both_orders
        self._known: dict[tuple[int, ...], int] = {}
        self.num_comparisons = 0

    def best(self, group: Sequence[int]) -> int:
        self.num_comparisons += 1
        key = tuple(group)
        if key not in self._known:
            self._known[key] = self._asked(group)
        return self._known[key]

    def _asked(self, group: Sequence[int]) -> int:
        orders = [list(group), list(reversed(group))] if self._both_orders else [list(group)]
        rows = self._asking.label_logprobs(orders, LETTERS[: len(group)])
        sums = [sum(row[order.index(item)] for order, row in zip(orders, rows, strict=True)) for item in group]
        return min(zip(sums, group, strict=True), key=lambda pair: (-pair[0], pair[1]))[1]


def _task(num_passages: int) -> Task:
    return Task(
        system="You choose the passage that answers a question best. Reply with its letter only.",
        cue="Which passage answers the question best? Reply with its letter.",
        labels=LETTERS[:num_passages],
    )
