"""Conversations: what of them to search for. The question alone, with the words that `carry` takes over, the whole conversation.

    python bench/query.py [--index FOLDER]

MTRAG-UN's 274 last turns over its 995 gold passages (an easier pool than the full corpora), with the default indexes and fusion. Each
ranking is compared with that of the question alone, query by query; `variants` are settings of `carry` that were tried too. A language
model that rewrites (`use: rewrite`) is not measured: none is at hand offline.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.core import Document, Message
from rag.eval.beir import document_of, read_beir
from rag.eval.bootstrap import difference, interval
from rag.eval.metrics import per_query
from rag.eval.run import ranked_documents
from rag.pipeline import Rag
from rag.query.carry import CarryQuery
from rag.query.history import messages_of
from rag.query.route import complexity

FOLDER = ROOT.parent / "shared" / "data" / "mtrag_un_reference" / "derived_beir"
MEASURES = ("nDCG@10", "recall@10")
K = 100
BASELINE = "last turn alone"
Rewrite = Callable[[str, Sequence[Message]], str]
Values = dict[str, dict[str, dict[str, float]]]
"""Ranking (an index, or fused) -> measure -> query id -> value."""


def carrying(stage: CarryQuery) -> Rewrite:
    return lambda question, history: " ".join([question.strip(), *stage.carried(question, history)])


WAYS: Mapping[str, Rewrite] = {
    BASELINE: lambda question, history: question,
    "last turn + carry rule": carrying(CarryQuery()),
    "user turns concatenated": lambda question, history: "\n".join(
        [*(turn.content for turn in history if turn.role == "user"), question]
    ),
    "whole history concatenated": lambda question, history: "\n".join([*(turn.content for turn in history), question]),
}
VARIANTS: Mapping[str, Rewrite] = {
    "carry from one turn": carrying(CarryQuery(num_turns=1)),
    "carry from three turns": carrying(CarryQuery(num_turns=3)),
    "carry always": carrying(CarryQuery(min_words=10_000)),
    "carry for pronouns only": carrying(CarryQuery(min_words=0)),
    "carry below 8 words": carrying(CarryQuery(min_words=8)),
    "carry at most 6 words": carrying(CarryQuery(max_words=6)),
    "carry at most 24 words": carrying(CarryQuery(max_words=24)),
}


def conversations() -> dict[str, tuple[str, tuple[Message, ...]]]:
    """Query id -> the last turn and the turns before it."""
    found = {}
    with (FOLDER / "queries.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            roles = [("user" if speaker == "user" else "assistant", text) for speaker, text in row["history"]]
            found[row["_id"]] = (row["text"], messages_of(roles))
    return found


def measured(rag: Rag, names: Mapping[str, str], queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]) -> Values:
    found = dict(zip(queries, rag.search_each(list(queries.values()), K), strict=True))
    return {
        ranking: per_query(
            {query: [names[doc] for doc in ranked_documents(stages[ranking], K)] for query, stages in found.items()},
            qrels,
            MEASURES,
        )
        for ranking in next(iter(found.values()))
    }


def through_the_chain(rag: Rag, asked: Mapping[str, Any]) -> bool:
    """Whether `rag.search(..., history=...)` with the stage configured finds what searching for the rewritten text finds."""
    carried = {query: WAYS["last turn + carry rule"](*asked[query]) for query in list(asked)[:40]}
    batch = rag.search_each(list(carried.values()), K)
    with Rag.open(rag.folder, {**rag.config.model_dump(mode="json"), "query": {"use": "carry"}}) as chain:
        return all(
            [hit.chunk.id for hit in chain.search(asked[query][0], K, history=asked[query][1])]
            == [hit.chunk.id for hit in stages["fused"][:K]]
            for query, stages in zip(carried, batch, strict=True)
        )


def routed() -> dict[str, dict[str, float]]:
    """How many questions the rule of `use: route` calls complex, by what people called them."""
    found: dict[str, list[bool]] = {"comparative or composite": [], "others": []}
    with (FOLDER.parent / "reference_without_fiqa.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            several = {"Comparative", "Composite"} & set(row["Question Type"])
            found["comparative or composite" if several else "others"].append(bool(complexity(row["input"][-1]["text"])))
    return {kind: {"complex": round(sum(said) / len(said), 3), "questions": len(said)} for kind, said in found.items()}


def summary(values: Values, baseline: Values, queries: Sequence[str]) -> dict[str, Any]:
    """Means with intervals, and paired differences, over ``queries``."""
    rows: dict[str, Any] = {}
    for ranking, measures in values.items():
        rows[ranking] = {}
        for measure, per_id in measures.items():
            each = [per_id[query] for query in queries]
            before = [baseline[ranking][measure][query] for query in queries]
            rows[ranking][measure] = asdict(interval(each))
            if values is not baseline:
                found = difference(each, before)
                rows[ranking][measure]["minus_last_turn"] = {**asdict(found), "inside_noise": found.inside_noise}
    told: dict[str, Any] = rounded(rows)
    return told


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", type=Path, help="where to keep the index")
    with TemporaryDirectory() as temporary:
        run(parser.parse_args().index or Path(temporary) / "index")


def run(folder: Path) -> None:
    beir = read_beir(FOLDER)
    documents: dict[str, Document] = {}
    for record in beir.corpus:
        if (document := document_of(record)) is not None:
            documents[record.id] = document
    names = {document.id: name for name, document in documents.items()}
    asked = {query: each for query, each in conversations().items() if query in beir.qrels}
    with Rag.open(folder) as rag:
        rag.ingest_documents(documents.values())
        texts = {way: {query: make(*asked[query]) for query in asked} for way, make in {**WAYS, **VARIANTS}.items()}
        values = {way: measured(rag, names, queries, beir.qrels) for way, queries in texts.items()}
        same = through_the_chain(rag, asked)
    changed = {query for query in asked if texts["last turn + carry rule"][query] != texts[BASELINE][query]}
    groups = {
        "all": list(asked),
        "the rule carries words": [query for query in asked if query in changed],
        "the rule leaves as it is": [query for query in asked if query not in changed],
    }
    result: dict[str, Any] = {
        "queries": {name: len(group) for name, group in groups.items()},
        "the_chain_finds_the_same": same,
        "ways": {
            way: {
                name: summary(values[way], values[BASELINE], group)
                for name, group in groups.items()
                if name == "all" or way in WAYS
            }
            for way in WAYS
        },
        "route_by_rule": routed(),
        "variants": {way: summary(values[way], values[BASELINE], groups["all"])["fused"] for way in VARIANTS},
    }
    print(json.dumps({way: rows["all"]["fused"] for way, rows in result["ways"].items()}, indent=2))
    write_result("query", result)


if __name__ == "__main__":
    main()
