"""A full-chain report on a terminal. Knows the report and rich; measures nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.table import Table

from rag.eval.answer_measures import estimate
from rag.eval.chain_report import ChainReport, ConfigOutcome, Estimate
from rag.eval.chain_summary import value_of

_TARGET = re.compile(r"([^=\s]+)\s*=\s*([0-9]*\.?[0-9]+)")


def tables(report: ChainReport) -> Iterator[Table]:
    """Stages, answers, costs, and comparisons that are outside the noise or nearly so."""
    for config in report.configs:
        yield _stages(config, len(report.configs) > 1)
    if any(config.answers for config in report.configs):
        yield _means("answers", report.configs)
    yield _costs(report.configs)
    if report.comparisons:
        yield _compared(report)


def _stages(config: ConfigOutcome, is_named: bool) -> Table:
    table = Table(title=f"{config.name}: stages" if is_named else "stages", title_justify="left", show_edge=False)
    table.add_column("stage")
    for name in ("recall", "with topic filter", "accuracy", "lost", "n", "median s"):
        table.add_column(name, justify="right")
    for stage in config.stages:
        seconds = "" if stage.seconds_median is None else f"{stage.seconds_median:.3f}"
        filtered = f"{stage.recall_filtered.mean:.3f}"
        accuracy = f"{stage.accuracy.mean:.3f}"
        table.add_row(
            stage.stage, _said(stage.recall), filtered, accuracy, str(stage.num_lost), str(stage.recall.num_questions), seconds
        )
    return table


def _means(title: str, configs: Sequence[ConfigOutcome]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("measure")
    for config in configs:
        table.add_column(config.name, justify="right")
    for measure in dict.fromkeys(name for config in configs for name in config.answers):
        found = [config.answers.get(measure) for config in configs]
        table.add_row(measure, *("" if each is None else _said(each) for each in found))
    return table


def _costs(configs: Sequence[ConfigOutcome]) -> Table:
    table = Table(title="cost (mean per question; ingest in all)", title_justify="left", show_edge=False)
    table.add_column("cost")
    for config in configs:
        table.add_column(config.name, justify="right")
    for cost in dict.fromkeys(name for config in configs for name in config.cost):
        values = [config.cost.get(cost) for config in configs]
        if any(values):
            table.add_row(cost, *("" if value is None else f"{value:,.3g}" for value in values))
    for fact in dict.fromkeys(name for config in configs for name in config.ingest):
        table.add_row(f"ingest: {fact}", *(f"{config.ingest.get(fact, 0.0):,.4g}" for config in configs))
    return table


def _compared(report: ChainReport) -> Table:
    table = Table(title=f"against {report.baseline} (95 % interval, p corrected by Holm)", title_justify="left", show_edge=False)
    table.add_column("measure")
    table.add_column("configuration")
    for name in ("difference", "p", "n"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for each in report.comparisons:
        if each.mean or not each.inside_noise:
            verdict = "inside the noise" if each.inside_noise else "higher" if each.mean > 0 else "lower"
            said = f"{each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f})"
            table.add_row(each.measure, each.config, said, f"{each.p_adjusted:.4f}", str(each.num_questions), verdict)
    return table


def _said(value: Estimate) -> str:
    failed = f", {value.num_failed} failed" if value.num_failed else ""
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f}{failed})" if value.num_questions else f"-{failed}"


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
