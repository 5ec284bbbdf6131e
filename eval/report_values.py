"""The value that a full-chain report holds of one measure, question by question. Knows the report; computes no new measure.

A measure is named ``recall@STAGE`` (share of the question's information points that the stage had), ``accuracy@STAGE`` (1 if it had all
of them), each also as ``recall_filtered@STAGE`` and ``accuracy_filtered@STAGE`` (with the coarse filter); or ``STAGE/NAME``, a
measure of a stage (``fuse/ndcg@10``); or the name of a measure of the answer (``token_f1``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from rag.eval.chain_report import ChainReport, ConfigOutcome, QuestionOutcome, StageOutcome

_OF_POINTS = ("recall", "accuracy", "recall_filtered", "accuracy_filtered")
_RANKING = "ranking/nDCG@10"
RANK_MEASURES = ("nDCG@10", "MRR@10", "recall@10")
"""Measures of stages that rank documents."""

SECONDS = "seconds"


def stages_of(configs: Iterable[ConfigOutcome]) -> list[str]:
    """The stages of all configurations in one order that keeps each one's own.

    >>> from rag.eval.chain_report import ConfigOutcome
    >>> stages_of([])
    []
    """
    merged: list[str] = []
    for config in configs:
        place = 0
        for stage in _stage_names(config):
            if stage in merged:
                place = merged.index(stage) + 1
            else:
                merged.insert(place, stage)
                place += 1
    return merged


def _stage_names(config: ConfigOutcome) -> list[str]:
    if config.stages:
        return [summary.stage for summary in config.stages]
    return list(dict.fromkeys(stage.stage for question in config.questions for stage in question.stages))


def default_measure(report: ChainReport) -> str:
    """Recall at the last stage that every configuration has: ``answer`` if answers were made, else ``prompt``, ``select``, ...

    Where no question has information points but relevance is judged: nDCG of the last ranking.
    """
    if not report.configs:
        raise ValueError(f"the report {report.name!r} has no configuration")
    common = [stage for stage in stages_of(report.configs) if all(stage in _stage_names(config) for config in report.configs)]
    if not common:
        raise ValueError(f"the configurations of {report.name!r} have no stage in common")
    questions = [question for config in report.configs for question in config.questions]
    if not any(question.points for question in questions) and any(_RANKING in question.measures for question in questions):
        return _RANKING
    return f"recall@{common[-1]}"


def value_of(question: QuestionOutcome, measure: str) -> float | None:
    """The value of one question, ``None`` if it has none: no information points, or a measurement that failed.

    A question whose chain broke off (``error``) has 0 at every stage that it did not reach, and 0 for its missing answer.
    """
    kind, at, stage = measure.partition("@")
    if at and kind in _OF_POINTS:
        return _of_points(question, kind, stage)
    if measure in question.measures:
        return question.measures[measure]
    if question.answer is None:
        return 0.0 if question.error else None
    return question.answer.measures.get(measure)


def _of_points(question: QuestionOutcome, kind: str, stage: str) -> float | None:
    outcome = stage_of(question, stage)
    if outcome is None:
        return 0.0 if question.error and question.points else None
    found = outcome.found_filtered if kind.endswith("_filtered") else outcome.found
    if not found:
        return None
    return sum(found) / len(found) if kind.startswith("recall") else float(all(found))


def stage_of(question: QuestionOutcome, stage: str) -> StageOutcome | None:
    """What ``stage`` had for the question, if the chain reached it."""
    return next((outcome for outcome in question.stages if outcome.stage == stage), None)


def unlocated_of(question: QuestionOutcome) -> list[str]:
    """Information points that stand nowhere in the documents, as far as the report says so: no stage can be judged by them."""
    return list(getattr(question, "unlocated", ()))


def values_of(config: ConfigOutcome, measure: str) -> dict[str, float]:
    """Question id -> value, of the questions that have one."""
    found = ((question.id, value_of(question, measure)) for question in config.questions)
    return {name: value for name, value in found if value is not None}


def paired(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """The values of the questions that both have, in one order."""
    common = [name for name in first if name in second]
    return [first[name] for name in common], [second[name] for name in common]


def check_measure(report: ChainReport, measure: str) -> None:
    """Raises ``ValueError`` with the measures that there are unless ``measure`` is one of them."""
    known = measures_of(report.configs)
    if measure in known:
        return
    near = difflib.get_close_matches(measure, known, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"the report has no measure {measure!r}{meant}; there are: {', '.join(known) or '(none)'}")


def measures_of(configs: Sequence[ConfigOutcome]) -> list[str]:
    """The names of all measures that some question has, those of the stages first."""
    questions = [question for config in configs for question in config.questions]
    names = [f"{kind}@{stage}" for kind in _OF_POINTS for stage in stages_of(configs)]
    names += sorted({name for question in questions for name in question.measures})
    return names + sorted({name for question in questions if question.answer for name in question.answer.measures})


def total_cost(config: ConfigOutcome) -> dict[str, float]:
    """The mean cost per question, with the seconds of all stages added up as ``seconds`` if they are not given so.

    What else is known by stage (``peak_memory_mb/STAGE``) does not add up and is left out.
    """
    stages = [value for name, value in config.cost.items() if name.startswith(f"{SECONDS}/")]
    known = {name: value for name, value in config.cost.items() if "/" not in name}
    return {SECONDS: sum(stages), **known} if stages else known
