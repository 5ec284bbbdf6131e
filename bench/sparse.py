"""BM25: milliseconds per query, build, disk and update against bm25s, rank-bm25 and tantivy; nDCG@10 of the settings.

    python bench/sparse.py --chunks 10000 100000

All hold the same terms, those of our analyser; tantivy takes part where it is installed, with one writing thread. Chunks are 100 words of the real texts below shared/data; where those run
out, further ones are mixed from their words (a third a run of one text, the rest drawn by frequency). Queries are real questions.
Engines take turns query by query; a query's time is the median of its rounds. Every round opens a new reader of ours, so terms
that it would remember are looked up again.
"""

from __future__ import annotations

import argparse
import json
import math
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

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.core import Chunk, Index, Span
from rag.retrievers.analyse import Analyser
from rag.retrievers.bm25 import BM25Index, BM25Reader

BEIR = {
    "anthropic_cookbook": "anthropic_cookbook_retrieval/docs/derived_beir",
    "mtrag_un": "mtrag_un_reference/derived_beir",
    "pubmedqa": "pubmedqa_pqal/derived_beir",
}
K = 10
QUERIES_PER_SET = 100
RANK_BM25_QUERIES = 20


def lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:  # str.splitlines would also cut at U+2028
        return [json.loads(line) for line in file]


def texts(count: int, data: Path) -> tuple[list[str], int]:
    """``count`` texts of about 100 words, and how many of them are real."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((data / "chunking_evaluation/corpora").glob("*.md"))]
    sources += [each["text"] for folder in BEIR.values() for each in lines(data / folder / "corpus.jsonl")]
    random = np.random.default_rng(0)
    pieces = [words[start : start + 100] for words in map(str.split, sources) for start in range(0, len(words), 100)]
    pieces = [pieces[place] for place in random.permutation(len(pieces))]
    words = np.array([word for piece in pieces for word in piece], dtype=object)
    num_real = min(count, len(pieces))
    found = [" ".join(piece) for piece in pieces[:count]]
    while len(found) < count:
        length = int(random.integers(60, 140))
        start = int(random.integers(0, len(words) - 150))
        topic = words[start + random.integers(0, 150, length // 3)]
        found.append(" ".join([*topic, *words[random.integers(0, len(words), length - length // 3)]]))
    return found, num_real


def chunks(contents: list[str]) -> list[Chunk]:
    return [Chunk(str(number), "d", Span(0, len(text)), text) for number, text in enumerate(contents)]


class Told(Analyser):
    """An analyser that was told the terms of each query before."""

    def __init__(self, terms_of: Mapping[str, list[str]]) -> None:
        super().__init__()
        self._terms_of = terms_of

    def query_terms(self, text: str) -> list[str]:
        return self._terms_of[text]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def milliseconds(rounds: int, queries: list[str], engines: Callable[[], Mapping[str, Callable[[str], Any]]]) -> dict[str, Any]:
    """p50 and p95 over the queries; ``engines`` makes each round's searchers."""
    seconds: dict[str, list[list[float]]] = {}
    for number in range(rounds + 1):  # the first warms up
        searchers = list(engines().items())
        for place, query in enumerate(queries):
            for name, search in searchers if (number + place) % 2 else reversed(searchers):
                taken = timed(lambda search=search, query=query: search(query))[0]  # type: ignore[misc]
                if number:
                    seconds.setdefault(name, [[] for _ in queries])[place].append(taken)
    medians = {name: [1000 * statistics.median(each) for each in rows] for name, rows in seconds.items()}
    return {
        name: {"p50": round(float(np.median(row)), 4), "p95": round(float(np.percentile(row, 95)), 4)}
        for name, row in medians.items()
    }


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Tantivy:
    """tantivy, given our terms with blanks between them; it keeps a chunk's length in one byte, so its scores are near ours."""

    def __init__(self, terms: list[list[str]], folder: Path) -> None:
        import tantivy

        self.module = tantivy
        builder = tantivy.SchemaBuilder()
        builder.add_integer_field("key", stored=True)
        builder.add_text_field("body", stored=False, tokenizer_name="blanks", index_option="freq")
        self.schema = builder.build()
        folder.mkdir()
        self.index = tantivy.Index(self.schema, path=str(folder))
        self.index.register_tokenizer("blanks", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
        self.add(terms, 0)

    def add(self, terms: list[list[str]], first_key: int) -> None:
        writer = self.index.writer(200_000_000, num_threads=1)
        for number, each in enumerate(terms, start=first_key):
            writer.add_document(self.module.Document(key=number, body=" ".join(each)))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()

    def search(self, terms: list[str]) -> list[int]:
        query, should = self.module.Query, self.module.Occur.Should
        whole = query.boolean_query([(should, query.term_query(self.schema, "body", term, "freq")) for term in terms])
        return [int(self.searcher.doc(place)["key"][0]) for _, place in self.searcher.search(whole, K, count=False).hits]


def measure(count: int, rounds: int, queries: list[str], scratch: Path, data: Path) -> dict[str, Any]:
    import bm25s
    import Stemmer
    from rank_bm25 import BM25Okapi

    contents, num_real = texts(count + 100, data)
    contents, added = contents[:count], contents[count:]
    result: dict[str, Any] = {
        "chunks": count,
        "real_chunks": min(num_real, count),
        "megabytes": round(sum(map(len, contents)) / 1e6, 1),
    }

    index, numpy_index = BM25Index(engine="numba"), BM25Index(engine="numpy")
    terms = [index.analyser.terms(text) for text in contents]
    stemmer = Stemmer.Stemmer("english")

    def peer() -> Any:
        searcher = bm25s.BM25(method="lucene", k1=index.k1, b=index.b, backend="numba")
        searcher.index(terms, show_progress=False)
        return searcher

    def peer_tokens(text: list[str] | str) -> Any:
        return bm25s.tokenize(text, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)

    fresh = Analyser()
    analysis_seconds = timed(lambda: [fresh.terms(text) for text in contents])[0]
    build_seconds, segment = timed(lambda: index.build(np.arange(count), chunks(contents)))
    peer_analysis_seconds = timed(lambda: peer_tokens(contents))[0]
    peer_seconds, peer_index = timed(peer)
    rank_seconds, rank_index = timed(lambda: BM25Okapi(terms, k1=index.k1, b=index.b))
    result["build_seconds"] = {
        "rag (text to segment)": round(build_seconds, 2),
        "rag, of it words and terms": round(analysis_seconds, 2),
        "bm25s (its tokenizer, text to tokens)": round(peer_analysis_seconds, 2),
        "bm25s (tokens to index)": round(peer_seconds, 2),
        "rank-bm25 (tokens to index)": round(rank_seconds, 2),
    }
    tantivy: Tantivy | None = None
    if find_spec("tantivy") is not None:
        tantivy_seconds, tantivy = timed(lambda: Tantivy(terms, scratch / "tantivy"))
        result["build_seconds"]["tantivy (tokens to index)"] = round(tantivy_seconds, 2)
    for name, save in {"rag": segment.save, "bm25s": lambda folder: peer_index.save(folder, show_progress=False)}.items():
        (scratch / name).mkdir()
        save(scratch / name)
    result["disk_bytes"] = {name: bytes_below(scratch / name) for name in ("rag", "bm25s", "tantivy") if (scratch / name).exists()}

    live = np.ones(count + 100, np.bool_)
    loaded = index.load(scratch / "rag")

    def update() -> BM25Reader:
        extra = index.build(np.arange(count, count + 100), chunks(added))
        (scratch / "update").mkdir()
        extra.save(scratch / "update")
        return index.reader([loaded, index.load(scratch / "update")], live)

    def delete() -> BM25Reader:
        fewer = live.copy()
        fewer[:: count // 100] = False
        return index.reader([loaded], fewer)

    result["update_seconds"] = {
        "rag adds 100 chunks (text to files to reader)": round(timed(update)[0], 4),
        "rag deletes 100 chunks (new reader)": round(timed(delete)[0], 4),
        "bm25s adds 100 chunks (it indexes all tokens again)": round(peer_seconds, 4),
    }
    if tantivy is not None:
        extra_terms = [index.analyser.terms(text) for text in added]
        seconds = timed(lambda: tantivy.add(extra_terms, count))[0]
        result["update_seconds"]["tantivy adds 100 chunks (tokens to commit to searcher)"] = round(seconds, 4)

    told = {query: index.analyser.query_terms(query) for query in queries}
    live = live[:count]

    def ours(of: BM25Index, analyser: Analyser) -> Callable[[str], Any]:
        reader = BM25Reader([loaded], live, of.k1, of.b, analyser, of._chooser, 1)
        return lambda query: reader.search([query], K)

    def theirs(tokens: Callable[[str], list[list[str]]]) -> Callable[[str], Any]:
        return lambda query: peer_index.retrieve(tokens(query), k=K, show_progress=False, n_threads=1)

    result["query_milliseconds"] = {
        "with tokenisation": milliseconds(
            rounds,
            queries,
            lambda: {
                "rag": ours(index, index.analyser),
                "rag (numpy reference)": ours(numpy_index, index.analyser),
                "bm25s": theirs(peer_tokens),
            },
        ),
        "tokens given": milliseconds(
            rounds,
            queries,
            lambda: {
                "rag": ours(index, Told(told)),
                "bm25s": theirs(lambda query: [told[query]]),
                **({} if tantivy is None else {"tantivy": lambda query: tantivy.search(told[query])}),
            },
        ),
        f"against rank-bm25, tokens given, {RANK_BM25_QUERIES} queries": milliseconds(
            1,
            queries[:: max(1, len(queries) // RANK_BM25_QUERIES)],
            lambda: {
                "rag": ours(index, Told(told)),
                "rank-bm25": lambda query: np.argsort(-rank_index.get_scores(told[query]))[:K],
            },
        ),
    }

    reader = index.reader([loaded], live)
    batch_seconds, peer_batch_seconds = [], []
    for _ in range(rounds):
        batch_seconds.append(timed(lambda: reader.search(queries, K))[0])
        peer_batch_seconds.append(timed(lambda: peer_index.retrieve(list(told.values()), k=K, show_progress=False, n_threads=2))[0])
    result["batch_queries_per_second"] = {
        "rag (text given)": round(len(queries) / statistics.median(batch_seconds)),
        "bm25s (tokens given, 2 threads)": round(len(queries) / statistics.median(peer_batch_seconds)),
    }

    if tantivy is not None:
        keys = [set(matches.keys.tolist()) for matches in reader.search(queries, K)]
        shared = [len(own & set(tantivy.search(told[query]))) / max(1, len(own)) for own, query in zip(keys, queries, strict=True)]
        result["share_of_our_top_10_in_tantivy's"] = round(statistics.mean(shared), 3)
    found = [matches.scores for matches in reader.search(queries, K)]
    expected = peer_index.retrieve(list(told.values()), k=K, show_progress=False, n_threads=1).scores * (index.k1 + 1)
    differences = [np.abs(one / other[: len(one)] - 1).max(initial=0) for one, other in zip(found, expected, strict=True)]
    result["largest_relative_difference_to_bm25s_scores"] = float(f"{max(differences):.1e}")
    return result


def ndcg_at_10(folder: Path, index: Index) -> float:
    corpus, queries = lines(folder / "corpus.jsonl"), {each["_id"]: each["text"] for each in lines(folder / "queries.jsonl")}
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, chunk, grade = line.split("\t")
        relevant.setdefault(query, {})[chunk] = int(grade)
    contents = [Chunk(each["_id"], each["_id"], Span(0, 1), each["text"], each.get("title") or "") for each in corpus]
    reader = index.reader([index.build(np.arange(len(corpus)), contents)], np.ones(len(corpus), np.bool_))
    values = []
    for matches, grades in zip(reader.search([queries[query] for query in relevant], 10), relevant.values(), strict=True):
        rows = [grades.get(corpus[key]["_id"], 0) for key in matches.keys], sorted(grades.values(), reverse=True)[:10]
        gain, ideal = (sum(each / math.log2(rank + 2) for rank, each in enumerate(row)) for row in rows)
        values.append(gain / ideal)
    return round(statistics.mean(values), 4)


def shown(arguments: Sequence[str]) -> list[str]:
    """Without the place of the data, which is another on every machine."""
    place = list(arguments).index("--data") if "--data" in arguments else len(arguments)
    return [*arguments[:place], *arguments[place + 2 :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that holds the sets")
    arguments = parser.parse_args()
    data = arguments.data
    if not data.exists():
        parser.exit(0, f"skipped: no data at {data}\n")

    settings = [(1.2, 0.75, True), (0.9, 0.4, True), (1.5, 0.75, True), (1.2, 0.75, False), (0.9, 0.4, False)]
    quality = [
        {"k1": k1, "b": b, "stop_words": stop_words}
        | {name: ndcg_at_10(data / folder, BM25Index(k1, b, stop_words=stop_words)) for name, folder in BEIR.items()}
        for k1, b, stop_words in settings
    ]
    queries = [each["text"] for folder in BEIR.values() for each in lines(data / folder / "queries.jsonl")[:QUERIES_PER_SET]]
    results = []
    for count in arguments.chunks:
        scratch = Path(tempfile.mkdtemp(prefix="sparse-"))
        try:
            results.append(measure(count, arguments.rounds, queries, scratch, data))
        finally:
            shutil.rmtree(scratch)
        print(json.dumps(results[-1], indent=1))
    result = {
        "command": " ".join(["python", "bench/sparse.py", *shown(sys.argv[1:])]),
        "k": K,
        "ndcg_at_10": quality,
        "speed": results,
    }
    print(write_result("sparse", result, ("PyStemmer", "rank-bm25", "bm25s", "tantivy")))


if __name__ == "__main__":
    main()
