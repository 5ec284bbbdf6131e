"""Does tuning pay? Half of the questions are tuned on, the other half judges what was found, against random search at the same budget.

    python bench/tune.py --data ../shared/data/chunking_evaluation --budgets 300 900

Every configuration of the sweep is evaluated once on all questions (a cache keeps that), so each repetition costs nothing but its draws: in
each one the questions are split anew, `rag tune` and random search spend the same number of evaluations on one half, and the values of
their choices on the other half are compared with each other, with the configuration as it stands, and with the best there was.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result

DATA = ROOT.parent / "shared" / "data" / "chunking_evaluation"
SWEPT: dict[str, Any] = {
    "indexes": {"words": {"use": "bm25"}},
    "sweep": {
        "chunker": [{"use": "structure"}, {"use": "recursive"}, {"use": "sentence"}, {"use": "fixed"}],
        "chunker.max_tokens": [50, 100, 200, 400],
    },
}
BASE = {"indexes": SWEPT["indexes"]}
STANDING = "as it stands"


class Known:
    """An evaluation whose answers are known: the report of all configurations on all questions, cut to what is asked for."""

    def __init__(self, report: Any) -> None:
        self._report = report
        self._questions = {config.name: {question.id: question for question in config.questions} for config in report.configs}
        self._configs = {config.name: config for config in report.configs}

    def __call__(self, configs: Mapping[str, Mapping[str, Any]], questions: Sequence[str]) -> Any:
        kept = [
            self._configs[name].model_copy(update={"questions": [self._questions[name][each] for each in questions]})
            for name in configs
        ]
        return self._report.model_copy(
            update={"configs": kept, "num_questions": len(questions), "baseline": None, "comparisons": []}
        )


def measured(values: Mapping[str, Mapping[str, float]], name: str, questions: Sequence[str]) -> float:
    """The mean of one configuration over those of ``questions`` that have a value."""
    known = [values[name][question] for question in questions if question in values[name]]
    return sum(known) / len(known)


def random_search(
    values: Mapping[str, Mapping[str, float]], names: Sequence[str], questions: Sequence[str], budget: int, draw: random.Random
) -> str:
    """As many configurations as the budget allows, each on all questions: the best mean of them."""
    chosen = draw.sample(list(names), min(len(names), max(1, budget // len(questions))))
    return max(chosen, key=lambda name: measured(values, name, questions))


class Repetition(NamedTuple):
    """What each way of choosing chose on one half, and the means of these on the other."""

    chosen: dict[str, str]
    means: dict[str, float]
    held_out: list[str]


def repetition(
    known: Known,
    configs: Mapping[str, Any],
    values: Mapping[str, Mapping[str, float]],
    ids: Sequence[str],
    measure: str,
    budget: int,
    seed: int,
) -> Repetition:
    """Values on the held-out half of what each way of choosing chose on the other one."""
    from rag.eval.tune import tune

    draw = random.Random(seed)
    order = draw.sample(list(ids), len(ids))
    tuned_on, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    swept = [name for name in configs if name != STANDING]
    found = tune(configs, tuned_on, known, baseline=STANDING, measure=measure, evaluations=budget, seed=seed)
    assert found.num_evaluations <= budget
    chosen = {
        "tune": found.best,
        "tune, changing only for a gain": found.best if found.gain and not found.gain.inside_noise else STANDING,
        "random": random_search(values, swept, tuned_on, budget, draw),
        "exhaustive": max(swept, key=lambda name: measured(values, name, tuned_on)),
        "best there was": max(swept, key=lambda name: measured(values, name, held_out)),
        STANDING: STANDING,
    }
    means = {way: measured(values, name, held_out) for way, name in chosen.items()} | {"evaluations": float(found.num_evaluations)}
    return Repetition(chosen, means, held_out)


def evaluated(data: Path, limit: int, cache: Path | None, configs: Mapping[str, Any]) -> Any:
    """The report of all configurations on ``limit`` questions drawn from ``data``."""
    from rag.eval.chain import evaluate_chain
    from rag.eval.read_questions import read_questions

    given = read_questions(data)
    drawn = random.Random(0).sample(list(given.questions), min(limit, len(given.questions)))
    with tempfile.TemporaryDirectory() as temporary:
        return evaluate_chain(given.some(drawn), configs, cache_folder=cache or Path(temporary), answers=False)


def against(runs: Sequence[Repetition], values: Mapping[str, Mapping[str, float]], other: str) -> dict[str, Any]:
    """Tuning minus another way, twice: over repetitions (the luck of splits and draws), and over the questions that the first one held out."""
    from dataclasses import asdict

    from rag.eval.bootstrap import difference

    over_runs = difference([run.means["tune"] for run in runs], [run.means[other] for run in runs])
    first = runs[0]
    mine, theirs = values[first.chosen["tune"]], values[first.chosen[other]]
    both = [question for question in first.held_out if question in mine and question in theirs]
    over_questions = difference([mine[question] for question in both], [theirs[question] for question in both])
    return {"over_repetitions": asdict(over_runs), "over_held_out_questions_of_the_first": asdict(over_questions)}


def main() -> None:
    """Prints and records held-out means and paired differences."""
    from rag.eval.report_values import values_of
    from rag.sweep import expand

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, help="where to keep indexes and outcomes; default: a temporary folder")
    parser.add_argument("--limit", type=int, default=300, help="questions, drawn by a seed")
    parser.add_argument("--budgets", type=int, nargs="+", default=[300, 600, 1200])
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--measure", default="ranking/recall@400_tokens", help="default: recall of the evidence at equal length")
    options = parser.parse_args()
    configs: dict[str, Any] = {STANDING: BASE, **{each.name: each.raw for each in expand(SWEPT)}}
    report = evaluated(options.data, options.limit, options.cache, configs)
    values = {config.name: values_of(config, options.measure) for config in report.configs}
    ids = [question.id for question in report.configs[0].questions]
    known = Known(report)
    rows = []
    for budget in options.budgets:
        runs = [repetition(known, configs, values, ids, options.measure, budget, seed) for seed in range(options.repetitions)]
        means = {way: statistics.mean(run.means[way] for run in runs) for way in runs[0].means}
        found = {other: against(runs, values, other) for other in ("random", "exhaustive", STANDING)}
        print(f"{budget} evaluations, held-out means:", {way: round(mean, 4) for way, mean in means.items()})
        for other, told in found.items():
            for over, each in told.items():
                spread = f"{100 * each['mean']:+.2f} ({100 * each['low']:+.2f} to {100 * each['high']:+.2f})"
                print(
                    f"   tune - {other}, {over.replace('_', ' ')}: {spread}, p = {each['p']:.4f}, n = {each['num_queries']}",
                    flush=True,
                )
        rows.append({"budget": budget, "held_out_means": means, "tune_minus": found})
    settings = {"set": report.name, "num_questions": len(ids), "num_configs": len(configs) - 1, "measure": options.measure}
    all_of_them = (len(configs) - 1) * (len(ids) // 2)
    whole = {
        **settings,
        "repetitions": options.repetitions,
        "evaluations_of_all": all_of_them,
        "sweep": SWEPT["sweep"],
        "budgets": rows,
    }
    write_result("tune", whole)


if __name__ == "__main__":
    main()
