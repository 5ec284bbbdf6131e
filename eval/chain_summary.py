"""From outcomes of questions to the figures of a configuration, and from two configurations to their difference. Knows records only.

The mean of a measure is over the questions that have it. A question without information points, or all of whose points stand nowhere in the
set's documents, is in no recall and no accuracy; the latter are counted as ``num_failed``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rag.eval.answer_measures import estimate, summarise
from rag.eval.bootstrap import ALPHA, NUM_RESAMPLES, difference
from rag.eval.chain_report import Compared, ConfigOutcome, Estimate, QuestionOutcome, StageOutcome, StageSummary
from rag.eval.chain_stages import ANSWER, CHUNK, PROMPT, READ, RETRIEVE, SELECT
from rag.eval.chain_tokens import BUDGETS, at_budget

RANKING_MEASURE = "ranking/nDCG@10"
"""Of the last ranking before the selection, where relevance is judged."""

COMPARED_STAGES = (READ, CHUNK, RETRIEVE, SELECT, PROMPT, ANSWER)
"""Stages whose recall two configurations are compared by, as far as both have them; accuracy too for the last of them."""


def summarised(
    name: str, config: Mapping[str, Any], ingest: Mapping[str, float], questions: Sequence[QuestionOutcome], seed: int
) -> ConfigOutcome:
    """All figures of one configuration."""
    stages = stages_of(questions)
    costs = sorted({name for question in questions for name in question.cost})
    return ConfigOutcome(
        name=name,
        config=dict(config),
        stages=[_stage(stage, questions, seed) for stage in stages],
        answers=summarise(questions, seed=seed) if any(question.answer for question in questions) else {},
        cost={cost: statistics.fmean(each.cost[cost] for each in questions if cost in each.cost) for cost in costs},
        ingest=dict(ingest),
        recall_by_budget=_by_budget("recall", questions, seed),
        precision_by_budget=_by_budget("precision", questions, seed),
        iou_by_budget=_by_budget("iou", questions, seed),
        questions=list(questions),
    )  # fmt: skip


def _by_budget(measure: str, questions: Sequence[QuestionOutcome], seed: int) -> dict[int, Estimate]:
    values = {
        budget: [each.measures[name] for each in questions if (name := at_budget(budget, measure)) in each.measures]
        for budget in BUDGETS
    }
    return {budget: estimate(found, seed=seed) for budget, found in values.items() if found}


def stages_of(questions: Iterable[QuestionOutcome]) -> list[str]:
    """The stages of a chain in order, told by the questions that went through it; by all if none did."""
    chosen = list(questions)
    chosen = [question for question in chosen if question.error is None] or chosen
    longest = max(chosen, key=lambda question: len(question.stages), default=None)
    return [] if longest is None else [outcome.stage for outcome in longest.stages]


def _stage(stage: str, questions: Sequence[QuestionOutcome], seed: int) -> StageSummary:
    judged = [outcome for question in questions if question.points and (outcome := of_stage(question, stage))]
    unlocated = sum(not question.points and bool(question.unlocated) for question in questions)
    found = [outcome.found for outcome in judged]
    filtered = [outcome.found_filtered for outcome in judged]
    seconds = [each.seconds for question in questions if (each := of_stage(question, stage)) and each.seconds is not None]
    names = sorted({name for question in questions for name in question.measures if name.startswith(f"{stage}/")})
    own = {name: [question.measures[name] for question in questions if name in question.measures] for name in names}
    return StageSummary(
        stage=stage,
        recall=estimate([sum(each) / len(each) for each in found], unlocated, seed=seed),
        accuracy=estimate([float(all(each)) for each in found], unlocated, seed=seed),
        recall_filtered=estimate([sum(each) / len(each) for each in filtered], unlocated, seed=seed),
        accuracy_filtered=estimate([float(all(each)) for each in filtered], unlocated, seed=seed),
        num_lost=sum(question.lost_at == stage for question in questions),
        measures={name.removeprefix(f"{stage}/"): estimate(values, seed=seed) for name, values in own.items()},
        seconds_median=statistics.median(seconds) if seconds else None,
    )


def of_stage(question: QuestionOutcome, stage: str) -> StageOutcome | None:
    """What a stage had for a question, if the question has it."""
    return next((outcome for outcome in question.stages if outcome.stage == stage), None)


def value_of(question: QuestionOutcome, measure: str) -> float | None:
    """``recall@STAGE``, ``accuracy@STAGE``, ``STAGE/NAME`` or a measure of the answer; ``None`` if the question has no such value.

    A question whose chain broke off has 0 for the answer it did not give.
    """
    kind, _, stage = measure.partition("@")
    if kind in ("recall", "accuracy"):
        outcome = of_stage(question, stage)
        if outcome is None or not question.points:
            return None
        return sum(outcome.found) / len(outcome.found) if kind == "recall" else float(all(outcome.found))
    if "/" in measure and measure in question.measures:
        return question.measures[measure]
    if question.answer is None:
        return 0.0 if question.error is not None and "/" not in measure else None
    return question.answer.measures.get(measure)


def compared(configs: Sequence[ConfigOutcome], baseline: str, seed: int, num_resamples: int = NUM_RESAMPLES) -> list[Compared]:
    """Every configuration against the baseline, question by question; p values by sign flips, corrected over all of them (Holm)."""
    base = next(config for config in configs if config.name == baseline)
    drawn = []
    for config in configs:
        for measure in _measures(config, base) if config.name != baseline else ():
            other = {question.id: value_of(question, measure) for question in base.questions}
            pairs = [(value_of(question, measure), other.get(question.id)) for question in config.questions]
            both = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
            if both:
                mine, theirs = zip(*both, strict=True)
                drawn.append((measure, config.name, difference(mine, theirs, seed=seed, num_resamples=num_resamples)))
    adjusted = holm([each.p for _, _, each in drawn])
    return [
        Compared(
            measure=measure, config=name, baseline=baseline, mean=each.mean, low=each.low, high=each.high, p=each.p, p_adjusted=p,
            inside_noise=each.low <= 0.0 <= each.high or p >= ALPHA, num_questions=each.num_queries,
        )
        for (measure, name, each), p in zip(drawn, adjusted, strict=True)
    ]  # fmt: skip


def _measures(config: ConfigOutcome, base: ConfigOutcome) -> list[str]:
    both = {summary.stage for summary in config.stages} & {summary.stage for summary in base.stages}
    common = [stage for stage in COMPARED_STAGES if stage in both]
    measures = [f"recall@{stage}" for stage in common] + [f"accuracy@{stage}" for stage in common[-1:]]
    measures += (
        [RANKING_MEASURE] if all(any(RANKING_MEASURE in each.measures for each in of.questions) for of in (config, base)) else []
    )
    measures += [at_budget(budget) for budget in sorted(config.recall_by_budget.keys() & base.recall_by_budget.keys())]
    return measures + sorted(config.answers.keys() & base.answers.keys())


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for being several (Holm, Scandinavian Journal of Statistics, 1979), in their order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = highest
    return adjusted
