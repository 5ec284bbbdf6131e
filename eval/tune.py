"""Finds the best of many configurations with few evaluations. Knows measures and budgets; how a configuration is evaluated it is told.

Successive halving over growing sets of questions (``tune_plan``). All sets are heads of one shuffled list, so configurations are always
compared on the same questions. Who goes on: the best by mean, as many as the plan says; and then, as far as the budget reaches to the
end of the plan, those whose paired difference to the leader is inside the noise. A low mean on few questions is weak evidence, so a
configuration that may still be the best is dropped for want of budget only. Whether two weak ones can be told apart from each
other decides nothing: neither is wanted.

The mean of the winner on the questions it won on is too high, the more so the more configurations were tried and the fewer questions
there were: measure it again on questions that the tuning did not see.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rag.eval.bootstrap import Difference, difference, interval
from rag.eval.chain_report import ChainReport
from rag.eval.report_values import paired
from rag.eval.tune_asking import Asking, Evaluate
from rag.eval.tune_budget import Budget
from rag.eval.tune_ledger import Ledger
from rag.eval.tune_plan import MIN_KEPT, Plan, affordable, plan
from rag.eval.tune_result import Rung, Tried, Tuning

_DRAWS = 2_000


def tune(
    configs: Mapping[str, Mapping[str, Any]],
    questions: Sequence[str],
    evaluate: Evaluate,
    *,
    baseline: str | None = None,
    measure: str | None = None,
    evaluations: int | None = None,
    minutes: float | None = None,
    eta: int = 3,
    min_questions: int = 10,
    seed: int = 0,
    ledger: Path | None = None,
    on_progress: Callable[[str], None] = lambda said: None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuning:
    """The best configuration by ``measure`` (a name of ``report_values``; default: recall at ``answer``, else at ``select``).

    ``baseline``: a configuration that every rung asks, so that the result can say whether the search has gained anything on it.
    ``evaluations``: at most so many questions are asked, over all configurations; never more. ``minutes``: the first few questions show
    the pace, the plan is made by it, and nothing is begun that would, at the pace so far, end later. Without either, twice what the plan needs. ``ledger``: a file that lets an interrupted tuning go
    on; what it holds counts as spent. An evaluation that raises drops its configuration and is reported. Raises ``ValueError`` for
    a budget that is too small, a measure that no question has, and if every configuration failed.
    """
    if not configs:
        raise ValueError("there is no configuration to tune")
    if len(set(questions)) < len(questions):
        raise ValueError("a question id stands twice in the list")
    if baseline is not None and baseline not in configs:
        raise ValueError(f"baseline: {baseline!r} is none of the configurations")
    if minutes is not None and minutes <= 0:
        raise ValueError(f"minutes: {minutes}; allowed: more than 0")
    planned = partial(plan, num_questions=len(questions), eta=eta, min_questions=min_questions)
    made = planned(len(configs), evaluations=evaluations)
    if evaluations is None and minutes is None:
        evaluations = 2 * made.cost(made.num_configs)
    settings = {
        "configs": configs,
        "questions": questions,
        "measure": measure,
        "eta": eta,
        "min_questions": min_questions,
        "seed": seed,
    }
    book = Ledger(ledger, settings)
    budget = Budget(book, evaluations, None if minutes is None else 60 * minutes)
    draw = random.Random(seed)
    order = draw.sample(list(questions), len(questions))
    asking = Asking(configs, order, evaluate, measure, book, budget, on_progress, clock)
    names = draw.sample(list(configs), len(configs))
    drawn = names if baseline is None else [baseline, *(name for name in names if name != baseline)]
    race = _Race(configs, drawn, order, baseline, asking, made, book, budget, seed, on_progress)
    if minutes is not None:
        race.probe(min_questions, planned)
    return race.run()


class _Race:
    """One tuning under way."""

    def __init__(
        self,
        configs: Mapping[str, Mapping[str, Any]],
        drawn: Sequence[str],
        order: Sequence[str],
        baseline: str | None,
        asking: Asking,
        made: Plan,
        book: Ledger,
        budget: Budget,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self._configs, self._drawn, self._order, self._baseline = configs, drawn, order, baseline
        self._asking, self._plan, self._book, self._budget, self._seed, self._say = asking, made, book, budget, seed, say
        self._rungs: list[Rung] = []

    @property
    def _begun(self) -> list[str]:
        """The configurations that the plan has room for, in the order they were given."""
        begun = set(self._drawn[: self._plan.num_configs])
        return [name for name in self._configs if name in begun]

    def probe(self, num_questions: int, planned: Callable[..., Plan]) -> None:
        """Asks every configuration up to ``num_questions`` questions, until the pace is known, and makes the plan that the time allows."""
        self._say(f"finding the pace: {len(self._configs)} configurations, a few questions")
        self._asking.ask(self._begun, self._order[:num_questions], until_probed=True)
        try:
            self._plan = planned(len(self._configs), evaluations=self._budget.total())
        except ValueError:  # not even the smallest plan fits: it is begun, and ends where the time does
            smallest = min(num_questions, len(self._order))
            self._plan = Plan(min(MIN_KEPT, len(self._configs)), (smallest,), self._plan.eta)

    def run(self) -> Tuning:
        active = self._begun
        for number, size in enumerate(self._plan.sizes):
            subset = self._order[:size]
            self._say(f"rung {number + 1} of {len(self._plan.sizes)}: {len(active)} configurations, {size} questions")
            self._asking.reports.clear()
            complete = self._asking.ask(active, subset)
            if not complete and self._rungs:
                break
            if not complete:  # the time ended before the first decision: what all were asked until then is compared
                size = self._asking.asked_of_all(active) or size
                subset = self._order[:size]
            ranked = self._ranked(active, subset)
            if not ranked:
                raise ValueError(f"no configuration could be evaluated: {self._whys()}")
            kept, for_noise = self._kept(ranked, subset, number) if complete else ([], [])
            if kept:  # an end for want of budget is no decision: with more of it the tuning goes on
                self._book.decide(self._decision(number), kept, for_noise)
            means = {name: self._mean(name, subset) for name in ranked}
            self._rungs.append(Rung(size, means, tuple(kept), tuple(for_noise)))
            active = kept
            if not active:
                break
        return self._result()

    # Deciding ----------------------------------------------------------------------------------------------------------

    def _mean(self, name: str, subset: Sequence[str]) -> float:
        known = self._book.known(name, subset)
        return sum(known.values()) / len(known)

    def _ranked(self, names: Sequence[str], subset: Sequence[str]) -> list[str]:
        """Those that were asked all of ``subset``, best first; of equal ones the cheaper first."""
        ready = [
            name
            for name in names
            if name not in self._book.failed and not self._book.missing(name, subset) and self._book.known(name, subset)
        ]
        return sorted(ready, key=lambda name: (-self._mean(name, subset), self._book.costs[name].get("seconds", 0.0)))

    def _kept(self, ranked: Sequence[str], subset: Sequence[str], rung: int) -> tuple[list[str], list[str]]:
        """Who begins the next rung, and which of them only because the noise hides whether they are best.

        What was decided before an interruption stands, since the budget that it was decided by is spent in part.
        """
        if self._decision(rung) in self._book.decisions:
            return self._book.decisions[self._decision(rung)]
        if rung + 1 == len(self._plan.sizes) or len(ranked) < 2:
            return [], []
        quota = self._plan.num_kept(len(ranked))
        leader = self._book.known(ranked[0], subset)
        open_ones = [name for name in ranked[quota:] if self._may_be_best(leader, self._book.known(name, subset))]
        most = affordable(self._plan, min(len(ranked), quota + len(open_ones) + 1), rung + 1, self._budget.left())
        if most < min(MIN_KEPT, len(ranked)):
            return [], []
        extra = open_ones[: max(0, most - quota)]
        kept = [*ranked[: min(quota, most)], *extra]
        if self._baseline is not None and self._baseline in ranked and self._baseline not in kept:
            kept = [*(kept if len(kept) < most else kept[:-1]), self._baseline]
        return kept, [name for name in extra if name in kept]

    def _decision(self, rung: int) -> str:
        """Names a decision. With another budget the plan may be another one, and what was decided by the first is void."""
        return f"rung {rung} of {self._plan.num_configs} configurations on {self._plan.sizes} questions"

    def _may_be_best(self, leader: Mapping[str, float], other: Mapping[str, float]) -> bool:
        first, second = paired(leader, other)
        return not first or difference(first, second, seed=self._seed, num_resamples=_DRAWS).inside_noise

    # Telling -----------------------------------------------------------------------------------------------------------

    def _result(self) -> Tuning:
        last = self._rungs[-1]
        finalists = list(last.means)
        if self._baseline in last.means:  # a report measures all others against its first
            finalists.sort(key=lambda name: name != self._baseline)
        subset = self._order[: last.num_questions]
        report = self._report(finalists, subset)
        assert self._asking.measure is not None
        return Tuning(
            measure=self._asking.measure, best=next(iter(last.means)), configs={name: dict(raw) for name, raw in self._configs.items()}, rungs=tuple(self._rungs),
            tried=tuple(self._tried(name) for name in self._configs), num_evaluations=self._book.num_evaluations, seconds=self._book.seconds,
            seed=self._seed, report=report, baseline=self._baseline, gain=self._gain(last, subset),
        )  # fmt: skip

    def _gain(self, last: Rung, subset: Sequence[str]) -> Difference | None:
        """The best minus the baseline on the questions of the last rung, if that rung has the two."""
        best = next(iter(last.means))
        if self._baseline is None or self._baseline == best or self._baseline not in last.means:
            return None
        first, second = paired(self._book.known(best, subset), self._book.known(self._baseline, subset))
        return difference(first, second, seed=self._seed) if first else None

    def _report(self, names: Sequence[str], subset: Sequence[str]) -> ChainReport:
        for report in self._asking.reports:
            found = [config.name for config in report.configs]
            if set(found) == set(names) and found[0] == names[0] and report.num_questions == len(subset):
                return report
        return self._asking.evaluate({name: self._configs[name] for name in names}, subset)  # all of it is known: it costs nothing

    def _tried(self, name: str) -> Tried:
        reached = [number for number, rung in enumerate(self._rungs) if name in rung.means]
        if name in self._book.failed:
            return Tried(name, 0, None, None, None, {}, f"failed: {self._book.failed[name]}")
        if name not in self._begun:
            return Tried(name, 0, None, None, None, {}, "not tried: the budget allows fewer configurations (drawn by the seed)")
        if not reached and self._book.values.get(name):
            return Tried(name, 0, None, None, None, self._book.costs[name], f"has no value of {self._asking.measure}")
        if not reached:
            return Tried(name, 0, None, None, None, {}, "not reached: the budget ended")
        rung = self._rungs[reached[-1]]
        known = self._book.known(name, self._order[: rung.num_questions])
        found = interval(list(known.values()), seed=self._seed, num_resamples=_DRAWS)
        end = self._end(name, reached[-1])
        return Tried(name, len(known), found.mean, found.low, found.high, self._book.costs[name], end)

    def _end(self, name: str, rung: int) -> str:
        if rung + 1 < len(self._rungs) or name not in self._rungs[-1].means:
            leader = next(iter(self._rungs[rung].means))
            subset = self._order[: self._rungs[rung].num_questions]
            open_end = self._may_be_best(self._book.known(leader, subset), self._book.known(name, subset))
            return f"dropped at rung {rung + 1}, {'inside the noise of the leader, for want of budget' if open_end else 'worse than the leader'}"
        return "best" if name == next(iter(self._rungs[-1].means)) else "reached the last rung"

    def _whys(self) -> str:
        whys = [f"{name}: {why}" for name, why in list(self._book.failed.items())[:3]]
        return "; ".join(whys) or "the budget ended before the first evaluation"
