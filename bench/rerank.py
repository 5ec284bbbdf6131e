"""What rerankers that run offline do to BM25's ranking, and what they cost: nDCG@10 on two sets in the BEIR layout.

    python bench/rerank.py --data ../shared/data [--queries 60] [--reader-queries 20] [--all-pairs-queries 2] [--steps 450]

Chunks of the default chunker; candidates are BM25's first 100 for a sample of the judged queries (seed 0), and every reranker reorders all
of them. Differences to BM25 are paired over the same queries. All pairs of a hundred passages are 9,900 prompts, so that row has queries of
its own number: its cost is measured, its quality is not. The cross-encoder is trained here, on the two corpora alone
(bench/rerank_train.py), for minutes: its row says what that is worth, and nothing of published cross-encoders. The reader (rag.eval.reader) is 1.3 million parameters trained on generated facts with
made-up names: it shows that every prompt path runs, and no more. ``seconds`` are medians of whatever machine this ran on, shared or not.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.fusion import name_of, rounded
from bench.record import write_result
from bench.rerank_train import examples, train
from rag import config
from rag.core import Chunk, Hit, MultiVectorEncoder
from rag.eval.beir import document_of, read_beir
from rag.eval.bootstrap import difference, interval
from rag.eval.metrics import per_query
from rag.lm import TransformersLM
from rag.registry import component
from rag.rerankers.report import ReportingReranker, RerankReport
from rag.rerankers.sensitivity import order_sensitivity
from rag.retrievers.bm25 import BM25Index, BM25Reader

SETS = ("anthropic_cookbook_retrieval/docs/derived_beir", "mtrag_un_reference/derived_beir")
READER = ROOT / "eval" / "reader" / "weights" / "reader"
K = 100
SEED = 0
SHUFFLED = 8
READER_OPTIONS = {"max_passage_tokens": 96}  # its vocabulary spells most words of real text in bytes
COMPARING = ("pairwise", "setwise", "listwise")
ASKING: Mapping[str, tuple[str, dict[str, Any]]] = {
    "reader: pointwise": ("pointwise", {}),
    "reader: graded": ("graded", {}),
    "reader: likelihood": ("likelihood", {}),
    "reader: pairwise all-pairs": ("pairwise", {"method": "all-pairs"}),
    "reader: pairwise heapsort": ("pairwise", {"method": "heapsort"}),
    "reader: setwise": ("setwise", {}),
    "reader: setwise both orders": ("setwise", {"both_orders": True}),
    "reader: listwise first-label": ("listwise", {"window": 6, "stride": 3}),
    "reader: listwise text": ("listwise", {"window": 6, "stride": 3, "read": "text"}),
}


class Remembering:
    """A multi-vector encoder that reads each passage once, so that quality can be measured on many queries."""

    def __init__(self, inner: MultiVectorEncoder) -> None:
        self._inner = inner
        self._known: dict[str, NDArray[np.float16]] = {}

    @property
    def dim(self) -> int:
        return self._inner.dim

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return self._inner.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for text, vectors in zip(new, self._inner.encode_documents(new) if new else [], strict=True):
            self._known[text] = vectors.astype(np.float16)
        return [self._known[text].astype(np.float32) for text in texts]


class Set:
    """One collection: its chunks, a sample of its judged queries, and what BM25 finds for them."""

    def __init__(self, folder: Path, num_queries: int) -> None:
        beir = read_beir(folder, "test")
        assembly = config.Assembly(config.load(None))
        chunker = assembly.build("chunker", "chunker", assembly.config.chunker)
        documents = {document.id: (record.id, document) for record in beir.corpus if (document := document_of(record)) is not None}
        self.names = {identity: name for identity, (name, _) in documents.items()}
        self.chunks: list[Chunk] = [chunk for _, document in documents.values() for chunk in chunker.chunk(document)]
        index = BM25Index(num_threads=1)
        keys = np.arange(len(self.chunks))
        self.bm25: BM25Reader = index.reader([index.build(keys, self.chunks)], np.ones(len(keys), np.bool_))
        sample = random.Random(SEED).sample(list(beir.qrels), min(num_queries, len(beir.qrels)))
        self.queries = {query: beir.queries[query] for query in sample}
        self.qrels = {query: beir.qrels[query] for query in sample}
        self.candidates = {query: self._found(text) for query, text in self.queries.items()}

    def _found(self, text: str) -> list[Hit]:
        (matches,) = self.bm25.search([text], K)
        pairs = enumerate(zip(matches.keys.tolist(), matches.scores.tolist(), strict=True), start=1)
        return [Hit(self.chunks[key], score).placed("bm25", score, rank) for rank, (key, score) in pairs]

    def ndcg(self, rankings: Mapping[str, Sequence[Hit]]) -> list[float]:
        """nDCG@10 of each query; a document stands where its first chunk does."""
        run = {query: list(dict.fromkeys(self.names[hit.chunk.doc_id] for hit in hits)) for query, hits in rankings.items()}
        qrels = {query: self.qrels[query] for query in rankings}
        return list(per_query(run, qrels, ("nDCG@10",))["nDCG@10"].values())

    def measured(self, reranker: ReportingReranker, depth: int, num_queries: int) -> dict[str, Any]:
        """Quality beside BM25's and mean cost per query, over the first ``num_queries`` of the sample."""
        rankings: dict[str, list[Hit]] = {}
        reports: list[RerankReport] = []
        for query, text in list(self.queries.items())[:num_queries]:
            hits, report = reranker.rerank_with_report(text, self.candidates[query][:depth])
            rankings[query] = [*hits, *self.candidates[query][depth:]]
            reports.append(report)
        own, before = self.ndcg(rankings), self.ndcg({query: self.candidates[query] for query in rankings})
        apart = difference(own, before)
        verdict = "inside the noise" if apart.inside_noise else "better" if apart.mean > 0 else "worse"
        costs = [report.as_cost() for report in reports]
        per_query_cost = {name: round(statistics.fmean(cost[name] for cost in costs), 2) for name in costs[0] if name != "seconds"}
        return {
            "depth": depth,
            "num_queries": len(rankings),
            "nDCG@10": rounded(interval(own), "mean", "low", "high"),
            "bm25_nDCG@10": round(statistics.fmean(before), 4),
            "against_bm25": rounded(apart, "mean", "low", "high", "p") | {"verdict": verdict},
            "per_query": per_query_cost,
            "median_seconds_per_query": round(statistics.median(report.seconds for report in reports), 3),
        }


def maxsim_rows(one: Set, encoder: MultiVectorEncoder, num_queries: int) -> dict[str, dict[str, Any]]:
    """Late interaction alone and blended with BM25; seconds are those of one query whose passages nobody remembers."""
    remembering = Remembering(encoder)
    rows = {
        f"maxsim, weight {weight:g}": one.measured(component("reranker", "maxsim")(remembering, weight=weight), K, num_queries)
        for weight in (1.0, 0.7, 0.5, 0.3)
    }
    seconds = one.measured(component("reranker", "maxsim")(encoder), K, 1)["median_seconds_per_query"]
    return {name: row | {"median_seconds_per_query": seconds} for name, row in rows.items()}


def reader_rows(one: Set, num_queries: int, num_all_pairs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to ask, of the project's own small reader, and how far each depends on the order it is given."""
    lm = TransformersLM(str(READER), device="cpu", dtype="float32")
    for name, (word, options) in ASKING.items():
        reranker = component("reranker", word)(lm, **options, **READER_OPTIONS)
        all_pairs = options.get("method") == "all-pairs"
        row = one.measured(reranker, K, num_all_pairs if all_pairs else num_queries)
        if word in COMPARING:  # what scores each passage alone cannot depend on the order
            query, text = next(iter(one.queries.items()))
            tau = order_sensitivity(reranker, text, one.candidates[query][:SHUFFLED], num_shuffles=3, seed=SEED)
            row[f"order_sensitivity_of_one_query_at_{SHUFFLED}"] = round(tau, 3)
        yield name, row


def main() -> None:
    """Prints and records everything, set by set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder that holds the sets")
    parser.add_argument("--queries", type=int, default=60, help="sampled of each set")
    parser.add_argument("--reader-queries", type=int, default=20)
    parser.add_argument("--all-pairs-queries", type=int, default=2)
    parser.add_argument("--steps", type=int, default=450, help="of training the cross-encoder, 4 queries each")
    options = parser.parse_args()
    started = time.perf_counter()
    sets = {name_of(options.data / place): Set(options.data / place, options.queries) for place in SETS}
    result: dict[str, Any] = {
        "command": "python bench/rerank.py --data DATA",
        "options": {name: value for name, value in vars(options).items() if name != "data"},
        "seed": SEED,
        "remark": "seconds were taken while other programs used the machine: compare rows, promise nothing",
        "load_average": os.getloadavg(),
        "sets": {name: {"chunks": len(one.chunks), "queries": len(one.queries), "rows": {}} for name, one in sets.items()},
    }

    def keep(name: str, rows: Mapping[str, dict[str, Any]]) -> None:
        result["sets"][name]["rows"].update(rows)
        for row, found in rows.items():
            print(
                f"{name[:12]:<12} {row:<30} {found['nDCG@10']} bm25 {found['bm25_nDCG@10']} {found['against_bm25']['verdict']}",
                flush=True,
            )
        result["total_seconds"] = round(time.perf_counter() - started, 1)
        result["total_cpu_seconds"] = round(time.process_time(), 1)
        write_result("rerank", result, packages=("ir-measures", "pytrec_eval-terrier"))

    encoder = config.Assembly(config.load(None)).model("token_encoder")
    for name, one in sets.items():
        for row, found in reader_rows(one, options.reader_queries, options.all_pairs_queries):
            keep(name, {row: found})
    for name, one in sets.items():
        keep(name, maxsim_rows(one, encoder, options.queries))
    with TemporaryDirectory(prefix="rag-rerank-") as scratch:
        made = [example for one in sets.values() for example in examples(one.chunks, one.bm25, SEED)]
        random.Random(SEED).shuffle(made)
        result["cross_encoder"] = {"examples_made": len(made)} | train(made, Path(scratch), options.steps, 4, SEED)
        print(result["cross_encoder"], flush=True)
        reranker = component("reranker", "cross-encoder")(scratch, device="cpu", max_length_tokens=192)
        for name, one in sets.items():
            keep(name, {"cross-encoder trained here": one.measured(reranker, K, options.queries)})


if __name__ == "__main__":
    main()
