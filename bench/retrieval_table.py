"""What finds best with the embedded encoder: one vector per chunk, BM25, one vector per token, and ways to fuse them.

    python bench/retrieval_table.py --data ../shared/data

Two sets in the BEIR layout, cut by the default chunker; every text is encoded once per encoder. Intervals are 95 % bootstrap over queries,
differences to the default pipeline are paired. Milliseconds are processor time of one thread, question vectors known, the median over
questions. ``plain``: exact MaxSim over float16 vectors (``dim`` does not apply there); every other
multi-vector index is coded. ``centred``: the mean token vector of the set is taken away from all of them, before they are made unit vectors again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.fusion import name_of, rounded
from bench.pooling import ReadOnce
from bench.record import write_result
from bench.sparse import bytes_below
from rag import config
from rag.core import Chunk, Hit, Index, Interaction, Reader
from rag.eval.beir import BeirSet, document_of, read_beir
from rag.eval.bootstrap import difference, interval
from rag.eval.metrics import per_query
from rag.eval.run import ranked_documents
from rag.registry import component
from rag.retrievers.bm25 import BM25Index
from rag.retrievers.dense import FaissIndex
from rag.retrievers.token_vectors import TokenVectorsEncoder
from rag.retrievers.warp.index import WarpIndex

SETS = ("anthropic_cookbook_retrieval/docs/derived_beir", "mtrag_un_reference/derived_beir")
MEASURES = ("nDCG@10", "recall@10", "recall@100")
K = 100
PLAIN: dict[str, Any] = {"exact_below": 1 << 40}
DEFAULT = "convex: dense, bm25"
FUSIONS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    DEFAULT: ("convex", {}, ("dense", "bm25")),
    "convex, minmax: dense, bm25": ("convex", {"normalise": "minmax"}, ("dense", "bm25")),
    "convex: bm25, warp dim 128": ("convex", {}, ("bm25", "warp dim 128")),
    "convex: bm25, warp": ("convex", {}, ("bm25", "warp")),
    "convex: bm25, warp plain": ("convex", {}, ("bm25", "warp plain")),
    "convex: dense, warp": ("convex", {}, ("dense", "warp")),
    "convex: dense, bm25, warp dim 128": ("convex", {}, ("dense", "bm25", "warp dim 128")),
    "convex: dense, bm25, warp": ("convex", {}, ("dense", "bm25", "warp")),
    "convex, minmax: dense, bm25, warp": ("convex", {"normalise": "minmax"}, ("dense", "bm25", "warp")),
    "convex: dense, bm25, warp plain": ("convex", {}, ("dense", "bm25", "warp plain")),
    "convex: dense, bm25, warp plain centred": ("convex", {}, ("dense", "bm25", "warp plain centred")),
    "rrf: dense, bm25": ("rrf", {}, ("dense", "bm25")),
    "rrf: dense, bm25, warp dim 128": ("rrf", {}, ("dense", "bm25", "warp dim 128")),
    "rrf: dense, bm25, warp": ("rrf", {}, ("dense", "bm25", "warp")),
    "gqr: dense, bm25": ("gqr", {"primary": "dense", "complement": "bm25"}, ("dense", "bm25")),
    "gqr: warp dim 128, bm25": ("gqr", {"primary": "warp dim 128", "complement": "bm25"}, ("warp dim 128", "bm25")),
    "gqr: warp, bm25": ("gqr", {"primary": "warp", "complement": "bm25"}, ("warp", "bm25")),
}


class Once:
    """A token encoder that reads every text once; ``mean``: what is taken away from all vectors."""

    def __init__(self, inner: TokenVectorsEncoder, mean: NDArray[np.float32] | None = None) -> None:
        self.inner, self.dim, self.mean = inner, inner.dim, mean
        self.fingerprint = f"{inner.fingerprint} {mean is not None}"
        self._known: dict[tuple[str, str], NDArray[np.float32]] = {}

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return self._of("document", texts, self.inner.encode_documents)

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return self._of("query", texts, self.inner.encode_queries)

    def centred(self, texts: Sequence[str]) -> Once:
        """The same vectors, moved so that those of ``texts`` have the mean 0."""
        other = Once(self.inner, np.concatenate(self.encode_documents(texts)).mean(0))
        other._known = {key: _moved(vectors, other.mean) for key, vectors in self._known.items()}
        return other

    def _of(
        self, task: str, texts: Sequence[str], read: Callable[[Sequence[str]], list[NDArray[np.float32]]]
    ) -> list[NDArray[np.float32]]:
        new = [text for text in dict.fromkeys(texts) if (task, text) not in self._known]
        for text, vectors in zip(new, read(new) if new else [], strict=True):
            self._known[task, text] = _moved(vectors, self.mean)
        return [self._known[task, text] for text in texts]


def _moved(vectors: NDArray[np.float32], mean: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if mean is None:
        return vectors
    apart: NDArray[np.float32] = vectors - mean
    return apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), np.float32(1e-12))


class Set:
    """One collection: its chunks, its judged queries and an index of each kind, all over the same chunks."""

    def __init__(self, beir: BeirSet, scratch: Path) -> None:
        started = time.process_time()
        assembly = config.Assembly(config.load(None))
        chunker = assembly.build("chunker", "chunker", assembly.config.chunker)
        documents = {document.id: (record.id, document) for record in beir.corpus if (document := document_of(record)) is not None}
        self.names = {identity: name for identity, (name, _) in documents.items()}
        self.chunks: list[Chunk] = [chunk for _, document in documents.values() for chunk in chunker.chunk(document)]
        self.key_of = {chunk.id: key for key, chunk in enumerate(self.chunks)}
        self.queries, self.qrels = {query: beir.queries[query] for query in beir.qrels}, beir.qrels
        encoder = assembly.model("encoder")
        blocks = ReadOnce(encoder)
        tokens, all_tokens = Once(TokenVectorsEncoder(blocks)), Once(TokenVectorsEncoder(blocks, "nothing"))
        texts, asked = [chunk.indexed_text for chunk in self.chunks], list(self.queries.values())
        for reading in (Once.encode_documents, Once.encode_queries):  # both from the same blocks, task by task
            for each in (tokens, all_tokens):
                reading(each, texts if reading is Once.encode_documents else asked)
        self.num_tokens = sum(map(len, tokens.encode_documents(texts)))
        self.encode_seconds = round(time.process_time() - started, 1)
        warp = partial(WarpIndex, num_threads=1, num_cached_queries=len(asked))
        indexes: dict[str, Index] = {
            "dense": FaissIndex(encoder, num_cached_queries=len(asked)),
            "bm25": BM25Index(num_threads=1),
            "warp dim 128": warp(tokens, dim=128),
            "warp": warp(tokens),
            "warp pool 2": warp(tokens, pool_factor=2, num_protected=0),
            "warp plain": warp(tokens, **PLAIN),
            "warp plain pool 2": warp(tokens, pool_factor=2, num_protected=0, **PLAIN),
            "warp plain, punctuation kept": warp(all_tokens, **PLAIN),
            "warp plain centred": warp(tokens.centred(texts), **PLAIN),
        }
        self.readers: dict[str, Reader] = {}
        self.bytes_per_chunk: dict[str, int] = {}
        live = np.ones(len(self.chunks), np.bool_)
        for name, index in indexes.items():
            (folder := scratch / name).mkdir(parents=True)
            index.build(np.arange(len(self.chunks)), self.chunks).save(folder)
            self.bytes_per_chunk[name] = round(bytes_below(folder) / len(self.chunks))
            self.readers[name] = index.reader([index.load(folder)], live)
            self.readers[name].search(asked if name == "dense" else asked[:2], 1)  # vectors known, loops compiled

    def search(self, name: str) -> tuple[dict[str, list[Hit]], float]:
        """Query id -> hits; median milliseconds of processor time."""
        found: dict[str, list[Hit]] = {}
        spent = []
        for query, text in self.queries.items():
            started = time.process_time()
            (matches,) = self.readers[name].search([text], K)
            spent.append(1000 * (time.process_time() - started))
            pairs = enumerate(zip(matches.keys.tolist(), matches.scores.tolist(), strict=True), start=1)
            found[query] = [Hit(self.chunks[key], score).placed(name, score, rank) for rank, (key, score) in pairs]
        return found, statistics.median(spent)

    def vectors(self, query: str, name: str, hits: Sequence[Hit]) -> Interaction:
        """What a fusion may see of an index."""
        keys = np.array([self.key_of[hit.chunk.id] for hit in hits], np.int64)
        return self.readers[name].vectors([self.queries[query]], [keys])[0]

    def values(self, found: Mapping[str, Sequence[Hit]]) -> dict[str, list[float]]:
        """Measure -> a value per query."""
        run = {query: [self.names[each] for each in ranked_documents(hits, K)] for query, hits in found.items()}
        return {each: list(values.values()) for each, values in per_query(run, self.qrels, MEASURES).items()}


def measure(folder: Path, scratch: Path) -> dict[str, Any]:
    """Every ranking of one set: its intervals, its cost, its paired difference to the default."""
    one = Set(read_beir(folder, "test"), scratch)
    print(f"{name_of(folder)}: {len(one.chunks)} chunks, {one.num_tokens} token vectors, {len(one.queries)} questions", flush=True)
    found = {name: one.search(name) for name in one.readers}
    values = {name: one.values(hits) for name, (hits, _) in found.items()}
    milliseconds = {name: {"search": spent} for name, (_, spent) in found.items()}
    for name, (word, options, parts) in FUSIONS.items():
        fusion = component("fusion", word)(**options)
        fused, spent = {}, []
        for query in one.queries:
            started = time.process_time()
            fused[query] = fusion.fuse({part: found[part][0][query] for part in parts}, partial(one.vectors, query))
            spent.append(1000 * (time.process_time() - started))
        values[name] = one.values(fused)
        milliseconds[name] = {"search": sum(found[part][1] for part in parts), "fuse": statistics.median(spent)}
    rows: dict[str, Any] = {}
    for name, own in values.items():
        row: dict[str, Any] = {each: rounded(interval(own[each]), "mean", "low", "high") for each in MEASURES}
        row["cpu_milliseconds_per_query"] = {part: round(spent, 2) for part, spent in milliseconds[name].items()}
        if name in one.readers:
            row["bytes_per_chunk"] = one.bytes_per_chunk[name]
            both = zip(own["recall@10"], values["dense"]["recall@10"], values["bm25"]["recall@10"], strict=True)
            row["queries_answered_in_10_only_here_not_by_dense_or_bm25"] = sum(
                here > 0 and not max(others) for here, *others in both
            )
        drawn = {each: difference(own[each], values[DEFAULT][each]) for each in MEASURES if name != DEFAULT}
        row["against_the_default"] = {
            each: rounded(apart, "mean", "low", "high", "p")
            | {"verdict": "inside the noise" if apart.inside_noise else "better" if apart.mean > 0 else "worse"}
            for each, apart in drawn.items()
        }
        rows[name] = row
        print(f"{name:<40} {row['nDCG@10']['mean']:.4f} {row['cpu_milliseconds_per_query']} {drawn.get('nDCG@10', '')}", flush=True)
    counts = {"documents": len(one.names), "chunks": len(one.chunks), "token_vectors": one.num_tokens, "queries": len(one.queries)}
    return {**counts, "encode_cpu_seconds": one.encode_seconds, "rankings": rows}


def default_of(sets: Mapping[str, Any]) -> dict[str, Any]:
    """The rule for the default, and what it says: a change needs a better nDCG@10 on every set, each outside the noise."""
    better = [
        name
        for name in FUSIONS
        if name != DEFAULT
        and all(one["rankings"][name]["against_the_default"]["nDCG@10"]["verdict"] == "better" for one in sets.values())
    ]
    return {"default": " or ".join(better) or DEFAULT, "better_on_every_set": better, "compared": len(FUSIONS) - 1}


def main() -> None:
    """Prints and records everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder that holds the sets")
    options = parser.parse_args()
    sets: dict[str, Any] = {}
    for place in SETS:
        with TemporaryDirectory(prefix="rag-retrieval-table-") as scratch:
            sets[name_of(options.data / place)] = measure(options.data / place, Path(scratch))
        result = {
            "command": "python bench/retrieval_table.py --data DATA",
            "load_average": os.getloadavg(),
            "sets_missing": len(SETS) - len(sets),  # written after every set: a run that is cut short keeps what it has
            "follows": default_of(sets),
        }
        print(result["follows"], flush=True)
        write_result(
            "retrieval_table", {**result, "fusions": FUSIONS, "sets": sets}, packages=("ir-measures", "pytrec_eval-terrier")
        )


if __name__ == "__main__":
    main()
