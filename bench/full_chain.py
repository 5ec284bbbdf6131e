"""The full chain with the embedded defaults on every question set there is: recall by stage, what lost the answers, and the report pages.

    make eval                                        # the same: python bench/full_chain.py --out report
    python bench/full_chain.py --sets examples --limit 60

Sets: the sixty questions over examples/documents, and, where the test data lies beside the checkout, chunking_evaluation, the documentation
sections of anthropic_cookbook_retrieval, the conversations of mtrag_un_reference and the long documents of xquad. Each is a seeded draw of ``--limit``
questions; all documents of the set are searched. Configurations: BM25 alone (the baseline), the built-in default, and the default with kept sentences
(``select: compress``); for the conversations also ``query: carry``. Writes OUT/<set>/report.html and report.json, and bench/results/full_chain.json.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result

DATA = ROOT.parent / "shared" / "data"
SETS: Mapping[str, Path] = {
    "examples": ROOT / "examples",
    "chunking_evaluation": DATA / "chunking_evaluation",
    "anthropic_cookbook_retrieval": DATA / "anthropic_cookbook_retrieval" / "docs" / "derived_beir",
    "mtrag_un_reference": DATA / "mtrag_un_reference" / "reference_without_fiqa.jsonl",
    "xquad": DATA / "xquad" / "derived_longdoc_en.jsonl",
}
WORDS: dict[str, Any] = {"indexes": {"words": {"use": "bm25"}}}
CONFIGS: Mapping[str, dict[str, Any]] = {
    "words": WORDS,
    "default": {},
    "compress": {"select": {"use": "compress", "max_tokens": 400}},
}
CARRY: Mapping[str, dict[str, Any]] = {"carry": {"query": {"use": "carry"}}}


def drawn(given: Any, limit: int, seed: int) -> Any:
    """At most ``limit`` questions of a set, in their order."""
    order = list(range(len(given.questions)))
    random.Random(seed).shuffle(order)
    return given.some([given.questions[number] for number in sorted(order[:limit])])


def figures(report: Any) -> dict[str, Any]:
    """What goes into the result: per configuration recall with its interval, losses by stage, measures of answers, seconds."""

    def told(estimate: Any) -> list[float]:
        return [round(value, 4) for value in (estimate.mean, estimate.low, estimate.high)]

    return {
        "questions": report.num_questions,
        "documents": report.num_documents,
        "configs": {
            config.name: {
                "recall": {stage.stage: told(stage.recall) for stage in config.stages if stage.recall.num_questions},
                "lost": {stage.stage: stage.num_lost for stage in config.stages if stage.num_lost},
                "nDCG@10": {
                    stage.stage: told(stage.measures["nDCG@10"]) for stage in config.stages if "nDCG@10" in stage.measures
                },
                "answers": {name: told(estimate) for name, estimate in config.answers.items() if estimate.num_questions},
                "cost": {name: round(value, 4) for name, value in config.cost.items()},
            }
            for config in report.configs
        },
        "compared": [
            {
                "measure": each.measure, "config": each.config, "baseline": each.baseline, "inside_noise": each.inside_noise,
                "difference": [round(value, 4) for value in (each.mean, each.low, each.high)], "p_adjusted": round(each.p_adjusted, 4),
            }
            for each in report.comparisons
        ],
        "remarks": report.remarks,
    }  # fmt: skip


def main() -> None:
    """Evaluates each set, prints its tables, writes the pages and the result."""
    from rich.console import Console

    from rag.eval.chain import evaluate_chain
    from rag.eval.html_report import write_html
    from rag.eval.read_questions import read_questions
    from rag.eval.report_tables import tables

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "report")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--limit", type=int, default=60, help="questions of each set")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console, result = Console(width=160, highlight=False), dict[str, Any]()
    for name in options.sets:
        if not SETS[name].exists():
            print(f"--- {name}: left out, its data is not here", flush=True)
            continue
        print(f"--- {name}", flush=True)
        began = time.perf_counter()
        given = drawn(read_questions(SETS[name]), options.limit, options.seed)
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        configs = {**CONFIGS, **(CARRY if any(question.history for question in given.questions) else {})}
        report = evaluate_chain(given, configs, cache_folder=folder / "cache", seed=options.seed)
        report.save(folder / "report.json")
        write_html(report, folder / "report.html")
        for table in tables(report):
            console.print(table, soft_wrap=True)
        for remark in report.remarks:
            console.print(f"- {remark}", markup=False)
        result[name] = {"seconds": round(time.perf_counter() - began, 1), **figures(report)}
        print(f"{name}: {result[name]['seconds']} s, page in {folder.name}/report.html", flush=True)
    print(write_result("full_chain", {"limit": options.limit, "seed": options.seed, "sets": result}))


if __name__ == "__main__":
    main()
