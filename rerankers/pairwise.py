"""Asks a language model which of two passages answers the query better. Knows verdicts on pairs and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, get_args

from rag.core import LM, Hit, reordered
from rag.rerankers.asking import Asking, Task
from rag.rerankers.lm_reranker import LMReranker, by_place
from rag.rerankers.report import Reranked, RerankReport, at_least, one_of
from rag.rerankers.sorting import bubble_top, heap_top

Method = Literal["all-pairs", "heapsort", "bubble"]
Verdict = Literal["consistent", "mean", "one-order"]
Pair = tuple[int, int]

TASK = Task(
    system="You compare two passages by how well they answer a question. Reply with the letter of the better one, A or B.",
    cue="Which passage answers the question better? Reply with A or B.",
    labels=("A", "B"),
)


class PairwiseReranker(LMReranker):
    """Orders hits by the model's verdicts on pairs: P(A) against P(B), each pair asked in both orders.

    Qin et al., "Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting" (NAACL 2024 Findings).

    ``method``: ``all-pairs``: n(n - 1) prompts; the score is the share of wins, a tie half a win. ``heapsort``: about 2n + k log n
    comparisons for the ``top_k`` best. ``bubble``: ``top_k`` passes from back to front, k(2n - k - 1)/2 comparisons. The rest
    follows in the order in which it came. No prompt is asked twice, so prompts may be fewer than twice the comparisons.

    ``verdict``: ``consistent``: a win counts only if both orders agree, else it is a tie; ``mean``: the mean of both log-odds, from which a
    constant preference for one position cancels; ``one-order``: half of the prompts, and the position has its say. Ties keep the order in
    which the hits came.
    """

    stage: ClassVar[str] = "pairwise"

    def __init__(
        self,
        lm: LM,
        method: Method = "heapsort",
        top_k: int = 10,
        verdict: Verdict = "consistent",
        max_passage_tokens: int = 512,
        batch_size: int = 16,
    ) -> None:
        super().__init__(lm, max_passage_tokens, batch_size)
        one_of(get_args(Method), method=method)
        one_of(get_args(Verdict), verdict=verdict)
        at_least(1, top_k=top_k)
        self.method = method
        self.top_k = top_k
        self.verdict: Verdict = verdict

    def rerank_with_report(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """All hits, best first. ``counts``: ``comparisons`` the method made, ``ties`` among the distinct ones."""
        if not hits:
            return Reranked([], RerankReport())
        asking = self._asking(TASK, query, hits)
        verdicts = Verdicts(asking, self.verdict)
        if self.method == "all-pairs":
            verdicts.ask([(i, j) for i in range(len(hits)) for j in range(i + 1, len(hits))])
            ranked = reordered(self.stage, zip(hits, verdicts.shares(len(hits)), strict=True))
            return Reranked(ranked, asking.report(verdicts.counts))
        order = (
            heap_top(len(hits), self.top_k, 2, verdicts.best)
            if self.method == "heapsort"
            else bubble_top(len(hits), self.top_k, 2, verdicts.best)
        )
        return by_place(self.stage, hits, order, asking, verdicts.counts)


class Verdicts:
    """Who won against whom, asked once per pair: +1 if the first of ``(i, j)``, i < j, is better, -1 if the second, 0 for a tie."""

    def __init__(self, asking: Asking, verdict: Verdict) -> None:
        self._asking = asking
        self._verdict = verdict
        self._known: dict[Pair, int] = {}
        self._num_comparisons = 0

    @property
    def counts(self) -> dict[str, int]:
        """Comparisons made, those that were asked before included, and ties among the distinct ones."""
        return {"comparisons": self._num_comparisons, "ties": sum(won == 0 for won in self._known.values())}

    def ask(self, pairs: Sequence[Pair]) -> None:
        """Asks about pairs ``(i, j)``, i < j, those that are not known yet; prompts that begin with the same passage stand together."""
        self._num_comparisons += len(pairs)
        new = [pair for pair in pairs if pair not in self._known]
        if not new:
            return
        orders = new if self._verdict == "one-order" else sorted([*new, *((j, i) for i, j in new)])
        rows = self._asking.label_logprobs(orders, TASK.labels)
        odds = {order: _gap(first, second) for order, (first, second) in zip(orders, rows, strict=True)}
        for i, j in new:
            self._known[i, j] = self._judged(odds[i, j], -odds[j, i] if self._verdict != "one-order" else odds[i, j])

    def best(self, group: Sequence[int]) -> int:
        """The winner of a group, from its end to its beginning; in a tie the one that came first."""
        champion = group[-1]
        for challenger in reversed(group[:-1]):
            pair = min(champion, challenger), max(champion, challenger)
            self.ask([pair])
            champion = pair[0] if self._known[pair] >= 0 else pair[1]
        return champion

    def shares(self, num_hits: int) -> list[float]:
        """Wins and half of the ties of each hit, as a share of its comparisons with all others."""
        points = [0.0] * num_hits
        for i, gain in self._gains():
            points[i] += gain
        return [each / max(1, num_hits - 1) for each in points]

    def _gains(self) -> Iterator[tuple[int, float]]:
        for (i, j), won in self._known.items():
            yield i, (1 + won) / 2
            yield j, (1 - won) / 2

    def _judged(self, forward: float, backward: float) -> int:
        """Of the log-odds that the first is better, asked in both orders."""
        if self._verdict == "consistent":
            return _sign(forward) if _sign(forward) == _sign(backward) else 0
        return _sign(forward + backward) if forward != -backward else 0


def _gap(first: float, second: float) -> float:
    return 0.0 if first == second else first - second  # both may be minus infinity


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
