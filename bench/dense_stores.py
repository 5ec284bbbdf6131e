"""Compressed dense vectors: bytes, milliseconds, and recall against exact search of the float32 rows.

    python bench/dense_stores.py --passages ../shared/data/xquad/derived_beir_en ... --made-up 50000

``--passages``: folders in the BEIR layout; rows are the chunks that the default pipeline makes of them, queries their questions, both
by the embedded encoder. Made-up rows are those of bench/dense.py: random directions around centres, the hardest case for few bits, since nothing
but noise tells neighbours apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.dense import Floats, K, RowEncoder, made_up
from bench.fusion import FOLDERS, TUNING, name_of
from bench.record import write_result
from rag.core import Chunk, Hit, Span, VectorsOf
from rag.eval.beir import document_of, read_beir
from rag.pipeline import Rag
from rag.retrievers.dense import FaissIndex
from rag.retrievers.dense_codes import to_int8
from rag.retrievers.dense_search import search_exact

MAX_QUESTIONS = 300
STORES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"store": "float16"},
    "int8": {"store": "int8"},
    "binary": {"store": "binary"},
    **{f"binary, {n} candidates per hit": {"store": "binary", "oversample": n} for n in (5, 10, 40)},
    **{f"float32, first {n} dimensions": {"dimensions": n} for n in (256, 128, 64)},
}


def stores(rows: Floats, queries: Floats, rounds: int) -> dict[str, Any]:
    """Per store: bytes per vector, milliseconds of processor time per query, recall against exact search of the float32 rows."""
    num_rows = len(rows)
    encoder, texts = RowEncoder(np.concatenate([rows, queries])), [str(number) for number in range(num_rows + len(queries))]
    chunks = [Chunk(text, "doc", Span(0, len(text)), text) for text in texts[:num_rows]]
    asked, few = texts[num_rows:], texts[num_rows : num_rows + 20]
    wanted = search_exact(rows, queries, 100)
    result: dict[str, Any] = {"rows": num_rows, "queries": len(queries), "stores": {}}
    runs: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, options in STORES.items():
            index = FaissIndex(encoder, exact_below=num_rows, num_cached_queries=2 * len(queries), **options)
            folder = Path(place) / name
            folder.mkdir()
            built = index.build(np.arange(num_rows), chunks)
            built.save(folder)
            reader = index.reader([index.load(folder)], np.ones(num_rows, np.bool_))
            num_bytes = sum(path.stat().st_size - 128 for path in folder.glob("*.npy") if path.stem != "keys")
            found = {k: reader.search(asked, k) for k in (10, 100)}
            result["stores"][name] = {"bytes_per_vector": round(num_bytes / num_rows, 1)} | {
                f"recall_at_{k}": round(float(np.mean([np.isin(theirs.rows[:k], mine.keys).mean() for mine, theirs in
                                                       zip(found[k], wanted, strict=True)])), 4) for k in (10, 100)
            } | {"recall_estimate": built.facts()["recall_estimate"]}  # fmt: skip
            runs[name] = lambda reader=reader: [reader.search([query], K) for query in few]
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for name in [*runs, *list(runs) * rounds]:  # the first turn warms up
            started = time.process_time()  # what it computes, whoever else wants the processor
            runs[name]()
            seconds[name].append(time.process_time() - started)
        for name, each in seconds.items():
            result["stores"][name]["cpu_milliseconds"] = round(1000 * statistics.median(each[1:]) / len(few), 3)
    per_component = np.abs(rows).max(axis=0) / 127
    rough = np.rint(rows / per_component) * per_component
    scaled = {"per row": to_int8(rows)[:], "per component": rough.astype(np.float32)}
    result["int8_scales"] = {
        name: {
            "largest_score_error": round(float(np.abs(queries @ (kept - rows).T).max()), 5),
            "recall_at_10": round(float(np.mean([np.isin(mine.rows, theirs.rows[:10]).mean() for mine, theirs in
                                                 zip(search_exact(kept, queries, 10), wanted, strict=True)])), 4),
        }
        for name, kept in scaled.items()
    }  # fmt: skip
    return result


class Capturing:
    """A fusion that only keeps vectors: those of every chunk at the first question, and each question's."""

    reads_vectors = True

    def __init__(self) -> None:
        self.chunks: list[Floats] = []
        self.questions: list[Floats] = []

    def fuse(self, rankings: Mapping[str, Sequence[Hit]], vectors: VectorsOf) -> list[Hit]:
        found = vectors("dense", rankings["dense"] if not self.chunks else [])
        self.chunks += found.chunks
        self.questions.append(found.query)
        return list(rankings["dense"])


def of_passages(folders: Sequence[Path], places: Path) -> tuple[Floats, Floats]:
    """Vectors of the chunks that the default pipeline makes of the collections' texts, and of their questions."""
    rows, questions = [], []
    for folder in folders:
        beir, capturing = read_beir(folder, "test"), Capturing()
        with Rag.open(places / name_of(folder), components={"fuse": capturing}) as rag:
            rag.ingest_documents(filter(None, map(document_of, beir.corpus)))
            for number, query in enumerate(list(beir.qrels)[:MAX_QUESTIONS]):
                rag.search_each([beir.queries[query]], 1 if number else rag.stats()["chunks"])
        rows += capturing.chunks
        questions += capturing.questions
    return np.unique(np.concatenate(rows), axis=0), np.concatenate(questions)


def main() -> None:
    """Prints and records everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=Path, nargs="*", default=[*FOLDERS, *TUNING], metavar="FOLDER")
    parser.add_argument("--made-up", type=int, nargs="*", default=[50_000], metavar="ROWS")
    parser.add_argument("--indexes", type=Path, help="where to keep what was ingested (default: nowhere)")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"load_average": os.getloadavg(), "sets": {}}
    if arguments.passages:
        with tempfile.TemporaryDirectory(prefix="rag-stores-") as temporary:
            vectors = of_passages(arguments.passages, arguments.indexes or Path(temporary))
        result["sets"]["passages"] = stores(*vectors, arguments.rounds)
    for num_rows in arguments.made_up:
        rows = made_up(num_rows + 200)
        result["sets"][f"made up, {num_rows}"] = stores(rows[:num_rows], rows[num_rows:], arguments.rounds)
    write_result("dense_stores", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
