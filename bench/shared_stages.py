"""What a sweep costs when configurations share the stages that are equal in them, against the same sweep without sharing.

    python bench/shared_stages.py --questions 8

Twelve configurations over one index of examples/documents: two fusions, with and without late interaction as a reranker, three selections; once up to
the selection and once with extractive answers, which are never shared. The index is made before the clock starts, every run has an empty cache of
stages and outcomes, and the two ways alternate. The outcomes of the two ways are compared: hits, answers and measures must be equal.
Writes bench/results/shared_stages.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.full_chain import drawn
from bench.record import write_result

SWEPT: dict[str, Any] = {
    "sweep": {
        "fuse": [{"use": "convex"}, {"use": "rrf"}],
        "rerankers": [[], [{"use": "maxsim"}]],
        "select": [{"use": "top", "k": 3}, {"use": "budget", "max_tokens": 600}, {"use": "mmr", "k": 5}],
    }
}


def bare(report: Any) -> list[Any]:
    """What the two ways must agree on: everything but times, memory and where it came from."""
    found = []
    for config in report.configs:
        for question in config.questions:
            kept = question.model_dump(exclude={"cost", "reused"})
            for stage in kept["stages"]:
                del stage["seconds"]
            found.append((config.name, kept))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()

    from rag.eval.chain import evaluate_chain
    from rag.eval.chain_cache import FILE as OUTCOMES
    from rag.eval.read_questions import read_questions
    from rag.eval.stage_memo import FILE as STAGES
    from rag.sweep import expand

    configs = {each.name: each.raw for each in expand(SWEPT)}
    asked = drawn(read_questions(ROOT / "examples"), given.questions, 0)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        evaluate_chain(drawn(asked, 2, 0), configs, cache_folder=ready)  # makes the index and warms what the process keeps
        for answers in (False, True):
            spent: dict[str, list[tuple[float, float]]] = {"shared": [], "alone": []}
            outcomes: dict[str, Any] = {}
            for number in range(given.repeats):
                for way in ("shared", "alone") if number % 2 == 0 else ("alone", "shared"):
                    cache = Path(folder) / f"{answers} {number} {way}"
                    shutil.copytree(ready, cache, ignore=shutil.ignore_patterns(f"{OUTCOMES}*", f"{STAGES}*"))
                    began, processor = time.perf_counter(), time.process_time()
                    report = evaluate_chain(asked, configs, cache_folder=cache, answers=answers, share=way == "shared")
                    spent[way].append((time.perf_counter() - began, time.process_time() - processor))
                    outcomes[way] = bare(report)
            assert outcomes["shared"] == outcomes["alone"], "sharing has changed an outcome"
            wall = {way: round(statistics.median(each[0] for each in runs), 2) for way, runs in spent.items()}
            busy = {way: round(statistics.median(each[1] for each in runs), 2) for way, runs in spent.items()}
            results["with answers" if answers else "to the selection"] = {
                "wall_seconds": wall,
                "processor_seconds": busy,
                "processor_ratio": round(busy["alone"] / busy["shared"], 2),
            }
    results["num_configs"], results["num_questions"] = len(configs), len(asked.questions)
    print(results)
    write_result("shared_stages", results)


if __name__ == "__main__":
    main()
