"""Evaluates configurations on questions within a budget and notes what came of it. Knows the ledger; decides who goes on nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rag.eval.chain_report import ChainReport
from rag.eval.report_values import check_measure, default_measure, total_cost, value_of
from rag.eval.tune_budget import Budget
from rag.eval.tune_ledger import Ledger
from rag.eval.tune_plan import groups

Evaluate = Callable[[Mapping[str, Mapping[str, Any]], Sequence[str]], ChainReport]
"""Configurations by name and question ids -> a report with exactly these. What it was asked before, it should answer from a cache."""

_INGEST_KEYS = ("models", "chunker", "indexes", "read")


class Asking:
    """``order``: all questions; what is asked are heads of it. ``measure``: chosen by the first report if it is ``None``.

    ``reports``: what the calls since it was last emptied have returned.
    """

    def __init__(
        self,
        configs: Mapping[str, Mapping[str, Any]],
        order: Sequence[str],
        evaluate: Evaluate,
        measure: str | None,
        book: Ledger,
        budget: Budget,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.measure = measure or book.measure
        self.evaluate = evaluate
        self.reports: list[ChainReport] = []
        self._configs, self._order = configs, order
        self._book, self._budget, self._say, self._clock = book, budget, say, clock

    def ask(self, names: Sequence[str], subset: Sequence[str], *, until_probed: bool = False) -> bool:
        """Evaluates what is not known yet, configurations that ingest alike in one call. False: the budget ended before the rung did.

        Under a limit of time a few questions more of every configuration at a time, so that the end finds all of them equally far.
        """
        keys = [json.dumps([self._configs[name].get(key) for key in _INGEST_KEYS], sort_keys=True, default=str) for name in names]
        for head in self._heads(names, subset):
            if until_probed and self._budget.is_probed:
                return False
            for group in groups(names, keys):
                waiting = [name for name in group if name not in self._book.failed and self._book.missing(name, head)]
                if waiting and not self._call(waiting, head):
                    return False
        return True

    def asked_of_all(self, names: Sequence[str]) -> int:
        """How many of the first questions every configuration was asked that was asked any and did not fail."""
        counts = [self._num_asked(name) for name in names if name not in self._book.failed]
        return min((count for count in counts if count), default=0)

    def _heads(self, names: Sequence[str], subset: Sequence[str]) -> Iterator[Sequence[str]]:
        num_asked = 0
        while num_asked < len(subset):
            step = self._budget.step(len(names))
            num_asked = len(subset) if step is None else max(num_asked + step, self.asked_of_all(names) + step)
            yield subset[:num_asked]

    def _num_asked(self, name: str) -> int:
        """How many of the first questions ``name`` was asked."""
        missing = self._book.missing(name, self._order)
        return self._order.index(missing[0]) if missing else len(self._order)

    def _call(self, names: Sequence[str], subset: Sequence[str]) -> bool:
        new = {name: self._book.missing(name, subset) for name in names}
        cost = sum(map(len, new.values()))
        if cost > self._budget.left():
            return len(names) > 1 and self._each(names, subset)
        started = self._clock()
        try:
            report = self.evaluate({name: self._configs[name] for name in names}, subset)
            found = self._values(report, names, subset)
        except Exception as error:  # noqa: BLE001 - one configuration must not end the search for the others
            self._book.spend(cost, self._clock() - started)
            return self._after_failure(names, subset, error)
        self._book.spend(cost, self._clock() - started)
        if not self._book.values:
            check_measure(report, self._chosen(report))  # a slip of the pen ends the tuning before it has cost anything
        for name, (values, spent) in found.items():
            self._book.record(name, values, spent)
        self.reports.append(report)
        return True

    def _after_failure(self, names: Sequence[str], subset: Sequence[str], error: Exception) -> bool:
        said = f"{type(error).__name__}: {error}"
        if len(names) == 1:
            self._book.fail(names[0], said)
            self._say(f"dropped, since it cannot be evaluated: {names[0]} ({said})")
            return True
        return self._each(names, subset)

    def _each(self, names: Sequence[str], subset: Sequence[str]) -> bool:
        """One by one, past those that do not fit: a later one may."""
        fitted = [self._call([name], subset) for name in names]
        return all(fitted)

    def _chosen(self, report: ChainReport) -> str:
        """The measure; if none was given, the default of the first report."""
        if self.measure is None:
            self.measure = default_measure(report)
            self._book.name_measure(self.measure)
        return self.measure

    def _values(
        self, report: ChainReport, names: Sequence[str], subset: Sequence[str]
    ) -> dict[str, tuple[dict[str, float | None], dict[str, float]]]:
        measure = self._chosen(report)
        by_name = {config.name: config for config in report.configs}
        found = {}
        for name in names:
            if name not in by_name:
                raise ValueError(f"the report has no configuration {name!r}")
            outcomes = {question.id: question for question in by_name[name].questions}
            lost = [question for question in subset if question not in outcomes]
            if lost:
                raise ValueError(f"the report of {name!r} lacks {len(lost)} questions, {lost[0]!r} among them")
            found[name] = (
                {question: value_of(outcomes[question], measure) for question in subset},
                total_cost(by_name[name]),
            )
        return found
