"""Does tuning pay? Half of the questions are tuned on, the other half judges what was found, against random search at the same budget.

    python bench/tune.py --data ../shared/data/xquad/derived_longdoc_en.jsonl --budgets 300 900

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
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result

DATA = ROOT.parent / "shared" / "data" / "xquad" / "derived_longdoc_en.jsonl"
SWEPT: dict[str, Any] = {
    "indexes": {"words": {"use": "bm25"}},
    "sweep": {
        "chunker": [{"use": "recursive"}, {"use": "sentence"}, {"use": "fixed"}],
        "chunker.max_tokens": [48, 96, 192],
        "select": [{"use": "top", "k": k} for k in (1, 2, 4)],
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


def repetition(
    known: Known,
    configs: Mapping[str, Any],
    values: Mapping[str, Mapping[str, float]],
    ids: Sequence[str],
    measure: str,
    budget: int,
    seed: int,
) -> dict[str, float]:
    """Values on the held-out half of what each way of choosing chose on the other one."""
    from rag.eval.tune import tune

    draw = random.Random(seed)
    order = draw.sample(list(ids), len(ids))
    tuned_on, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    swept = [name for name in configs if name != STANDING]
    found = tune({name: configs[name] for name in swept}, tuned_on, known, measure=measure, evaluations=budget, seed=seed)
    assert found.num_evaluations <= budget
    chosen = {
        "tune": found.best,
        "random": random_search(values, swept, tuned_on, budget, draw),
        "exhaustive": max(swept, key=lambda name: measured(values, name, tuned_on)),
        "best there was": max(swept, key=lambda name: measured(values, name, held_out)),
        STANDING: STANDING,
    }
    return {way: measured(values, name, held_out) for way, name in chosen.items()} | {"evaluations": float(found.num_evaluations)}


def main() -> None:
    """Prints and records held-out means and paired differences over repetitions."""
    from rag.eval.chain import evaluate_chain  # type: ignore[import-not-found, unused-ignore]
    from rag.eval.read_questions import read_questions  # type: ignore[import-not-found, unused-ignore]

    from rag.eval.bootstrap import difference
    from rag.eval.report_values import values_of
    from rag.sweep import expand

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, help="where to keep indexes and outcomes; default: a temporary folder")
    parser.add_argument("--limit", type=int, default=400, help="questions, drawn by the seed")
    parser.add_argument("--budgets", type=int, nargs="+", default=[400, 800, 1600])
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--measure", default="recall_filtered@select")
    options = parser.parse_args()
    given = read_questions(options.data)
    drawn = random.Random(0).sample(list(given.questions), min(options.limit, len(given.questions)))
    configs: dict[str, Any] = {STANDING: BASE, **{each.name: each.raw for each in expand(SWEPT)}}
    with tempfile.TemporaryDirectory() as temporary:
        report = evaluate_chain(given.some(drawn), configs, cache_folder=options.cache or Path(temporary), answers=False)
    values = {config.name: values_of(config, options.measure) for config in report.configs}
    ids = [question.id for question in drawn]
    rows = []
    for budget in options.budgets:
        runs = [
            repetition(Known(report), configs, values, ids, options.measure, budget, seed) for seed in range(options.repetitions)
        ]
        means = {way: statistics.mean(run[way] for run in runs) for way in runs[0]}
        against = {}
        for other in ("random", "exhaustive", STANDING):
            found = difference([run["tune"] for run in runs], [run[other] for run in runs])
            against[other] = {"mean": found.mean, "low": found.low, "high": found.high, "p": found.p}
            print(
                f"{budget} evaluations: tune - {other} = {100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f}), p = {found.p:.4f}"
            )
        print("   held-out means:", {way: round(mean, 4) for way, mean in means.items()}, flush=True)
        rows.append({"budget": budget, "held_out_means": means, "tune_minus": against})
    settings = {
        "set": given.name,
        "num_questions": len(ids),
        "num_configs": len(configs) - 1,
        "repetitions": options.repetitions,
        "measure": options.measure,
    }
    full = (len(configs) - 1) * (len(ids) // 2)
    write_result("tune", {**settings, "evaluations_of_all": full, "sweep": SWEPT["sweep"], "budgets": rows})


if __name__ == "__main__":
    main()
