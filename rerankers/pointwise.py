"""Asks a language model of each passage whether it answers the query. Knows one prompt and one score."""

from __future__ import annotations

import math
from typing import ClassVar

from rag.core import LM
from rag.rerankers.asking import Asking, Task
from rag.rerankers.lm_reranker import ScoringReranker

TASK = Task(
    system="You judge whether a passage helps to answer a question. Reply with one word, Yes or No.",
    cue="Does the passage help to answer the question? Yes or No?",
)


class PointwiseReranker(ScoringReranker):
    """Orders hits by P(yes) / (P(yes) + P(no)) of one question to ``lm`` per passage: comparable across queries, 0 to 1.

    As in Liang et al., "Holistic Evaluation of Language Models" (2022), and Nogueira et al., monoT5 (2020). ``max_passage_tokens``: longer
    passages are cut. ``batch_size``: prompts per call of the model. Raises ``ValueError`` if not even a cut passage fits the context.
    """

    stage: ClassVar[str] = "pointwise"

    def __init__(self, lm: LM, max_passage_tokens: int = 512, batch_size: int = 16) -> None:
        super().__init__(lm, max_passage_tokens, batch_size)

    def _task(self) -> Task:
        return TASK

    def _scores(self, asking: Asking, num_hits: int) -> list[float]:
        rows = asking.label_logprobs([[number] for number in range(num_hits)], ("yes", "no"))
        return [_chance(yes, no) for yes, no in rows]


def _chance(yes: float, no: float) -> float:
    """Logistic of ``yes - no``, without overflow; 0.5 if both are impossible."""
    if yes == no:
        return 0.5
    gap = no - yes
    return 1.0 / (1.0 + math.exp(gap)) if gap < 700 else 0.0
