"""Tuning on made objectives: it finds the best, keeps to its budget, outlives failures and interruptions."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.eval.chain_report import AnswerOutcome, ChainReport, ConfigOutcome, QuestionOutcome
from rag.eval.tune import tune
from rag.eval.tune_plan import affordable, plan
from tests.eval.generated_report import generated_report

QUESTIONS = [f"q{number}" for number in range(150)]
NO_DRAW = 0.0


class Objective:
    """Configurations of known quality on questions of unknown difficulty, with noise that belongs to the pair of the two."""

    def __init__(self, num_configs: int, seed: int = 0, noise: float = 0.2, spread: float = 0.12) -> None:
        draw = random.Random(seed)
        self.quality = {f"c{number}": draw.gauss(0.5, spread) for number in range(num_configs)}
        self.difficulty = {question: draw.gauss(0, 0.2) for question in QUESTIONS}
        self.noise, self.seed = noise, seed
        self.asked: set[tuple[str, str]] = set()
        self.calls: list[tuple[list[str], int]] = []
        self.broken: set[str] = set()

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"chunker": {"use": "fixed", "max_tokens": 100 + number % 3}, "select": {"use": name}}
            for number, name in enumerate(self.quality)
        }

    @property
    def best(self) -> float:
        return max(self.quality.values())

    def value(self, name: str, question: str) -> float:
        return self.quality[name] + self.difficulty[question] + random.Random(f"{self.seed} {name} {question}").gauss(0, self.noise)

    def __call__(self, configs: Mapping[str, Mapping[str, Any]], questions: Sequence[str]) -> ChainReport:
        self.calls.append((list(configs), len(questions)))
        self.asked |= {(name, question) for name in configs for question in questions}
        for name in configs:
            if name in self.broken:
                raise RuntimeError(f"{name} broke")
        outcomes = [
            ConfigOutcome(
                name=name,
                config=dict(raw),
                stages=[],
                cost={"seconds/answer": 1 + self.quality[name]},
                questions=[self._asked(name, question) for question in questions],
            )
            for name, raw in configs.items()
        ]
        return ChainReport(name="made", created="", num_questions=len(questions), num_documents=0, configs=outcomes)

    def _asked(self, name: str, question: str) -> QuestionOutcome:
        answer = AnswerOutcome(text="", abstained=False, measures={"score": self.value(name, question)})
        return QuestionOutcome.model_construct(
            id=question,
            question="",
            type="",
            answerable="yes",
            stages=[],
            points=[],
            answer=answer,
            measures={},
            cost={},
            error=None,
            lost_at=None,
            evidence=[],
        )


def random_search(objective: Objective, evaluations: int, seed: int) -> str:
    """As many whole configurations as the budget allows, the best mean of them."""
    chosen = random.Random(seed).sample(list(objective.quality), evaluations // len(QUESTIONS))
    means = {name: sum(objective.value(name, question) for question in QUESTIONS) for name in chosen}
    return max(means, key=lambda name: means[name])


def test_it_finds_the_best_far_more_often_than_random_search() -> None:
    tolerance, rounds, found, by_chance = 0.03, 12, 0, 0
    for seed in range(rounds):
        objective = Objective(54, seed)
        budget = 9 * len(QUESTIONS)
        result = tune(objective.configs, QUESTIONS, objective, measure="score", evaluations=budget, seed=seed)
        assert len(objective.asked) <= budget
        found += objective.quality[result.best] >= objective.best - tolerance
        by_chance += objective.quality[random_search(objective, budget, seed)] >= objective.best - tolerance
    assert found >= 0.75 * rounds and found >= by_chance + 0.4 * rounds, (found, by_chance)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(30, 3000), st.integers(2, 4), st.integers(0, 3), st.integers(0, 3))
def test_it_never_asks_more_than_the_budget(num_configs: int, evaluations: int, eta: int, seed: int, num_broken: int) -> None:
    objective = Objective(num_configs, seed)
    objective.broken = set(list(objective.quality)[1 : 1 + num_broken])
    try:
        result = tune(objective.configs, QUESTIONS, objective, measure="score", evaluations=evaluations, eta=eta, seed=seed)
    except ValueError as error:  # what failed took all there was
        assert num_broken and "no configuration could be evaluated" in str(error)
        assert sum(len(names) * size for names, size in objective.calls) <= evaluations
        return
    assert len(objective.asked) <= result.num_evaluations <= evaluations
    assert result.best not in objective.broken
    assert {each.name for each in result.tried} == set(objective.quality)


@given(st.integers(1, 300), st.integers(1, 500), st.integers(20, 20_000), st.integers(2, 5), st.integers(1, 10))
def test_a_plan_keeps_to_its_budget_and_its_rungs_grow(
    configs: int, questions: int, evaluations: int, eta: int, least: int
) -> None:
    made = plan(configs, questions, evaluations, eta=eta, min_questions=least)
    assert made.cost(made.num_configs) <= evaluations and 1 <= made.num_configs <= configs
    assert list(made.sizes) == sorted(set(made.sizes)) and made.sizes[0] >= min(least, questions) and made.sizes[-1] <= questions
    by_hand, left, asked = 0, made.num_configs, 0
    for size in made.sizes:
        by_hand, left, asked = by_hand + left * (size - asked), made.num_kept(left), size
    assert by_hand == made.cost(made.num_configs)
    assert affordable(made, made.num_configs, 0, evaluations) == made.num_configs


def test_without_a_limit_the_last_rung_asks_everything() -> None:
    made = plan(27, 100)
    assert (made.num_configs, made.sizes) == (27, (12, 34, 100))
    assert [made.num_kept(number) for number in (27, 9, 3, 1)] == [9, 3, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluations": 5}, "evaluations: 5; 2 configurations at 10 questions need 20"),
        ({"eta": 1}, "eta: 1; allowed: 2 or more"),
        ({"minutes": 0}, "minutes: 0; allowed: more than 0"),
        (
            {"measure": "scor"},
            r"the report has no measure 'scor' \(did you mean 'score'\?\); there are: score",
        ),
    ],
)
def test_what_cannot_be_done_is_said(arguments: dict[str, Any], message: str) -> None:
    objective = Objective(4)
    with pytest.raises(ValueError, match=message):
        tune(objective.configs, QUESTIONS, objective, **{"measure": "score", **arguments})


def test_configurations_are_compared_on_the_same_growing_questions() -> None:
    objective = Objective(18, 3)
    result = tune(objective.configs, QUESTIONS, objective, measure="score", evaluations=1200, seed=1)
    sizes = [rung.num_questions for rung in result.rungs]
    assert sizes == sorted(set(sizes)) and len(sizes) > 1
    by_config: dict[str, set[str]] = {}
    for name, question in objective.asked:
        by_config.setdefault(name, set()).add(question)
    nested = sorted(by_config.values(), key=len)
    assert all(small <= large for small, large in itertools.pairwise(nested))
    for rung, after in itertools.pairwise(result.rungs):
        assert set(rung.kept) == set(after.means)
        best_dropped = max((mean for name, mean in rung.means.items() if name not in rung.kept), default=float("-inf"))
        assert min(rung.means[name] for name in rung.kept if name not in rung.kept_for_noise) >= best_dropped
    assert {config.name for config in result.report.configs} == set(result.rungs[-1].means)


def test_what_is_inside_the_noise_goes_on_while_the_budget_reaches() -> None:
    objective = Objective(18, 5, noise=0.5, spread=0.001)  # nothing can be told apart
    rich = tune(objective.configs, QUESTIONS, objective, measure="score", evaluations=18 * len(QUESTIONS), seed=0)
    poor = tune(objective.configs, QUESTIONS, objective, measure="score", evaluations=plan(18, 150).cost(18), seed=0)
    assert len(rich.rungs[0].kept) > len(poor.rungs[0].kept) == 6
    assert rich.rungs[0].kept_for_noise and not poor.rungs[0].kept_for_noise
    assert any("inside the noise of the leader, for want of budget" in each.end for each in poor.tried)
    clear = Objective(18, 5, noise=0.01, spread=0.2)
    told = tune(clear.configs, QUESTIONS, clear, measure="score", evaluations=18 * len(QUESTIONS), seed=0)
    assert not told.rungs[0].kept_for_noise and clear.quality[told.best] == clear.best


def test_a_configuration_that_fails_is_dropped_and_named() -> None:
    objective = Objective(9, 2)
    best = max(objective.quality, key=lambda name: objective.quality[name])
    objective.broken = {best}
    result = tune(objective.configs, QUESTIONS, objective, measure="score", evaluations=3000)
    failed = [each for each in result.tried if each.end.startswith("failed")]
    assert [each.name for each in failed] == [best] and f"RuntimeError: {best} broke" in failed[0].end
    assert result.best != best and any("1 configurations failed" in said for said in result.words())
    objective.broken = set(objective.quality)
    with pytest.raises(ValueError, match="no configuration could be evaluated: c0: RuntimeError: c0 broke"):
        tune(objective.configs, QUESTIONS, objective, measure="score", evaluations=3000)


def test_configurations_that_ingest_alike_are_evaluated_together() -> None:
    objective = Objective(9)
    tune(objective.configs, QUESTIONS, objective, measure="score")
    first = objective.calls[:3]
    assert [names for names, _ in first] == [["c0", "c3", "c6"], ["c1", "c4", "c7"], ["c2", "c5", "c8"]]


def test_an_interrupted_tuning_goes_on_where_it_stood(tmp_path: Path) -> None:
    whole = Objective(18, 1)
    wanted = tune(whole.configs, QUESTIONS, whole, measure="score", evaluations=2000, ledger=tmp_path / "whole.jsonl")
    asked_before: set[tuple[str, str]] = set()
    for stop in range(1, 20):
        objective = Objective(18, 1)

        def interrupted(
            configs: Mapping[str, Any], questions: Sequence[str], objective: Objective = objective, stop: int = stop
        ) -> ChainReport:
            if len(objective.calls) == 2:
                raise KeyboardInterrupt
            return objective(configs, questions)

        try:
            result = tune(
                objective.configs, QUESTIONS, interrupted, measure="score", evaluations=2000, ledger=tmp_path / "ledger.jsonl"
            )
        except KeyboardInterrupt:
            with (tmp_path / "ledger.jsonl").open("a") as file:
                file.write('{"config": "c0", "valu')  # as kill -9 would leave it
            asked_before |= objective.asked
            continue
        assert stop > 2 and objective.calls  # several interruptions, and still something to do or the last report to make
        break
    assert (result.best, result.rungs, result.num_evaluations) == (wanted.best, wanted.rungs, wanted.num_evaluations)
    again = Objective(18, 1)
    tune(again.configs, QUESTIONS, again, measure="score", evaluations=2000, ledger=tmp_path / "whole.jsonl")
    assert len(again.calls) <= 1  # only the last report, which a cache answers
    with pytest.raises(ValueError, match="holds a tuning of other configurations"):
        tune(again.configs, QUESTIONS[:-1], again, measure="score", evaluations=2000, ledger=tmp_path / "whole.jsonl")
    (tmp_path / "other.jsonl").write_text("hello\nworld\n")
    with pytest.raises(ValueError, match="line 1: 'hello' is no line of a tuning"):
        tune(again.configs, QUESTIONS, again, measure="score", ledger=tmp_path / "other.jsonl")


def test_nothing_is_begun_that_would_end_after_the_minutes() -> None:
    objective = Objective(18, 4)
    time = [0.0]

    def slow(configs: Mapping[str, Any], questions: Sequence[str]) -> ChainReport:
        new = {(name, question) for name in configs for question in questions} - objective.asked
        time[0] += len(new) * 1.0
        return objective(configs, questions)

    result = tune(objective.configs, QUESTIONS, slow, measure="score", minutes=10, clock=lambda: time[0])
    assert time[0] <= 600 and len(objective.asked) == result.num_evaluations <= 600
    assert result.seconds == time[0] and len(result.rungs) >= 1
    objective.asked.clear()
    short = tune(objective.configs, QUESTIONS, slow, measure="score", minutes=0.5, clock=lambda: time[0])
    assert any(each.end.startswith("not tried: the budget allows fewer") for each in short.tried)
    assert len(objective.asked) <= 30


@pytest.mark.parametrize("seconds", [0.2, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("start", [0.0, 20.0])
def test_the_minutes_hold_however_slow_an_evaluation_is(seconds: float, start: float) -> None:
    """``start``: what the first call costs on top, for models and an index."""
    objective = Objective(7, 5)
    time = [0.0]

    def slow(configs: Mapping[str, Any], questions: Sequence[str]) -> ChainReport:
        new = {(name, question) for name in configs for question in questions} - objective.asked
        time[0] += seconds * len(new) + (0.0 if objective.asked else start)
        return objective(configs, questions)

    result = tune(objective.configs, QUESTIONS, slow, baseline="c3", measure="score", minutes=2, clock=lambda: time[0])
    assert time[0] <= max(120, 7 * seconds + start), "only the first question may be longer than everything that was allowed"
    compared = [each for each in result.tried if each.num_questions]
    assert len(compared) >= 2 and len({each.num_questions for each in compared if each.end.startswith(("best", "reached"))}) == 1
    if seconds <= 1:
        assert time[0] >= 60, "half of the time and more is used"


def test_the_plan_is_made_for_the_time_that_there_is() -> None:
    objective = Objective(27, 6)
    time = [0.0]

    def slow(configs: Mapping[str, Any], questions: Sequence[str]) -> ChainReport:
        time[0] += len({(name, question) for name in configs for question in questions} - objective.asked)
        return objective(configs, questions)

    result = tune(objective.configs, QUESTIONS, slow, measure="score", minutes=10, clock=lambda: time[0])
    assert time[0] <= 600 and len(result.rungs) >= 2, "with fewer questions at first, halving still takes place"


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 30), st.integers(40, 2500), st.integers(0, 3))
def test_the_baseline_is_asked_at_every_rung_within_the_budget(num_configs: int, evaluations: int, seed: int) -> None:
    objective = Objective(num_configs, seed)
    worst = min(objective.quality, key=lambda name: objective.quality[name])
    result = tune(objective.configs, QUESTIONS, objective, baseline=worst, measure="score", evaluations=evaluations, seed=seed)
    assert len(objective.asked) <= result.num_evaluations <= evaluations
    assert all(worst in rung.means for rung in result.rungs)
    assert result.report.configs[0].name == worst
    assert (result.gain is None) == (result.best == worst)


def test_the_result_says_whether_anything_was_gained() -> None:
    clear = Objective(9, 1, noise=0.05, spread=0.2)
    worst, best = (chosen(clear.quality, key=lambda name: clear.quality[name]) for chosen in (min, max))
    said = " ".join(tune(clear.configs, QUESTIONS, clear, baseline=worst, measure="score").words())
    assert f"Its lead over the baseline ({worst}) is outside the noise" in said
    assert "the search has found nothing better" in " ".join(
        tune(clear.configs, QUESTIONS, clear, baseline=best, measure="score").words()
    )
    level = Objective(3, 2, noise=0.4, spread=0.0001)
    found = tune(level.configs, QUESTIONS, level, baseline="c0", measure="score", seed=2)
    assert found.gain is None or found.gain.inside_noise == ("no reason to change anything" in " ".join(found.words()))
    doubtful = found.gain is not None and found.gain.inside_noise
    assert found.advised == (found.baseline if doubtful else found.best) == found.as_dict()["advised"]
    with pytest.raises(ValueError, match="baseline: 'x' is none of the configurations"):
        tune(level.configs, QUESTIONS, level, baseline="x", measure="score")


def test_with_more_minutes_it_goes_on(tmp_path: Path) -> None:
    objective = Objective(18, 4)
    time = [0.0]

    def slow(configs: Mapping[str, Any], questions: Sequence[str]) -> ChainReport:
        time[0] += len({(name, question) for name in configs for question in questions} - objective.asked)
        return objective(configs, questions)

    reached = []
    for minutes in (2.0, 6.0, 30.0):
        result = tune(
            objective.configs,
            QUESTIONS,
            slow,
            measure="score",
            minutes=minutes,
            ledger=tmp_path / "ledger.jsonl",
            clock=lambda: time[0],
        )
        assert time[0] <= 60 * minutes and result.num_evaluations == len(objective.asked)
        reached.append((len(result.rungs), result.num_evaluations))
    assert reached == sorted(set(reached)) and result.rungs[-1].num_questions == len(QUESTIONS)


def test_the_default_measure_and_plain_values() -> None:
    report = generated_report(24, 3)
    by_name = {config.name: config for config in report.configs}

    def evaluate(configs: Mapping[str, Any], questions: Sequence[str]) -> ChainReport:
        kept = [
            by_name[name].model_copy(update={"questions": [q for q in by_name[name].questions if q.id in set(questions)]})
            for name in configs
        ]
        return report.model_copy(update={"configs": kept, "num_questions": len(questions)})

    ids = [question.id for question in report.configs[0].questions]
    result = tune({name: config.config for name, config in by_name.items()}, ids, evaluate)
    assert result.measure == "recall@answer"
    plain = json.loads(json.dumps(result.as_dict()))
    assert plain["best"] == result.best and set(plain["front"]) <= set(plain["rungs"][-1]["means"])
    front = result.front()
    assert [each.cost["seconds"] for each in front] == sorted(each.cost["seconds"] for each in front)
    assert [each.mean for each in front] == sorted(each.mean or NO_DRAW for each in front)


def test_a_slip_of_the_pen_leaves_nothing_behind(tmp_path: Path) -> None:
    objective = Objective(6)
    with pytest.raises(ValueError, match="did you mean 'score'"):
        tune(objective.configs, QUESTIONS, objective, measure="scores", ledger=tmp_path / "ledger.jsonl")
    assert len(objective.calls) == 1
    result = tune(objective.configs, QUESTIONS, objective, measure="score", ledger=tmp_path / "ledger.jsonl")
    assert result.num_evaluations == len(objective.asked)
