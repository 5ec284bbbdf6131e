"""Is a judge to be trusted? Its judgements beside those of people. Knows the judge and labelled answers; knows no pipeline.

A judge is trusted with a measure if all of this holds, else not, and the report says which failed:

- at least 50 answers are labelled, and at least 5 in each of two classes: fewer show little
- at most 5 % of its judgements failed
- kappa is at least 0.6 ("substantial", Landis and Koch, Biometrics 1977), and the low end of its interval at least 0.4 ("moderate")

Kappa is Cohen's for faithfulness (all claims borne out, or not) and quadratically weighted for ratings, which are rounded to whole
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from rag.eval.chain_report import Estimate
from rag.eval.judge import MEASURES, Judge, Judgement
from rag.eval.judge_agreement import agreement, confusion, kappa, spearman
from rag.eval.judge_labels import LabelledAnswer

MIN_LABELS, MIN_IN_CLASS, MAX_FAILED = 50, 5, 0.05
MIN_KAPPA, MIN_KAPPA_LOW = 0.6, 0.4
CLASSES = {
    "faithfulness": ("not faithful", "faithful"),
    "relevance": ("1", "2", "3", "4", "5"),
    "correctness": ("1", "2", "3", "4", "5"),
}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CheckedMeasure(_Record):
    """One measure. ``confusion[h][j]``: answers that people put in class ``h``, the judge in ``j``. ``failures``: id -> reason."""

    measure: str
    classes: tuple[str, ...]
    confusion: list[list[int]]
    agreement: Estimate | None
    kappa: Estimate | None
    weighted_kappa: Estimate | None
    spearman: Estimate | None
    num_labelled: int
    failures: dict[str, str]
    is_trusted: bool
    why: list[str]


class JudgeReport(_Record):
    """What came out, for each measure that has labels. ``judge``: the version of the judge."""

    judge: str
    num_answers: int
    measures: list[CheckedMeasure]


class _Pair(NamedTuple):
    id: str
    label: float
    judgement: Judgement


def check_judge(
    judge: Judge, answers: Sequence[LabelledAnswer], *, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> JudgeReport:
    """Has every labelled answer judged and compares. ``on_progress`` hears (answers done, of how many)."""
    pairs: dict[str, list[_Pair]] = {name: [] for name in MEASURES}
    for number, each in enumerate(answers, start=1):
        for name, label in each.labels.model_dump(exclude_none=True).items():
            pairs[name].append(_Pair(each.id, label, _judged(judge, name, each)))
        if on_progress:
            on_progress(number, len(answers))
    measures = [_checked(name, found, seed) for name, found in pairs.items() if found]
    return JudgeReport(judge=judge.version, num_answers=len(answers), measures=measures)


def _judged(judge: Judge, measure: str, each: LabelledAnswer) -> Judgement:
    if measure == "faithfulness":
        return judge.faithfulness(each.question, each.answer, each.sources)
    if measure == "relevance":
        return judge.relevance(each.question, each.answer)
    return judge.correctness(each.question, each.answer, each.references)


def _class_of(measure: str, pair: _Pair) -> tuple[int, int]:
    """Numbers of the classes of label and judgement."""
    if measure == "faithfulness":
        return int(pair.label >= 1.0), int(bool(pair.judgement.is_faithful))
    return int(pair.label + 0.5) - 1, int((pair.judgement.value or 0.0) + 0.5) - 1


def _checked(measure: str, pairs: Sequence[_Pair], seed: int) -> CheckedMeasure:
    failures = {pair.id: pair.judgement.failure or "failed" for pair in pairs if pair.judgement.value is None}
    usable = [(pair, pair.judgement.value) for pair in pairs if pair.judgement.value is not None]
    classes = CLASSES[measure]
    human, judged = [_class_of(measure, pair)[0] for pair, _ in usable], [_class_of(measure, pair)[1] for pair, _ in usable]
    plain = kappa(human, judged, len(classes), seed=seed)
    weighted = kappa(human, judged, len(classes), weighted=True, seed=seed)
    deciding = plain if measure == "faithfulness" else weighted
    labels = [_class_of(measure, pair)[0] for pair in pairs]
    against = _reasons_against(labels, len(failures), deciding)
    return CheckedMeasure(
        measure=measure,
        classes=classes,
        confusion=confusion(human, judged, len(classes)),
        agreement=agreement(human, judged, len(classes), seed=seed),
        kappa=plain,
        weighted_kappa=weighted,
        spearman=spearman([pair.label for pair, _ in usable], [value for _, value in usable], seed=seed),
        num_labelled=len(pairs),
        failures=failures,
        is_trusted=not against,
        why=against or [f"kappa {_said(deciding)} over {len(usable)} answers, {len(failures)} failures"],
    )


def _reasons_against(labels: Sequence[int], num_failed: int, deciding: Estimate | None) -> list[str]:
    reasons = []
    if len(labels) < MIN_LABELS:
        reasons.append(f"only {len(labels)} answers are labelled, {MIN_LABELS} are needed")
    if sum(labels.count(each) >= MIN_IN_CLASS for each in set(labels)) < 2:
        reasons.append(f"fewer than two classes have {MIN_IN_CLASS} labels: a judge that always says the same would agree")
    if num_failed > MAX_FAILED * len(labels):
        reasons.append(f"{num_failed} of {len(labels)} judgements failed, at most {MAX_FAILED:.0%} may")
    if deciding is None:
        reasons.append("kappa is not defined: people or the judge used a single class")
    elif deciding.mean < MIN_KAPPA or deciding.low < MIN_KAPPA_LOW:
        reasons.append(f"kappa is {_said(deciding)}; {MIN_KAPPA} with a low end of {MIN_KAPPA_LOW} is needed")
    return reasons


def _said(estimate: Estimate | None) -> str:
    return f"{estimate.mean:.2f} ({estimate.low:.2f} to {estimate.high:.2f})" if estimate else "undefined"
