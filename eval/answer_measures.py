"""All measures of one answer, and their means over many. Knows questions, answers and measures; runs no pipeline.

Which measures an answer has depends on what is known of the question and on what the answer is:

- ``exact_match``, ``f1``, ``rouge_l``, ``bleu``, ``correctness``: with reference answers, unless the sources hold no answer
- ``citation_precision``, ``citation_recall``, ``citations_on_evidence``, ``evidence_cited``: with evidence; an abstention has none,
  so 0
- ``cited_sentences``, ``faithfulness``, ``relevance``, ``support (encoder similarity, not entailment)``: of answers that are not
  abstentions
- ``declined/yes``, ``declined/partly``, ``declined/no``, ``declined/unclear``: 1 for an abstention, by what the sources can answer

What applies and could not be measured is a failure with its reason, never a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rag.core import LM, Answer, Encoder
from rag.errors import MissingExtra
from rag.eval import abstention, support
from rag.eval.answer_text import AnswerText, conversation, parsed_answer
from rag.eval.bootstrap import NUM_RESAMPLES, interval
from rag.eval.chain_report import Estimate, QuestionOutcome
from rag.eval.citation_scores import NAMES as CITATION_NAMES
from rag.eval.citation_scores import citation_scores, cited_sentences, cited_spans, located
from rag.eval.judge import Judge, Judgement, judge_of
from rag.eval.question import Question
from rag.eval.text_scores import NAMES as TEXT_NAMES
from rag.eval.text_scores import bleu, bleu_counts, bleu_of, exact_match, rouge_l, token_f1

VERSION = "1"
"""Changes when a measure of the same answer may come out otherwise."""

DECLINED = "declined/"
BLEU_RESAMPLES = 1000
NEEDS_REFERENCE = (*TEXT_NAMES, "correctness")
NEEDS_EVIDENCE = CITATION_NAMES


class Measured:
    """Measures and failures of one answer as they come in; a name is in one of the two, never in both."""

    def __init__(self) -> None:
        self.measures: dict[str, float] = {}
        self.failures: dict[str, str] = {}

    def judged(self, judgement: Judgement) -> None:
        """Takes over a judgement, whichever way it went."""
        if judgement.value is None:
            self.failures[judgement.measure] = judgement.failure or "failed"
        else:
            self.measures[judgement.measure] = judgement.value


def measure_answer(
    question: Question,
    answer: Answer,
    texts: Mapping[str, str],
    judge: Judge | LM | None = None,
    encoder: Encoder | None = None,
    *,
    calibration: support.Calibration | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """(measure -> number, measure -> why it failed). ``texts``: source -> canonical text, of the documents with evidence at least.

    The sources that the answer is judged by are the texts of ``answer.hits``, what its generator was given. ``judge``: a ``Judge``,
    or a language model, which is asked for JSON; without one nothing is judged. ``encoder``: for the similarity stand-in of
    faithfulness; ``calibration`` belongs to the encoder, and is known for the embedded one. See the module for which measures
    apply.
    """
    found = Measured()
    parsed = parsed_answer(answer.text)
    found.measures[DECLINED + question.answerable] = float(answer.abstained)
    has_reference = bool(question.answers) and question.answerable != "no"
    if has_reference:
        _texts(found, parsed, question.answers)
    if question.evidence:
        _citations(found, question, answer, texts)
    if not answer.abstained:
        _grounding(found, parsed, answer, encoder, calibration)
    if judge is not None:
        _judge(found, judge_of(judge), question, answer, parsed, has_reference=has_reference)
    return found.measures, found.failures


def _texts(found: Measured, parsed: AnswerText, references: Sequence[str]) -> None:
    for name, score in (("exact_match", exact_match), ("f1", token_f1), ("rouge_l", rouge_l), ("bleu", bleu)):
        try:
            found.measures[name] = score(parsed.plain, references)
        except MissingExtra as missing:
            found.failures[name] = str(missing)


def _citations(found: Measured, question: Question, answer: Answer, texts: Mapping[str, str]) -> None:
    cited = cited_spans(answer.citations)
    evidence, problems = located(question.evidence, texts, cited)
    if problems:  # part of the evidence would make a right citation count as a wrong one
        found.failures.update(dict.fromkeys(CITATION_NAMES, problems[0]))
    else:
        found.measures.update(citation_scores(cited, evidence))


def _grounding(
    found: Measured, parsed: AnswerText, answer: Answer, encoder: Encoder | None, calibration: support.Calibration | None
) -> None:
    share = cited_sentences(parsed, answer.citations)
    if share is None:
        found.failures["cited_sentences"] = "the answer has no sentences"
    else:
        found.measures["cited_sentences"] = share
    if encoder is None:
        return
    sentences, sources = [each.text for each in parsed.sentences], [hit.chunk.text for hit in answer.hits]
    try:
        found.measures[support.NAME] = support.support(sentences, sources, encoder, calibration)
    except ValueError as error:  # no sentences, or an encoder without calibration
        found.failures[support.NAME] = str(error)


def _judge(found: Measured, judge: Judge, question: Question, answer: Answer, parsed: AnswerText, *, has_reference: bool) -> None:
    asked = conversation(question)
    if has_reference:
        found.judged(judge.correctness(asked, answer.text, question.answers))
    if answer.abstained:
        return
    found.judged(judge.relevance(asked, answer.text))
    if parsed.sentences:
        sources = [hit.chunk.indexed_text for hit in answer.hits]
        found.judged(judge.faithfulness(asked, answer.text, sources))
    else:
        found.failures["faithfulness"] = "the answer has no sentences"


def versions(judge: Judge | LM | None = None, encoder: Encoder | None = None) -> dict[str, str]:
    """What must be equal for two runs' measures to compare, for a report and for the key of a cache."""
    told = {"answer measures": VERSION}
    if judge is not None:
        told["judge"] = judge_of(judge).version
    if encoder is not None:
        told[support.NAME] = encoder.fingerprint
    return told


def summarise(outcomes: Iterable[QuestionOutcome], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> dict[str, Estimate]:
    """Measure -> mean over the questions that have it, with its bootstrap interval and the number that failed.

    A question whose chain broke off counts as failed in every measure that its answer would have had. ``abstention/...`` are those
    of ``rag.eval.abstention``, and stand for ``declined/...``; ``bleu_corpus`` is no mean: it is BLEU of all answers together. A
    measure that failed everywhere has ``num_questions`` 0 and a mean of 0, which says nothing.
    """
    everything = list(outcomes)
    values: dict[str, list[float]] = {}
    num_failed: dict[str, int] = {}
    for outcome in everything:
        for name, value in (outcome.answer.measures if outcome.answer else {}).items():
            values.setdefault(name, []).append(value)
        for name in outcome.answer.failures if outcome.answer else ():
            num_failed[name] = num_failed.get(name, 0) + 1
    names = [name for name in dict.fromkeys([*values, *num_failed]) if not name.startswith(DECLINED)]
    for outcome in everything:
        for name in names if outcome.answer is None else ():
            num_failed[name] = num_failed.get(name, 0) + _applies(name, outcome)
    found = {
        name: estimate(values.get(name, []), num_failed.get(name, 0), seed=seed, num_resamples=num_resamples) for name in names
    }
    return {**found, **_corpus_bleu(everything, seed), **abstention.estimates(everything, seed=seed, num_resamples=num_resamples)}


def _corpus_bleu(outcomes: Sequence[QuestionOutcome], seed: int) -> dict[str, Estimate]:
    """``bleu_corpus``: BLEU of all answers together against the first reference; nothing if none has one, or without sacrebleu."""
    wanted = [each for each in outcomes if each.reference is not None and each.answerable != "no"]
    pairs = [(parsed_answer(each.answer.text).plain, each.reference) for each in wanted if each.answer and each.reference]
    if not pairs:
        return {}
    try:
        counts = np.array(bleu_counts([said for said, _ in pairs], [reference for _, reference in pairs]))
    except MissingExtra:
        return {}
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=BLEU_RESAMPLES) @ counts
    low, high = np.quantile([bleu_of(row.tolist()) for row in drawn], [0.025, 0.975])
    mean = bleu_of(counts.sum(axis=0).tolist())
    told = Estimate(mean=mean, low=float(low), high=float(high), num_questions=len(pairs), num_failed=len(wanted) - len(pairs))
    return {"bleu_corpus": told}


def estimate(values: Sequence[float], num_failed: int = 0, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Estimate:
    """The mean of ``values`` with its 95 % interval; zeros and ``num_questions`` 0 if there are none."""
    if not values:
        return Estimate(mean=0.0, low=0.0, high=0.0, num_questions=0, num_failed=num_failed)
    drawn = interval(values, seed=seed, num_resamples=num_resamples)
    return Estimate(mean=drawn.mean, low=drawn.low, high=drawn.high, num_questions=drawn.num_queries, num_failed=num_failed)


def _applies(name: str, outcome: QuestionOutcome) -> bool:
    """Whether the answer that never came would have had the measure."""
    if name in NEEDS_REFERENCE:
        return outcome.reference is not None and outcome.answerable != "no"
    return bool(outcome.evidence) if name in NEEDS_EVIDENCE else True
