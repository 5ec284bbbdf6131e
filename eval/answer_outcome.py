"""The answer of one question as a report keeps it, with measures from whoever measures answers. Knows no stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rag.core import LM, Answer, Encoder
from rag.eval.answer_measures import measure_answer, versions
from rag.eval.chain_report import AnswerOutcome, Passage
from rag.eval.judge import Judge
from rag.eval.question import Question

MeasureAnswer = Callable[[Question, Answer, Mapping[str, str]], AnswerOutcome]
"""(question, answer, source -> canonical text of the question's and the cited documents) -> the outcome."""


def outcome_of(answer: Answer, measures: Mapping[str, float], failures: Mapping[str, str]) -> AnswerOutcome:
    """The record of an answer."""
    citations = [
        Passage(source=each.source, start=each.start, end=each.end, rank=each.number, text=each.quote) for each in answer.citations
    ]
    return AnswerOutcome(
        text=answer.text, abstained=answer.abstained, citations=citations, measures=dict(measures), failures=dict(failures)
    )


def answer_measure(judge: Judge | LM | None = None, encoder: Encoder | None = None) -> tuple[str, MeasureAnswer]:
    """What measures answers by default, and a name of it that changes with its results: all of ``rag.eval.answer_measures``."""

    def measured(question: Question, answer: Answer, texts: Mapping[str, str]) -> AnswerOutcome:
        measures, failures = measure_answer(question, answer, texts, judge=judge, encoder=encoder)
        return outcome_of(answer, measures, failures)

    return repr(sorted(versions(judge, encoder).items())), measured
