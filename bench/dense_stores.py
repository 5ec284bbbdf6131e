"""Compressed dense vectors: bytes, milliseconds, and recall against exact search of the float32 rows.

    python bench/dense_stores.py --passages ../shared/data/xquad/derived_beir_en ... --made-up 50000

``--passages``: folders in the BEIR layout, whose texts in pieces of 60 words and whose questions the embedded encoder turns into
vectors. Made-up rows are those of bench/dense.py: random directions around centres, the hardest case for few bits, since nothing
but noise tells neighbours apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.dense import Floats, K, RowEncoder, made_up
from bench.record import alternating, write_result
from rag.core import Chunk, Span
from rag.retrievers.dense import FaissIndex
from rag.retrievers.dense_codes import to_int8
from rag.retrievers.dense_search import search_exact

DATA = ROOT.parent / "shared" / "data"
FOLDERS = [
    DATA / "anthropic_cookbook_retrieval" / "docs" / "derived_beir",
    *(DATA / name for name in ("mtrag_un_reference/derived_beir", "xquad/derived_beir_en", "pubmedqa_pqal/derived_beir")),
]
STORES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"store": "float16"},
    "int8": {"store": "int8"},
    "binary": {"store": "binary"},
    **{f"binary, {n} candidates per hit": {"store": "binary", "oversample": n} for n in (5, 20, 40)},
    **{f"float32, first {n} dimensions": {"dimensions": n} for n in (256, 128, 64)},
}


def stores(rows: Floats, queries: Floats, rounds: int) -> dict[str, Any]:
    """Per store: bytes per vector, milliseconds per query, recall against exact search of the float32 rows."""
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
        for name, seconds in alternating(runs, rounds).items():
            result["stores"][name]["milliseconds"] = round(1000 * seconds / len(few), 3)
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


def of_passages(folders: Sequence[Path]) -> tuple[Floats, Floats]:
    """Vectors of pieces of the collections' texts, and of their questions."""
    from rag.eval.beir import document_of, read_beir
    from rag.retrievers.encoder import SentenceTransformersEncoder

    pieces, questions = [], []
    for folder in folders:
        beir = read_beir(folder, "test")
        questions += [beir.queries[query] for query in list(beir.qrels)[:300]]
        for document in filter(None, map(document_of, beir.corpus)):
            words = document.text.split()
            pieces += [" ".join(words[start : start + 60]) for start in range(0, len(words), 60)]
    encoder = SentenceTransformersEncoder()
    unique = list(dict.fromkeys(pieces))
    return encoder.encode_documents(unique), encoder.encode_queries(questions)


def main() -> None:
    """Prints and records everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=Path, nargs="*", default=FOLDERS, metavar="FOLDER")
    parser.add_argument("--made-up", type=int, nargs="*", default=[50_000], metavar="ROWS")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"load_average": os.getloadavg(), "sets": {}}
    if arguments.passages:
        result["sets"]["passages"] = stores(*of_passages(arguments.passages), arguments.rounds)
    for num_rows in arguments.made_up:
        rows = made_up(num_rows + 200)
        result["sets"][f"made up, {num_rows}"] = stores(rows[:num_rows], rows[num_rows:], arguments.rounds)
    write_result("dense_stores", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
