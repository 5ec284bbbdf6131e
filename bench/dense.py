"""Dense search alone, query vectors given: exact against faiss's own exact searches, and graphs against exact.

    python bench/dense.py --rows 1000 10000 50000 --graph-rows 60000

The vectors are made up (unit vectors around 1,000 centres, 384 wide): times depend on their number and width only, the
recall of a graph on how they lie, so treat that as one example.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import alternating, write_result
from rag.core import Chunk, Span
from rag.retrievers.dense import FaissIndex
from rag.retrievers.dense_search import search_exact

faiss: Any = _faiss
DIM = 384
K = 10
Floats = NDArray[np.float32]


class RowEncoder:
    """Text ``"7"`` is row 7: the benchmark measures search, not a model."""

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        self.dim = rows.shape[1]
        self.fingerprint = "rows"

    def encode_documents(self, texts: Sequence[str]) -> Floats:
        return self.rows[[int(text) for text in texts]]

    encode_queries = encode_documents


def made_up(num_rows: int, seed: int = 0) -> Floats:
    """Unit vectors around 1,000 centres: neighbours at a cosine of about .7, as chunks of one subject have."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((1000, DIM)).astype(np.float32)
    rows = centres[rng.integers(0, 1000, num_rows)]
    for start in range(0, num_rows, 10_000):
        rows[start : start + 10_000] += 0.65 * rng.standard_normal(rows[start : start + 10_000].shape, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def exact(num_rows: int, num_queries: int, share: float, rounds: int) -> dict[str, float]:
    """Median milliseconds per query of ways to search exactly over a memory-mapped file."""
    rows, queries = made_up(num_rows), made_up(num_queries, 1)
    allowed = None if share == 1 else np.random.default_rng(2).random(num_rows) < share
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/v.npy", rows)
        mapped = np.load(f"{folder}/v.npy", mmap_mode="r")
        flat = faiss.IndexFlatIP(DIM)
        flat.add(rows)

        def faiss_flat() -> None:
            if allowed is None:
                flat.search(queries, K)
            else:
                selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
                flat.search(queries, K, params=faiss.SearchParameters(sel=selector))

        def faiss_knn() -> None:
            faiss.knn(queries, mapped if allowed is None else mapped[np.flatnonzero(allowed)], K, metric=faiss.METRIC_INNER_PRODUCT)

        runs: dict[str, Callable[[], Any]] = {
            "ours (float64 scores)": lambda: search_exact(mapped, queries, K, allowed),
            "faiss.knn": faiss_knn,
            "faiss flat + bitmap": faiss_flat,
        }
        return {name: round(1000 * seconds / num_queries, 3) for name, seconds in alternating(runs, rounds).items()}


def graph(num_rows: int, rounds: int) -> dict[str, Any]:
    """Build seconds, bytes, recall@10 and milliseconds per query of a saved and loaded graph, with and without filters."""
    num_queries = 200
    rows = made_up(num_rows + num_queries)
    texts = [str(number) for number in range(len(rows))]
    chunks = [Chunk(text, "doc", Span(0, len(text)), text) for text in texts[:num_rows]]
    index = FaissIndex(RowEncoder(rows), exact_below=min(50_000, num_rows - 1))
    started = time.process_time()
    built = index.build(np.arange(num_rows), chunks)
    result: dict[str, Any] = {"rows": num_rows, "graph": built.recipe, "build_cpu_seconds": round(time.process_time() - started, 1)}
    with tempfile.TemporaryDirectory() as folder:
        built.save(Path(folder))
        result["bytes"] = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir())}
        segment = index.load(Path(folder))
        reader = index.reader([segment], np.ones(num_rows, np.bool_))
        queries = texts[num_rows:]
        for share in (1.0, 0.9, 0.1):
            allow = np.random.default_rng(3).random(num_rows) < share
            wanted = search_exact(rows[:num_rows], rows[num_rows:], K, allow)
            found = reader.search(queries, K, allow)
            recall = np.mean([np.isin(mine.keys, theirs.rows).mean() for mine, theirs in zip(found, wanted, strict=True)])
            runs = {
                "graph": lambda allow=allow: [reader.search([query], K, allow) for query in queries[:20]],
                "exact": lambda allow=allow: [search_exact(segment.vectors, rows[[int(q)]], K, allow) for q in queries[:20]],
            }
            milliseconds = {name: round(1000 * seconds / 20, 3) for name, seconds in alternating(runs, rounds).items()}
            result[f"{share:.0%} allowed"] = {"recall_at_10": round(float(recall), 4), "milliseconds": milliseconds}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--graph-rows", type=int, nargs="*", default=[60_000])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"load_average": os.getloadavg(), "dim": DIM, "k": K, "milliseconds_per_query": {}, "graphs": []}
    for num_rows in arguments.rows:
        for num_queries in (1, 32):
            for share in (1.0, 0.5, 0.05):
                name = f"{num_rows} rows, {num_queries} queries, {share:.0%} allowed"
                result["milliseconds_per_query"][name] = exact(num_rows, num_queries, share, arguments.rounds)
    for num_rows in arguments.graph_rows:
        result["graphs"].append(graph(num_rows, arguments.rounds))
    write_result("dense", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
