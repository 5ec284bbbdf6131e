"""Two full-chain reports side by side: what changed at each stage, and which questions were lost or found. Knows reports only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rag.eval.bootstrap import Difference, difference
from rag.eval.chain_report import ChainReport, ConfigOutcome, QuestionOutcome
from rag.eval.report_values import paired, stages_of, values_of

_DRAWS = 4_000


@dataclass(frozen=True, slots=True)
class StageChange:
    """Recall at one stage before and now, over the questions that both runs have; ``None`` where a run has no such stage."""

    stage: str
    before: float | None
    now: float | None
    difference: Difference | None
    lost_before: int
    lost_now: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A question whose fate changed: where it was lost before and is lost now; ``None``: it came through."""

    id: str
    question: str
    before: str | None
    now: str | None


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One configuration in both runs. ``newly_lost``: came through before and is lost now; ``moved``: lost at another stage now."""

    now: str
    before: str
    num_questions: int
    num_only_now: int
    num_only_before: int
    stages: tuple[StageChange, ...]
    newly_lost: tuple[Moved, ...]
    newly_found: tuple[Moved, ...]
    moved: tuple[Moved, ...]

    def words(self) -> str:
        """The change as one sentence."""
        called = self.now if self.now == self.before else f"{self.now} (before: {self.before})"
        told = [change for change in self.stages if change.difference is not None and not change.difference.inside_noise]
        stages = ", ".join(
            f"{change.stage} {'better' if change.difference and change.difference.mean > 0 else 'worse'}" for change in told
        )
        return (
            f"{called}: {len(self.newly_lost):,} questions newly lost, {len(self.newly_found):,} newly found, of {self.num_questions:,} in both runs; "
            f"outside the noise: {stages or 'nothing'}."
        )


def compare_runs(now: ChainReport, before: ChainReport) -> list[ConfigChange]:
    """The configurations that both runs have by name; if each run has only one, these two. Questions are paired by id.

    Raises ``ValueError`` if nothing can be paired.
    """
    pairs = _pairs(now, before)
    if not pairs:
        names = ", ".join(config.name for config in now.configs), ", ".join(config.name for config in before.configs)
        raise ValueError(f"the runs have no configuration in common: {names[0]} here, {names[1]} there")
    changes = [_change(mine, theirs, now.seed) for mine, theirs in pairs]
    if not any(change.num_questions for change in changes):
        raise ValueError("the runs have no question in common")
    return changes


def _pairs(now: ChainReport, before: ChainReport) -> list[tuple[ConfigOutcome, ConfigOutcome]]:
    by_name = {config.name: config for config in before.configs}
    pairs = [(config, by_name[config.name]) for config in now.configs if config.name in by_name]
    if not pairs and len(now.configs) == len(before.configs) == 1:
        return [(now.configs[0], before.configs[0])]
    return pairs


def _change(now: ConfigOutcome, before: ConfigOutcome, seed: int) -> ConfigChange:
    theirs = {question.id: question for question in before.questions}
    both = [(question, theirs[question.id]) for question in now.questions if question.id in theirs]
    told = [(mine, other) for mine, other in both if mine.points or other.points or mine.lost_at or other.lost_at]
    return ConfigChange(
        now=now.name,
        before=before.name,
        num_questions=len(both),
        num_only_now=len(now.questions) - len(both),
        num_only_before=len(before.questions) - len(both),
        stages=tuple(_stage(stage, now, before, both, seed) for stage in stages_of([now, before])),
        newly_lost=_moves(told, lambda old, new: old is None and new is not None),
        newly_found=_moves(told, lambda old, new: old is not None and new is None),
        moved=_moves(told, lambda old, new: old is not None and new is not None and old != new),
    )


def _stage(
    stage: str, now: ConfigOutcome, before: ConfigOutcome, both: Sequence[tuple[QuestionOutcome, QuestionOutcome]], seed: int
) -> StageChange:
    measure = f"recall@{stage}"
    common = {mine.id for mine, _ in both}
    mine = {name: value for name, value in values_of(now, measure).items() if name in common}
    other = {name: value for name, value in values_of(before, measure).items() if name in common}
    first, second = paired(mine, other)
    found = difference(first, second, seed=seed, num_resamples=_DRAWS) if first else None
    lost_before = sum(old.lost_at == stage for _, old in both)
    lost_now = sum(new.lost_at == stage for new, _ in both)
    return StageChange(
        stage, _mean(second if found else other.values()), _mean(first if found else mine.values()), found, lost_before, lost_now
    )


def _moves(
    told: Sequence[tuple[QuestionOutcome, QuestionOutcome]], wanted: Callable[[str | None, str | None], bool]
) -> tuple[Moved, ...]:
    return tuple(Moved(new.id, new.question, old.lost_at, new.lost_at) for new, old in told if wanted(old.lost_at, new.lost_at))


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
