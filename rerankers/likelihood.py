"""Asks a language model how likely the query is after each passage. Knows one prompt and one score."""

from __future__ import annotations

from typing import ClassVar

from rag.core import LM
from rag.rerankers.asking import Asking, Task
from rag.rerankers.lm_reranker import ScoringReranker

TASK = Task(
    system="You are given a passage. Write a question that the passage answers.",
    cue="Write a question that this passage answers.",
    answer_tokens=0,
    shows_query=False,
)


class LikelihoodReranker(ScoringReranker):
    """Orders hits by the mean log-probability per token of the query, in nats, as the question that ``lm`` would ask about the passage.

    Query likelihood (Ponte and Croft, SIGIR 1998) with a language model: Sachan et al., "Improving Passage Retrieval with Zero-Shot
    Question Generation" (EMNLP 2022). No answer is read, so models that follow no instruction can be used. The mean is over
    ``lm.count_tokens(query)``; the order does not depend on it. A query of nothing but blanks orders nothing.
    """

    stage: ClassVar[str] = "likelihood"

    def __init__(self, lm: LM, max_passage_tokens: int = 512, batch_size: int = 16) -> None:
        super().__init__(lm, max_passage_tokens, batch_size)

    def _task(self) -> Task:
        return TASK

    def _scores(self, asking: Asking, num_hits: int) -> list[float]:
        if not asking.query:
            return [0.0] * num_hits
        return [value / max(1, asking.query_tokens) for value in asking.query_logprobs(range(num_hits))]
