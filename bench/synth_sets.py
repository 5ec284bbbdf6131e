"""Do made-up questions rank configurations as people's questions do? Kendall's tau between the two orders, and the numbers.

    python bench/synth_sets.py [--folder FOLDER in the BEIR layout]

Nine systems: three chunkers times BM25, vectors and both fused. nDCG@10 of documents for the set's own questions, for ``heading``
and for ``cloze`` questions made without a language model from the index of the first chunker.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.eval.beir import document_of, read_beir
from rag.eval.metrics import per_query
from rag.eval.run import ranked_documents
from rag.eval.synth import Synthesis
from rag.pipeline import Rag

CHUNKERS = {
    "structure": {"use": "structure"},
    "fixed 64": {"use": "fixed", "max_tokens": 64},
    "fixed 256": {"use": "fixed", "max_tokens": 256},
}
DEPTH, PER_TYPE, MAX_HUMAN = 50, 120, 100

Questions = Mapping[str, tuple[str, Mapping[str, int]]]


def ndcg(rag: Rag, questions: Questions) -> dict[str, float]:
    """Ranking -> mean nDCG@10 over the questions: id -> (text, source -> grade)."""
    found = rag.search_each([text for text, _ in questions.values()], DEPTH)
    with rag.catalog.reading() as read:
        sources = {row.id: row.source for row in read.documents()}
    qrels = {name: grades for name, (_, grades) in questions.items()}
    means = {}
    for ranking in found[0]:
        rankings = {
            name: [sources[document] for document in ranked_documents(stages[ranking], 10)]
            for name, stages in zip(questions, found, strict=True)
        }
        values = per_query(rankings, qrels, ["nDCG@10"])["nDCG@10"]
        means[ranking] = sum(values.values()) / len(values)
    return means


def made(rag: Rag, folder: Path, kind: str) -> dict[str, tuple[str, Mapping[str, int]]]:
    """Made-up questions of one type."""
    synthesis = Synthesis(rag, folder / kind, types=[kind], num_questions=PER_TYPE, k=20)
    synthesis.run()
    print(kind, synthesis.report().model_dump(), file=sys.stderr)
    return {each.id: (each.question, each.relevant) for each in synthesis.store.questions}


def main() -> None:
    from scipy.stats import kendalltau

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared/data/anthropic_cookbook_retrieval/docs/derived_beir")
    folder = parser.parse_args().folder
    beir = read_beir(folder)
    documents = [document for document in map(document_of, beir.corpus) if document]
    human: dict[str, tuple[str, Mapping[str, int]]] = {
        query: (beir.queries[query], {f"beir:{name}": grade for name, grade in grades.items()})
        for query, grades in list(beir.qrels.items())[:MAX_HUMAN]
    }
    sets: dict[str, Questions] = {"people": human}
    scores: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as place:
        for name, chunker in CHUNKERS.items():
            with Rag.open(Path(place) / name, {"chunker": chunker}) as rag:
                rag.ingest_documents(documents)
                if len(sets) == 1:
                    sets |= {kind: made(rag, Path(place), kind) for kind in ("heading", "cloze")}
                for kind, questions in sets.items():
                    for ranking, value in ndcg(rag, questions).items():
                        scores.setdefault(kind, {})[f"{name}, {ranking}"] = round(value, 4)
            print(json.dumps({kind: list(each.values())[-3:] for kind, each in scores.items()}), file=sys.stderr, flush=True)
    systems = list(scores["people"])
    tau = {
        kind: round(float(kendalltau([scores["people"][s] for s in systems], [each[s] for s in systems]).statistic), 3)
        for kind, each in scores.items()
        if kind != "people"
    }
    result = {
        "set": "/".join(folder.resolve().parts[-3:]),
        "num_questions": {kind: len(each) for kind, each in sets.items()},
        "ndcg_at_10": scores,
        "kendall_tau": tau,
    }
    print(json.dumps(result, indent=1))
    write_result("synth_sets", result)


if __name__ == "__main__":
    main()
