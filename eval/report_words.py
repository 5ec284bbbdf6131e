"""A full-chain report in words: which configuration is best, and whether that can be told. Knows the report; draws nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.eval.bootstrap import Difference, difference
from rag.eval.chain_report import ChainReport, Compared, ConfigOutcome, Estimate
from rag.eval.report_values import SECONDS, default_measure, paired, total_cost, values_of

_DRAWS = 4_000
_SHARES = (
    "recall", "accuracy", "precision", "f1", "exact_match", "rouge", "ndcg", "mrr", "iou", "faithfulness", "support", "cited", "citation",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Standing:
    """One configuration by one measure: its key on the page (A, B, ...), mean over ``num_questions``, cost per question."""

    key: str
    name: str
    mean: float
    num_questions: int
    cost: Mapping[str, float]


def key_of(number: int) -> str:
    """A short name for configuration ``number`` (from 0): A to Z, then AA, AB, ...

    >>> [key_of(0), key_of(25), key_of(26)]
    ['A', 'Z', 'AA']
    """
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def standings(report: ChainReport, measure: str) -> list[Standing]:
    """All configurations that have a value of ``measure``, best first; of equal ones the cheaper first."""
    found = []
    for number, config in enumerate(report.configs):
        values = values_of(config, measure)
        if values:
            mean = sum(values.values()) / len(values)
            found.append(Standing(key_of(number), config.name, mean, len(values), total_cost(config)))
    return sorted(found, key=lambda each: (-each.mean, each.cost.get(SECONDS, 0.0)))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the (cost, quality) points that no other one beats: none is as cheap and better, or as good and cheaper.

    >>> pareto([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9)])
    [0, 2]
    """

    def beaten(number: int) -> bool:
        cost, quality = points[number]
        return any(
            other[0] <= cost and other[1] >= quality and (other != points[number] or place < number)
            for place, other in enumerate(points)
            if place != number
        )

    return [number for number in range(len(points)) if not beaten(number)]


def difference_of(report: ChainReport, name: str, baseline: str, measure: str) -> Difference | None:
    """The paired difference of two configurations over the questions that both have; ``None`` if there are none."""
    by_name = {config.name: config for config in report.configs}
    first, second = paired(values_of(by_name[name], measure), values_of(by_name[baseline], measure))
    return difference(first, second, seed=report.seed, num_resamples=_DRAWS) if first else None


def headline(report: ChainReport) -> list[str]:
    """A few sentences: the best configuration by the default measure, and against the runner-up and the baseline."""
    measure = default_measure(report)
    ranked = standings(report, measure)
    if not ranked:
        return [f"No question has a value of {said(measure)}: there is nothing to compare."]
    best = ranked[0]
    level = [each for each in ranked if each.mean == best.mean]
    numbers = f"{said(measure)}: {amount(measure, best.mean)} over {best.num_questions:,} questions"
    if len(level) > 1:
        sentences = [f"{', '.join(map(_called, level[:-1]))} and {_called(level[-1])} have the same {numbers}."]
    else:
        sentences = [f"{_called(best)} has the highest {numbers}." if len(ranked) > 1 else f"{_called(best)}: {numbers}."]
    if len(ranked) > len(level) == 1:
        sentences.append(_against(report, measure, best, ranked[1], "the runner-up "))
    by_name = {each.name: each for each in ranked}
    said_already = {*(each.name for each in level), *(each.name for each in ranked[1:2] if len(level) == 1)}
    if report.baseline in by_name and report.baseline not in said_already:
        sentences.append(_against(report, measure, best, by_name[report.baseline], "the baseline "))
    sentences += _cheaper(report, measure, ranked)
    sentences.append(_worst_stage(report, best))
    return [sentence for sentence in sentences if sentence]


def _against(report: ChainReport, measure: str, best: Standing, other: Standing, role: str) -> str:
    """The lead of the best over another one: as the report's comparisons have it, else by a difference that is not corrected."""
    told = _compared(report, measure, best.name, other.name)
    found = None if told else difference_of(report, best.name, other.name, measure)
    if told:
        mean, low, high, inside, num_questions = told.mean, told.low, told.high, told.inside_noise, told.num_questions
    elif found:
        mean, low, high, inside, num_questions = found.mean, found.low, found.high, found.inside_noise, found.num_queries
    else:
        return ""
    spread = f"{signed(measure, mean)}, 95 % interval {signed(measure, low)} to {signed(measure, high)}, n = {num_questions:,}"
    numbers = (
        f"{spread}, p = {told.p_adjusted:.2g} after correction" if told else f"{spread}, not corrected for several comparisons"
    )
    if inside:
        return f"Its lead over {role}{_called(other)} is inside the noise ({numbers}): these questions cannot tell the two apart."
    return f"Its lead over {role}{_called(other)} is outside the noise ({numbers})."


def _compared(report: ChainReport, measure: str, best: str, other: str) -> Compared | None:
    """The report's own comparison of the two, as ``best`` against ``other``."""
    for each in report.comparisons:
        if each.measure == measure and (each.config, each.baseline) == (best, other):
            return each
        if each.measure == measure and (each.config, each.baseline) == (other, best):
            update = {"config": best, "baseline": other, "mean": -each.mean, "low": -each.high, "high": -each.low}
            return each.model_copy(update=update)
    return None


def _cheaper(report: ChainReport, measure: str, ranked: Sequence[Standing]) -> list[str]:
    """The cheapest configuration that is not told apart from the best, if it saves a tenth or more."""
    best = ranked[0]
    if SECONDS not in best.cost:
        return []
    equals = []
    for other in ranked[1:]:
        told = _compared(report, measure, best.name, other.name) or difference_of(report, best.name, other.name, measure)
        if SECONDS in other.cost and told is not None and told.inside_noise:
            equals.append(other)
    cheapest = min(equals, key=lambda each: each.cost[SECONDS], default=None)
    if cheapest is None or cheapest.cost[SECONDS] > 0.9 * best.cost[SECONDS]:
        return []
    share = 1 - cheapest.cost[SECONDS] / best.cost[SECONDS]
    return [f"{_called(cheapest)} is not told apart from it and takes {share:.0%} less time per question."]


def _worst_stage(report: ChainReport, best: Standing) -> str:
    config = next(config for config in report.configs if config.name == best.name)
    worst = max(config.stages, key=lambda summary: summary.num_lost, default=None)
    lost = sum(summary.num_lost for summary in config.stages)
    if worst is None or not lost:
        return f"{best.key} loses no question at any stage." if num_with_points(config) else ""
    counted = num_with_points(config)
    return f"{best.key} loses {lost:,} of {counted:,} questions on the way, most of them ({worst.num_lost:,}) at the stage {worst.stage!r}."


def said_lost(config: ConfigOutcome) -> str:
    """How many questions were lost, of how many that can be."""
    counted = num_with_points(config)
    return (
        f"{sum(summary.num_lost for summary in config.stages):,} of {counted:,} questions lost"
        if counted
        else "no question can be lost"
    )


def num_with_points(config: ConfigOutcome) -> int:
    """How many questions can be lost: those with information points, and those whose chain broke off."""
    return sum(bool(question.points) or question.error is not None or question.lost_at is not None for question in config.questions)


def verdict(compared: Compared) -> str:
    """A comparison in words.

    >>> from rag.eval.chain_report import Compared
    >>> verdict(Compared(measure="f1", config="a", baseline="b", mean=0.1, low=-0.1, high=0.3, p=0.4, p_adjusted=0.8, inside_noise=True, num_questions=9))
    'inside the noise'
    """
    if compared.inside_noise:
        return "inside the noise"
    return "better" if compared.mean > 0 else "worse"


def said(measure: str) -> str:
    """A measure as a reader would say it.

    >>> said("recall@answer"), said("fuse/ndcg@10"), said("token_f1")
    ('recall at the stage answer', 'fuse: ndcg@10', 'token f1')
    """
    kind, at, stage = measure.partition("@")
    if at and "/" not in measure:
        return f"{kind.replace('_', ' ')} at the stage {stage}"
    stage, slash, name = measure.partition("/")
    return f"{stage}: {name}".replace("_", " ") if slash else measure.replace("_", " ")


def is_share(measure: str) -> bool:
    """Whether a measure lies between 0 and 1 and reads best in per cent."""
    name = measure.rpartition("/")[2].lower()
    return (
        measure.startswith("declined")
        or name.startswith(_SHARES)
        or name.endswith(("_f1", "_recall", "_precision", "_rate", "_share"))
    )


def amount(measure: str, value: float) -> str:
    """A value of ``measure`` with its unit."""
    return f"{100 * value:.1f} %" if is_share(measure) else f"{value:.3f}"


def signed(measure: str, value: float) -> str:
    """A difference of two values, with its sign; shares in points of per cent."""
    shown = f"{100 * value:+.1f}" if is_share(measure) else f"{value:+.3f}"
    return shown.replace("-", "\u2212") if float(shown) else shown.lstrip("+-")


def percent(estimate: Estimate) -> str:
    """``71.2 (68.0 to 74.1)``: a share with its interval, in per cent; a dash if no question has one."""
    if not estimate.num_questions:
        return "\u2013"
    return f"{100 * estimate.mean:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _called(standing: Standing) -> str:
    return f"{standing.key} ({standing.name})"
