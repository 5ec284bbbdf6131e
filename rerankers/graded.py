"""Asks a language model for a grade of each passage and takes the expected one. Knows one prompt and one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from rag.core import LM
from rag.rerankers.asking import Asking, Task
from rag.rerankers.lm_reranker import ScoringReranker


class GradedReranker(ScoringReranker):
    """Orders hits by the expected grade, from 0 to ``max_grade``, under the model's probabilities of the grades.

    "Expected relevance values" over a rating scale: Zhuang et al., "Beyond Yes and No" (NAACL 2024). More shades than yes and no, still
    one prompt per passage and one token per answer. ``max_grade``: 1 to 9, so that a grade is one digit.
    """

    stage: ClassVar[str] = "graded"

    def __init__(self, lm: LM, max_grade: int = 4, max_passage_tokens: int = 512, batch_size: int = 16) -> None:
        super().__init__(lm, max_passage_tokens, batch_size)
        if not 1 <= max_grade <= 9:
            raise ValueError(f"max_grade={max_grade}: must be between 1 and 9")
        self.max_grade = max_grade

    def _task(self) -> Task:
        scale = f"from 0 (does not help) to {self.max_grade} (answers it completely)"
        return Task(
            system=f"You grade how far a passage answers a question, {scale}. Reply with one digit.",
            cue=f"Grade of the passage, {scale}:",
        )

    def _scores(self, asking: Asking, num_hits: int) -> list[float]:
        grades = [str(grade) for grade in range(self.max_grade + 1)]
        return [expected(row) for row in asking.label_logprobs([[number] for number in range(num_hits)], grades)]


def expected(logprobs: Sequence[float]) -> float:
    """The mean of 0, 1, ... weighed by their probabilities, which need not sum to 1; the middle if all are impossible."""
    largest = max(logprobs)
    if largest == -math.inf:
        return (len(logprobs) - 1) / 2
    weights = [math.exp(value - largest) for value in logprobs]
    return math.fsum(grade * weight for grade, weight in enumerate(weights)) / math.fsum(weights)
