"""What a tuning found, as objects, plain values and words. Knows no evaluation and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rag.eval.bootstrap import Difference
from rag.eval.chain_report import ChainReport
from rag.eval.report_values import SECONDS
from rag.eval.report_words import amount, pareto, said, signed


@dataclass(frozen=True, slots=True)
class Rung:
    """One round: ``means`` by configuration, best first, over ``num_questions`` questions; who went on; and who only for the noise."""

    num_questions: int
    means: Mapping[str, float]
    kept: tuple[str, ...]
    kept_for_noise: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """One configuration: mean with 95 % interval over the questions that have a value, cost per question, and how it ended."""

    name: str
    num_questions: int
    mean: float | None
    low: float | None
    high: float | None
    cost: Mapping[str, float]
    end: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """A whole tuning. ``configs``: all raw configurations by name. ``report``: the last rung in full. ``gain``: the best minus ``baseline``."""

    measure: str
    best: str
    configs: Mapping[str, dict[str, Any]]
    rungs: tuple[Rung, ...]
    tried: tuple[Tried, ...]
    num_evaluations: int
    seconds: float
    seed: int
    report: ChainReport = field(repr=False)
    baseline: str | None = None
    gain: Difference | None = None

    @property
    def advised(self) -> str:
        """What to use: the best, or the baseline where the lead over it is inside the noise."""
        doubtful = self.gain is not None and self.gain.inside_noise and self.baseline is not None
        return self.baseline if doubtful and self.baseline is not None else self.best

    def front(self) -> list[Tried]:
        """Of those that reached the last rung, the ones that no other beats in quality and seconds per question; the cheapest first."""
        finalists = [
            each for each in self.tried if each.name in self.rungs[-1].means and each.mean is not None and SECONDS in each.cost
        ]
        places = pareto([(each.cost[SECONDS], each.mean or 0.0) for each in finalists])
        return sorted((finalists[place] for place in places), key=lambda each: each.cost[SECONDS])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the report."""
        return {
            "measure": self.measure, "best": self.best, "advised": self.advised, "num_evaluations": self.num_evaluations, "seconds": self.seconds, "seed": self.seed, "baseline": self.baseline,
            "gain": None if self.gain is None else {**asdict(self.gain), "inside_noise": self.gain.inside_noise},
            "rungs": [{**asdict(rung), "means": dict(rung.means)} for rung in self.rungs], "tried": [asdict(each) for each in self.tried],
            "front": [each.name for each in self.front()], "configs": dict(self.configs),
        }  # fmt: skip

    def _against_baseline(self) -> list[str]:
        if self.baseline is not None and self.baseline == self.best:
            return ["That is the baseline: the search has found nothing better."]
        if self.gain is None:
            return []
        low, high = signed(self.measure, self.gain.low), signed(self.measure, self.gain.high)
        numbers = f"{signed(self.measure, self.gain.mean)}, 95 % interval {low} to {high}, n = {self.gain.num_queries:,}"
        if self.gain.inside_noise:
            return [
                f"Its lead over the baseline ({self.baseline}) is inside the noise ({numbers}): there is no reason to change anything yet, and the baseline is advised."
            ]
        return [f"Its lead over the baseline ({self.baseline}) is outside the noise ({numbers}), of a winner chosen among many."]

    def words(self) -> list[str]:
        """The result in sentences, with what weakens it."""
        best = next(each for each in self.tried if each.name == self.best)
        assert best.mean is not None and best.low is not None and best.high is not None
        numbers = f"{amount(self.measure, best.mean)} ({amount(self.measure, best.low)} to {amount(self.measure, best.high)}, n = {best.num_questions:,})"
        full = len(self.configs) * max(rung.num_questions for rung in self.rungs)
        sentences = [
            f"Best of {len(self.configs):,} configurations by {said(self.measure)}: {self.best}, {numbers}.",
            f"Asked {self.num_evaluations:,} questions in {self.seconds:,.0f} s; every configuration on {self.rungs[-1].num_questions:,} questions would be {full:,}.",
        ]
        sentences += self._against_baseline()
        cheaper = [each for each in self.front() if each.name != self.best]
        if cheaper and SECONDS in best.cost:
            listed = "; ".join(
                f"{each.name}: {amount(self.measure, each.mean or 0.0)} at {each.cost[SECONDS]:.3g} s" for each in cheaper[-3:]
            )
            sentences.append(f"It takes {best.cost[SECONDS]:.3g} s per question. Cheaper, and not as good: {listed}.")
        untried = sum(each.end.startswith("not ") for each in self.tried)
        failed = [each for each in self.tried if each.end.startswith("failed")]
        if untried:
            sentences.append(f"{untried:,} configurations were not tried for want of budget.")
        if failed:
            sentences.append(f"{len(failed):,} configurations failed, {failed[0].name} among them ({failed[0].end}).")
        sentences.append(
            "The best mean on the questions it was chosen by is too high: measure it again on questions that the tuning did not see."
        )
        return sentences
