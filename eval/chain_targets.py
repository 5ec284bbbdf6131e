"""What a run must reach: measures and numbers as a user writes them, and who is below. Knows the report; draws nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.eval.answer_measures import estimate
from rag.eval.chain_report import ChainReport
from rag.eval.chain_summary import value_of

_TARGET = re.compile(r"([^=\s]+)\s*=\s*([0-9]*\.?[0-9]+)")


def target_of(text: str) -> tuple[str, float]:
    """``recall@answer=0.8`` as measure and number. Raises ``ValueError`` if it is something else.

    >>> target_of("recall@answer=0.8")
    ('recall@answer', 0.8)
    """
    found = _TARGET.fullmatch(text.strip())
    if not found:
        raise ValueError(f"--fail-under {text!r} is not MEASURE=NUMBER, such as recall@answer=0.8, accuracy@select=0.9, f1=0.5")
    return found[1], float(found[2])


def missed_targets(report: ChainReport, targets: Sequence[tuple[str, float]]) -> list[str]:
    """A line for each configuration whose mean of a measure is below its target.

    Raises ``ValueError`` for a measure that no question has a value of.
    """
    lines = []
    for measure, least in targets:
        means = {}
        for config in report.configs:
            values = [value for question in config.questions if (value := value_of(question, measure)) is not None]
            means[config.name] = estimate(values, seed=report.seed).mean if values else None
        if all(mean is None for mean in means.values()):
            raise ValueError(f"--fail-under: no question has a value of {measure!r}; there are {', '.join(_measures(report))}")
        lines += [
            f"{name}: {measure} is {mean:.4f}, below {least:g}" for name, mean in means.items() if mean is not None and mean < least
        ]
    return lines


def _measures(report: ChainReport) -> list[str]:
    stages = dict.fromkeys(stage.stage for config in report.configs for stage in config.stages)
    questions = [question for config in report.configs for question in config.questions]
    own = {name for question in questions for name in question.measures}
    answers = {name for question in questions if question.answer for name in question.answer.measures}
    return [f"{kind}@{stage}" for kind in ("recall", "accuracy") for stage in stages] + sorted(own | answers)
