"""Learned sparse retrieval: milliseconds per query, recall, build, disk and update of the impact index against pyseismic-lsr and a scipy
product; exact early termination against scoring every posting; nDCG@10 of UHD codes beside BM25 and dense vectors.

    python bench/learned_sparse.py --chunks 100000

No trained SPLADE model can be had offline, so speed is measured on made-up vectors with the statistics that "statistics" in the result
states: chunks of one document stand together and share four of 2000 topics; a chunk has some heavy terms of its own and more light ones
of its topics, as SPLADE expands; a query has ten heavy terms of one chunk and light ones of the same topics. Engines take turns query
by query on one thread; a query's time is the median of its rounds, from weighted terms to hits. Recall is the share of the exact
float32 top 10 that is found. pyseismic-lsr takes part where it is installed, with the settings of its own that are named. UHD codes are
measured on real questions with judged documents.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import machine, write_result
from bench.sparse import BEIR, bytes_below, lines, milliseconds, ndcg_at_10, shown, timed
from rag.core import Chunk, Index, Span, SparseVectors
from rag.retrievers.bm25 import BM25Index
from rag.retrievers.dense import FaissIndex
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.impact import ImpactIndex, ImpactReader
from rag.retrievers.impact_segment import Store
from rag.retrievers.sparse_uhd import UhdEncoder

K = 10
NUM_TERMS = 30_522
CHUNKS_PER_DOCUMENT = 25
PACKAGES = ("pyseismic-lsr", "scipy")

Row = tuple[NDArray[np.int32], NDArray[np.float32]]


class SpladeLike:
    """Draws documents and queries; the numbers in here are what brings the statistics near those reported for SPLADE."""

    def __init__(self, num_chunks: int, seed: int = 0, num_topics: int = 2000) -> None:
        self.random = np.random.default_rng(seed)
        popularity = self.random.permutation(1 / np.arange(1, NUM_TERMS + 1) ** 0.6)
        self.chance = np.cumsum(popularity / popularity.sum())
        self.topics = self.drawn(num_topics * 400).reshape(num_topics, 400)
        self.topics_of = self.random.integers(0, num_topics, (-(-num_chunks // CHUNKS_PER_DOCUMENT), 4))
        self.documents = [self.vector(number // CHUNKS_PER_DOCUMENT, self.own(number), 95) for number in range(num_chunks)]

    def drawn(self, count: int) -> NDArray[np.int64]:
        return np.searchsorted(self.chance, self.random.random(count)).clip(0, NUM_TERMS - 1)

    def of_topics(self, document: int, count: int) -> NDArray[np.int64]:
        places = (400 * self.random.random(count) ** 2).astype(int)
        found: NDArray[np.int64] = self.topics[self.topics_of[document][self.random.integers(0, 4, count)], places]
        return found

    def own(self, chunk: int) -> NDArray[np.int64]:
        return np.concatenate([self.of_topics(chunk // CHUNKS_PER_DOCUMENT, 27), self.drawn(18)])

    def vector(self, document: int, own: NDArray[np.int64], num_expansions: int) -> Row:
        ids = np.concatenate([own, self.of_topics(document, num_expansions)])
        heavy = np.clip(self.random.lognormal(0.2, 0.45, len(own)), 0.1, 3.2)
        light = np.clip(self.random.lognormal(-1.2, 0.8, num_expansions), 0.02, 2.0)
        weights = np.concatenate([heavy, light])
        order = np.argsort(-weights, kind="stable")  # of a term that was drawn twice the heavier counts
        ids, first = np.unique(ids[order], return_index=True)
        return ids.astype(np.int32), weights[order][first].astype(np.float32)

    def query(self) -> Row:
        chunk = int(self.random.integers(len(self.documents)))
        ids, weights = self.documents[chunk]
        own = self.random.choice(ids[np.argsort(-weights)[:45]], 10, replace=False)
        return self.vector(chunk // CHUNKS_PER_DOCUMENT, own.astype(np.int64), 40)


def vectors_of(rows: Sequence[Row]) -> SparseVectors:
    starts = np.cumsum([0, *(len(ids) for ids, _ in rows)], dtype=np.int64)
    return SparseVectors(starts, np.concatenate([ids for ids, _ in rows]), np.concatenate([weights for _, weights in rows]))


class Told:
    """An encoder that was told the vectors of its texts, which are row numbers."""

    num_terms = NUM_TERMS
    binary = False
    fingerprint = "told"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        return vectors_of([self.rows[int(text)] for text in texts])

    encode_queries = encode_documents


def chunks(first: int, count: int) -> list[Chunk]:
    return [Chunk(str(number), "d", Span(0, 1), str(number)) for number in range(first, first + count)]


class Seismic:
    """pyseismic-lsr: clustered posting lists, approximate; its terms are strings."""

    def __init__(self, rows: Sequence[Row]) -> None:
        import seismic

        self.word = seismic.get_seismic_string()
        held = seismic.SeismicDataset()
        for number, (ids, weights) in enumerate(rows):
            held.add_document(str(number), ids.astype(self.word), weights)
        self.index = seismic.SeismicIndex.build_from_dataset(held, num_threads=1)

    def searching(self, queries: Sequence[Row], cut: int, factor: float) -> Callable[[str], list[int]]:
        words = [(ids.astype(self.word), weights) for ids, weights in queries]
        return lambda query: [int(hit[2]) for hit in self.index.search(query, *words[int(query)], K, cut, factor)]

    def searching_all(self, queries: Sequence[Row], cut: int, factor: float) -> Callable[[], Any]:
        names = np.array([str(number) for number in range(len(queries))]).astype(self.word)
        words, weights = [ids.astype(self.word) for ids, _ in queries], [weights for _, weights in queries]
        return lambda: self.index.batch_search(names, words, weights, K, cut, factor, num_threads=2)


def speed(num_chunks: int, num_queries: int, rounds: int, scratch: Path) -> dict[str, Any]:
    import scipy.sparse as sp

    made = SpladeLike(num_chunks + 100)
    rows, queries = made.documents, [made.query() for _ in range(num_queries)]
    lists = sp.csr_matrix((vectors_of(rows[:num_chunks])[2], vectors_of(rows[:num_chunks])[1], vectors_of(rows[:num_chunks])[0]),
                          shape=(num_chunks, NUM_TERMS)).tocsc()  # fmt: skip
    lists.sort_indices()
    holding = np.diff(lists.indptr)
    postings = [int(holding[ids].sum()) for ids, _ in queries]
    result: dict[str, Any] = {
        "chunks": num_chunks,
        "statistics": {
            "terms per chunk": round(lists.nnz / num_chunks, 1),
            "terms per query": round(statistics.mean(len(ids) for ids, _ in queries), 1),
            "chunk weight, mean and largest": [round(float(lists.data.mean()), 3), round(float(lists.data.max()), 3)],
            "chunks of the commonest term": int(holding.max()),
            "postings per query, mean and p95": [round(statistics.mean(postings)), round(float(np.percentile(postings, 95)))],
            "mean shared terms of a query and a chunk": round(statistics.mean(postings) / num_chunks, 3),
        },
    }

    encoder = Told(rows)
    stores: tuple[Store, ...] = ("uint8", "float32")
    indexes = {store: ImpactIndex(encoder, store, engine="numba", num_threads=1) for store in stores}
    reference = ImpactIndex(encoder, "uint8", engine="numpy")
    live = np.ones(num_chunks + 100, np.bool_)
    built = {
        store: timed(lambda store=store: indexes[store].build(np.arange(num_chunks), chunks(0, num_chunks))) for store in stores
    }  # type: ignore[misc]
    peer: Seismic | None = None
    if find_spec("seismic") is not None:
        seismic_seconds, peer = timed(lambda: Seismic(rows[:num_chunks]))
    result["build_seconds"] = {
        **{f"rag {store} (vectors to segment)": round(seconds, 2) for store, (seconds, _) in built.items()},
    }
    if peer is not None:
        result["build_seconds"]["pyseismic (vectors to index)"] = round(seismic_seconds, 2)
    loaded, disk = {}, {}
    for store, (_, segment) in built.items():
        (scratch / store).mkdir()
        segment.save(scratch / store)
        loaded[store] = indexes[store].load(scratch / store)
        disk[f"rag {store}"] = bytes_below(scratch / store)
    if peer is not None:
        (scratch / "seismic").mkdir()
        peer.index.save(str(scratch / "seismic" / "index"))
        disk["pyseismic"] = bytes_below(scratch / "seismic")
    result["disk_bytes"] = disk

    def update() -> ImpactReader:
        extra = indexes["uint8"].build(np.arange(num_chunks, num_chunks + 100), chunks(num_chunks, 100))
        (scratch / "extra").mkdir()
        extra.save(scratch / "extra")
        return indexes["uint8"].reader([loaded["uint8"], indexes["uint8"].load(scratch / "extra")], live)

    fewer = live.copy()
    fewer[:: num_chunks // 100] = False
    result["update_seconds"] = {
        "rag adds 100 chunks (vectors to files to reader)": round(timed(update)[0], 4),
        "rag deletes 100 chunks (new reader)": round(timed(lambda: indexes["uint8"].reader([loaded["uint8"]], fewer))[0], 4),
    }
    if peer is not None:
        result["update_seconds"]["pyseismic adds 100 chunks (it builds all again)"] = round(seismic_seconds, 2)

    readers = {store: indexes[store].reader([loaded[store]], live[:num_chunks]) for store in stores}
    slow = reference.reader([built["uint8"][1]], live[:num_chunks])
    vectors = {str(number): vectors_of([row]) for number, row in enumerate(queries)}
    by_rows = lists.T.tocsr()
    told = [sp.csr_matrix((weights, ids, [0, len(ids)]), shape=(1, NUM_TERMS)) for ids, weights in queries]

    def product(query: str) -> NDArray[np.int64]:
        scores = (told[int(query)] @ by_rows).toarray()[0]
        best = np.argpartition(-scores, K)[:K]
        found: NDArray[np.int64] = best[np.argsort(-scores[best])]
        return found

    searches: dict[str, Callable[[str], Any]] = {
        "rag uint8": lambda query: readers["uint8"].search_vectors(vectors[query], K)[0].keys,
        "rag float32": lambda query: readers["float32"].search_vectors(vectors[query], K)[0].keys,
        "rag uint8 (numpy reference)": lambda query: slow.search_vectors(vectors[query], K)[0].keys,
        "scipy product and top k": product,
    }
    if peer is not None:
        for cut, factor in ((10, 0.9), (20, 0.7), (50, 0.5)):
            searches[f"pyseismic query_cut {cut} heap_factor {factor}"] = peer.searching(queries, cut, factor)
    names = list(vectors)
    result["query_milliseconds, 1 thread"] = milliseconds(rounds, names, lambda: searches)
    exact = {query: set(searches["rag float32"](query).tolist()) for query in names}
    result["recall_at_10"] = {
        name: round(statistics.mean(len(exact[query] & {int(key) for key in search(query)}) / K for query in names), 4)
        for name, search in searches.items()
    }
    batch = vectors_of(queries)
    parallel = ImpactIndex(encoder, "uint8", engine="numba", num_threads=2).reader([loaded["uint8"]], live[:num_chunks])
    batches: dict[str, Callable[[], Any]] = {"rag uint8": lambda: parallel.search_vectors(batch, K)}
    if peer is not None:
        batches["pyseismic query_cut 20 heap_factor 0.7"] = peer.searching_all(queries, 20, 0.7)
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(rounds):
        for name, run in batches.items():
            seconds[name].append(timed(run)[0])
    result["batch_queries_per_second, 2 threads"] = {
        name: round(len(queries) / statistics.median(each)) for name, each in seconds.items()
    }
    result["early_termination, 1 thread, float32"] = early_termination(lists, queries, readers["float32"], rounds)
    return result


def early_termination(lists: Any, queries: Sequence[Row], reader: ImpactReader, rounds: int) -> dict[str, Any]:
    """Milliseconds of exact pruning, checked for the same scores, and the share of the work that was left."""
    from bench import pruned

    own = pruned.Lists(lists.indptr.astype(np.int64), lists.indices, lists.data.astype(np.float32), lists.shape[0])
    vectors = {str(number): vectors_of([row]) for number, row in enumerate(queries)}
    full = np.diff(own.starts) > 0
    largest = np.zeros(NUM_TERMS, np.float32)
    largest[full] = np.maximum.reduceat(own.weights, own.starts[:-1][full])
    searches: dict[str, Callable[[str], Any]] = {"every posting": lambda query: reader.search_vectors(vectors[query], K)[0]}
    for size in (8, 16, 64):
        blocks = pruned.block_max_of(own, size)
        searches[f"block-max, {size} chunks a block"] = lambda query, blocks=blocks: pruned.block_max(  # type: ignore[misc]
            own.ordinals, own.weights, own.num_chunks, *blocks, *queries[int(query)], K
        )
    searches["max-score"] = lambda query: pruned.max_score(
        own.starts, own.ordinals, own.weights, own.num_chunks, largest, *queries[int(query)], K
    )
    found: dict[str, Any] = milliseconds(rounds, list(vectors), lambda: searches)
    for name, search in searches.items():
        if name == "every posting":
            continue
        left = []
        for query, vector in vectors.items():
            _, scores, share = search(query)
            exact = reader.search_vectors(vector, K)[0].scores
            np.testing.assert_allclose(scores[: len(exact)], exact, rtol=1e-5)
            left.append(share)
        found[name][f"share of {'postings' if name == 'max-score' else 'blocks'} scored"] = round(statistics.mean(left), 4)
    return found


def quality(folders: Mapping[str, Path]) -> dict[str, Any]:
    """nDCG@10 of the same questions by four indexes."""
    encoder = SentenceTransformersEncoder()
    codes = UhdEncoder(encoder)
    found: dict[str, Any] = {}
    for name, folder in folders.items():
        remembered = Remembering(codes)
        ways: dict[str, Index] = {
            "bm25": BM25Index(),
            "dense (one vector per text, cut at the encoder's limit)": FaissIndex(encoder),
            "uhd": ImpactIndex(remembered),
            "uhd without idf": ImpactIndex(remembered, idf=False),
            "uhd without idf and length": ImpactIndex(Remembering(remembered, flat=True), idf=False),
        }
        started = time.perf_counter()
        found[name] = {way: ndcg_at_10(folder, index) for way, index in ways.items()}
        found[name]["uhd terms per text"] = round(remembered.terms_per_text, 1)
        found[name]["seconds"] = round(time.perf_counter() - started, 1)
        found[name]["texts"] = len(lines(folder / "corpus.jsonl"))
        print(name, found[name], flush=True)
    return found


class Remembering:
    """A sparse encoder that encodes each batch once; ``flat``: all document weights are 1."""

    def __init__(self, inner: Any, *, flat: bool = False) -> None:
        self.inner = inner
        self.flat = flat
        self.num_terms, self.binary, self.fingerprint = inner.num_terms, inner.binary, inner.fingerprint
        self.known: dict[tuple[str, ...], SparseVectors] = {}
        self.terms_per_text = 0.0

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        if ("document", *texts) not in self.known:
            self.known["document", *texts] = self.inner.encode_documents(texts)
        found = self.known["document", *texts]
        self.terms_per_text = float(np.diff(found.starts).mean())
        return found._replace(weights=np.ones_like(found.weights)) if self.flat else found

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors:
        if ("query", *texts) not in self.known:
            self.known["query", *texts] = self.inner.encode_queries(texts)
        return self.known["query", *texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder that holds the sets")
    parser.add_argument("--parts", nargs="+", choices=["speed", "quality"], default=["speed", "quality"])
    arguments = parser.parse_args()
    result: dict[str, Any] = {"command": " ".join(["python", "bench/learned_sparse.py", *shown(sys.argv[1:])]), "k": K}
    if "speed" in arguments.parts:
        scratch = Path(tempfile.mkdtemp(prefix="learned-sparse-"))
        try:
            measured = speed(arguments.chunks, arguments.queries, arguments.rounds, scratch)
        finally:
            shutil.rmtree(scratch)
        result[f"speed_{arguments.chunks}"] = measured | {"date": datetime.date.today().isoformat(), "cpu": machine()["cpu"]}
        print(json.dumps(measured, indent=1), flush=True)
    folders = {name: arguments.data / folder for name, folder in BEIR.items() if (arguments.data / folder).exists()}
    if "quality" in arguments.parts and not folders:
        print(f"quality is skipped: no data at {arguments.data}")
    elif "quality" in arguments.parts:
        result["ndcg_at_10"] = quality(folders)
    earlier = Path(__file__).parent / "results" / "learned_sparse.json"
    if earlier.exists():  # what was not measured now stays as it was, with its own date
        kept = json.loads(earlier.read_text(encoding="utf-8"))
        result = {part: kept[part] for part in kept if part.startswith(("speed", "ndcg"))} | result
    print(write_result("learned_sparse", result, PACKAGES))


if __name__ == "__main__":
    main()
