"""What it gains to cut many short documents together: chunkers that ask a model, one document after the other and all at once.

    python bench/chunker_batches.py --documents ../shared/data/xquad/derived_beir_en

``semantic`` and ``spatial`` read with all-MiniLM-L6-v2, ``perplexity`` and ``margin`` ask the small reader that the project trains (what it
says of this text means nothing, what it costs does not depend on that). ``alone`` calls ``chunk`` for each document, ``together`` calls
``chunk_many`` once. They take turns after a warm-up; medians of wall and of processor seconds, since the machine may be shared.
``documents_cut_otherwise``: a model may round differently in a larger batch, so this is counted and not taken for granted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.core import Chunk, Document, chunk_many
from rag.eval.beir import document_of, read_beir
from rag.eval.reader.weights import READER
from rag.lm import TransformersLM
from rag.registry import component
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.tokenizer_huggingface import HuggingFaceTokenizer

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "semantic": ("semantic", {}),
    "spatial": ("spatial", {}),
    "perplexity": ("perplexity", {}),
    "margin, pairs": ("margin", {}),
    "margin, sequential": ("margin", {"mode": "sequential"}),
}
READ_BY_LM = 60
"""Documents that the cases with a language model cut: it is slow."""


def compare(chunker: Any, documents: list[Document], rounds: int) -> dict[str, Any]:
    """Seconds both ways, and whether they agree."""

    def alone() -> list[list[Chunk]]:
        return [chunker.chunk(document) for document in documents]

    def together() -> list[list[Chunk]]:
        return chunk_many(chunker, documents)

    ways = {"alone": alone, "together": together}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found: dict[str, list[list[Chunk]]] = {}
    chunk_many(chunker, documents[:2])
    for number in range(rounds):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            began, processor = time.perf_counter(), time.process_time()
            found[name] = ways[name]()
            seconds[name].append((time.perf_counter() - began, time.process_time() - processor))
    row: dict[str, Any] = {"documents": len(documents), "characters": sum(len(document.text) for document in documents)}
    for name, each in seconds.items():
        row[f"{name}_seconds"] = round(statistics.median(wall for wall, _ in each), 3)
        row[f"{name}_cpu_seconds"] = round(statistics.median(cpu for _, cpu in each), 3)
    pairs = [(one, other) for (one, _), (other, _) in zip(seconds["alone"], seconds["together"], strict=True)]
    cpu_pairs = [(one, other) for (_, one), (_, other) in zip(seconds["alone"], seconds["together"], strict=True)]
    return row | {
        "times_as_fast": round(statistics.median(one / other for one, other in pairs), 2),
        "times_as_fast_by_cpu": round(statistics.median(one / other for one, other in cpu_pairs), 2),
        "chunks": sum(map(len, found["together"])),
        "documents_cut_otherwise": sum(one != other for one, other in zip(found["alone"], found["together"], strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="a set in the BEIR layout, whose corpus is cut")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    corpus = read_beir(arguments.documents).corpus
    documents = [document for record in corpus if (document := document_of(record))]
    models = {
        "tokenizer": HuggingFaceTokenizer(),
        "encoder": SentenceTransformersEncoder(),
        "lm": TransformersLM(str(READER), dtype="float32"),
    }
    rows = {}
    for name, (word, options) in CASES.items():
        needed = "lm" if word in ("perplexity", "margin") else "encoder"
        chunker = component("chunker", word)(tokenizer=models["tokenizer"], **{needed: models[needed]}, **options)
        rows[name] = compare(chunker, documents[: READ_BY_LM if needed == "lm" else None], arguments.rounds)
        print(f"{name:20} {rows[name]}", flush=True)
    write_result(
        "chunker_batches",
        {"set": arguments.documents.name, "rounds": arguments.rounds, "chunkers": rows},
        ("tokenizers", "nupunkt"),
    )


if __name__ == "__main__":
    main()
