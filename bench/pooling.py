"""Token pooling: what retrieval loses when documents keep a half to a sixth of their token vectors, and how fast tokens are pooled.

    python bench/pooling.py --folders ../shared/data/xquad/derived_beir_en ...

Sets in the BEIR layout, whole documents, exact MaxSim over the token vectors of the embedded encoder (384 numbers each). That encoder
was trained to average its token vectors, not for late interaction: the numbers tell what pooling costs against factor 1, not
how well a ColBERT ranks. At most ``--queries`` queries of each set are asked, drawn with a fixed seed; searched are all documents, or
at most ``--documents``: those that are relevant to a query, and others drawn with the same seed, which makes the task easier. ``nothing left out`` is factor 1 with the vectors of punctuation kept. Differences are paired, over queries, with
bootstrap intervals. ``documents_per_second`` is one pass over the set in one thread; the first row that pools holds the loading of
the compiled loops too.

``speed``: Ward in compiled loops against scipy's (the reference), the same documents in turns, and threads against one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import alternating, write_result
from rag.core import TokenBlock, TokenEncoder
from rag.eval.beir import BeirSet, document_of, read_beir
from rag.eval.bootstrap import difference, interval
from rag.eval.metrics import per_query
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.token_clusters import cluster_means, ward_by_scipy, ward_labels
from rag.retrievers.token_pooling import PoolMethod, pool_tokens
from rag.retrievers.token_vectors import TokenVectorsEncoder

DATA = ROOT.parent / "shared" / "data"
FOLDERS = (
    DATA / "xquad" / "derived_beir_en",
    DATA / "anthropic_cookbook_retrieval" / "docs" / "derived_beir",
    DATA / "pubmedqa_pqal" / "derived_beir",
    DATA / "mtrag_un_reference" / "derived_beir",
)
FACTORS = (2, 3, 4, 5, 6)
METHODS: tuple[PoolMethod, ...] = get_args(PoolMethod)
MEASURES = ("nDCG@10", "recall@10")
_SCORES_AT_ONCE = 2**25  # 128 MB of float32

Vectors = list[NDArray[np.float32]]


class ReadOnce:
    """An encoder that reads each list of texts once: both ways to leave tokens out start from the same vectors."""

    def __init__(self, inner: TokenEncoder) -> None:
        self._inner = inner
        self._known: dict[tuple[str, ...], list[TokenBlock]] = {}
        self.dim, self.fingerprint, self.pooling = inner.dim, inner.fingerprint, inner.pooling

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._inner.encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._inner.encode_queries(texts)

    def token_vectors(
        self, texts: Sequence[str], overlap_tokens: int, task: Literal["query", "document"] = "document"
    ) -> Iterator[TokenBlock]:
        key = (task, *texts)
        if key not in self._known:
            self._known = {key: list(self._inner.token_vectors(texts, overlap_tokens, task))}
        return iter(self._known[key])


def max_sim(queries: Vectors, documents: Vectors) -> NDArray[np.float32]:
    """Exact: for every token of a query its best cosine in a document, summed over the query, ``(queries, documents)``."""
    scores = np.empty((len(queries), len(documents)), np.float32)
    rows, starts = np.concatenate(queries), np.cumsum([0, *map(len, queries)])[:-1]
    ends = np.cumsum([len(tokens) for tokens in documents])
    first = 0
    while first < len(documents):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _SCORES_AT_ONCE // len(rows), "right")))
        some = documents[first:last]
        borders = np.cumsum([0, *map(len, some)])[:-1]
        best = np.maximum.reduceat(rows @ np.concatenate(some).T, borders, axis=1)
        scores[:, first:last] = np.add.reduceat(best, starts, axis=0)
        first = last
    return scores


def values_of(beir: BeirSet, names: list[str], ids: list[str], queries: Vectors, documents: Vectors) -> dict[str, list[float]]:
    """Measure -> value of each query, in the order of ``names``."""
    best = np.argsort(-max_sim(queries, documents), axis=1, kind="stable")[:, :10]
    rankings = {name: [ids[place] for place in places] for name, places in zip(names, best.tolist(), strict=True)}
    found = per_query(rankings, {name: beir.qrels[name] for name in names}, MEASURES)
    return {measure: [values[name] for name in names] for measure, values in found.items()}


def row_of(values: dict[str, list[float]], base: dict[str, list[float]], documents: Vectors, num_tokens: int) -> dict[str, Any]:
    """Means, what is left of factor 1, and the paired difference to it."""
    row: dict[str, Any] = {"tokens": sum(map(len, documents)), "tokens_kept": round(sum(map(len, documents)) / num_tokens, 4)}
    for measure in MEASURES:
        mean, whole = interval(values[measure]), interval(base[measure])
        apart = difference(values[measure], base[measure])
        row[measure] = {
            "mean": round(mean.mean, 4), "low": round(mean.low, 4), "high": round(mean.high, 4),
            "of_factor_1": round(mean.mean / whole.mean, 4),
            "difference": [round(apart.mean, 4), round(apart.low, 4), round(apart.high, 4)], "inside_noise": apart.inside_noise,
        }  # fmt: skip
    return row


def measure(folder: Path, inner: TokenEncoder, num_queries: int, max_documents: int) -> tuple[dict[str, Any], Vectors]:
    """The rows of one set, and its document vectors."""
    beir = read_beir(folder)
    documents = [document for record in beir.corpus if (document := document_of(record)) is not None]
    judged = sorted(name for name in beir.queries if any(value > 0 for value in beir.qrels.get(name, {}).values()))
    names = sorted(np.random.default_rng(0).permutation(judged)[:num_queries].tolist())
    num_all = len(documents)
    if max_documents and num_all > max_documents:
        wanted = {name for query in names for name, value in beir.qrels[query].items() if value > 0}
        order = np.random.default_rng(0).permutation(num_all).tolist()
        order.sort(key=lambda place: documents[place].meta["beir_id"] not in wanted)  # the relevant first; stable
        documents = [documents[place] for place in sorted(order[: max(max_documents, len(wanted))])]
    ids, texts = [str(document.meta["beir_id"]) for document in documents], [document.text for document in documents]
    once = ReadOnce(inner)
    encoder = TokenVectorsEncoder(once)
    queries = encoder.encode_queries([beir.queries[name] for name in names])
    vectors = encoder.encode_documents(texts)
    num_tokens = sum(map(len, vectors))
    base = values_of(beir, names, ids, queries, vectors)
    rows = {"factor 1": row_of(base, base, vectors, num_tokens)}
    everything = TokenVectorsEncoder(once, "nothing").encode_documents(texts)
    values = values_of(beir, names, ids, queries, everything)
    rows["factor 1, nothing left out"] = row_of(values, base, everything, num_tokens)
    del everything, once
    for method in METHODS:
        for factor in FACTORS:
            started = time.perf_counter()
            pooled = pool_tokens(vectors, factor, method, num_protected=0, num_threads=1)
            seconds = time.perf_counter() - started
            row = row_of(values_of(beir, names, ids, queries, pooled), base, pooled, num_tokens)
            rows[f"{method}, factor {factor}"] = {**row, "documents_per_second": round(len(vectors) / seconds)}
            print(f"  {method:10} {factor}: nDCG@10 {row['nDCG@10']['mean']:.4f} ({row['nDCG@10']['of_factor_1']:.1%})", flush=True)
    counts = {
        "documents": len(texts), "documents_in_the_set": num_all, "queries": len(names), "queries_in_the_set": len(judged), "query_tokens": sum(map(len, queries)),
    }  # fmt: skip
    return {**counts, "rows": rows}, vectors


def speed(vectors: Vectors, rounds: int) -> dict[str, Any]:
    """Documents a second by length: compiled Ward and scipy's with everything around them equal, and pooling in threads."""
    found: dict[str, Any] = {}
    whole = np.concatenate(vectors)
    for length, count in ((64, 200), (150, 100), (256, 50), (512, 20), (2_000, 2)):
        documents = [np.ascontiguousarray(whole[number * length : (number + 1) * length]) for number in range(count)]
        documents = [tokens for tokens in documents if len(tokens) == length]
        half = length // 2

        def by(label: Any, documents: Vectors = documents, half: int = half) -> Any:
            return lambda: [cluster_means(tokens, label(tokens, half), half) for tokens in documents]

        def threads(num: int, documents: Vectors = documents) -> Any:
            return lambda: pool_tokens(documents, 2, num_protected=0, num_threads=num)

        runs = {"compiled ward": by(ward_labels), "scipy ward": by(ward_by_scipy), "pool_tokens, 1 thread": threads(1),
                "pool_tokens, a thread per core": threads(0)}  # fmt: skip
        same = sum(np.array_equal(ward_labels(tokens, half), ward_by_scipy(tokens, half)) for tokens in documents)
        seconds = alternating(runs, rounds)
        found[f"{length} tokens"] = {
            "documents": len(documents), "equal_clusters": same,
            "documents_per_second": {name: round(len(documents) / value, 1) for name, value in seconds.items()},
        }  # fmt: skip
    return found


def main() -> None:
    """Prints nDCG@10 of every row and records all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=Path, nargs="+", default=list(FOLDERS))
    parser.add_argument("--queries", type=int, default=100, help="queries asked of each set, at most")
    parser.add_argument("--documents", type=int, default=0, help="documents searched of each set, at most (0: all)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    inner = SentenceTransformersEncoder()
    sets: dict[str, Any] = {}
    vectors: Vectors = []
    for folder in options.folders:
        name = "/".join(part for part in folder.resolve().parts[-3:] if part not in ("docs", "data"))
        print(name, flush=True)
        sets[name], vectors = measure(folder, inner, options.queries, options.documents)
    how = {
        "load_average": os.getloadavg(), "encoder": "embedded, token vectors", "dim": inner.dim,
        "subset": f"at most {options.queries} queries of each set, and {options.documents or 'all'} documents",
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "one per core"),
    }  # fmt: skip
    write_result("pooling", {**how, "speed": speed(vectors, options.rounds), "sets": sets}, packages=("scipy", "ir-measures"))


if __name__ == "__main__":
    main()
