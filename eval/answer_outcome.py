"""The answer of one question as a report keeps it, with measures from whoever measures answers. Knows no stage."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from rag.core import Answer
from rag.eval.answer_points import exact, token_f1, unmarked
from rag.eval.chain_report import AnswerOutcome, Passage
from rag.eval.folded import Folded
from rag.eval.question import Question

MeasureAnswer = Callable[[Question, Answer, Mapping[str, str]], AnswerOutcome]
"""(question, answer, source -> canonical text of the question's and the cited documents) -> the outcome."""


def plain_outcome(question: Question, answer: Answer, texts: Mapping[str, str]) -> AnswerOutcome:
    """Exact match and token F1, the best over the reference answers; and whether the sources were rightly or wrongly declined."""
    text = unmarked(answer.text)
    measures: dict[str, float] = {f"declined/{question.answerable}": float(answer.abstained)}
    if question.answers and question.answerable != "no":
        said = Folded(text)
        measures["exact_match"] = max(float(exact(text, reference)) for reference in question.answers)
        measures["f1"] = max(token_f1(said, Folded(reference)) for reference in question.answers)
    return outcome_of(answer, measures, {})


def outcome_of(answer: Answer, measures: Mapping[str, float], failures: Mapping[str, str]) -> AnswerOutcome:
    """The record of an answer."""
    citations = [
        Passage(source=each.source, start=each.start, end=each.end, rank=each.number, text=each.quote) for each in answer.citations
    ]
    return AnswerOutcome(
        text=answer.text, abstained=answer.abstained, citations=citations, measures=dict(measures), failures=dict(failures)
    )


def answer_measure(judge: Any | None = None, encoder: Any | None = None) -> tuple[str, MeasureAnswer]:
    """What measures answers by default, and a name for it: all of ``rag.eval.answer_measures`` where that is, else ``plain_outcome``."""
    if importlib.util.find_spec("rag.eval.answer_measures") is None:
        return "plain", plain_outcome
    measure_all = importlib.import_module("rag.eval.answer_measures").measure_answer

    def measured(question: Question, answer: Answer, texts: Mapping[str, str]) -> AnswerOutcome:
        measures, failures = measure_all(question, answer, texts, judge=judge, encoder=encoder)
        return outcome_of(answer, measures, failures)

    return f"all, judge {getattr(judge, 'fingerprint', None)}, encoder {getattr(encoder, 'fingerprint', None)}", measured
