"""Measures what a pipeline finds in a test collection. Knows the pipeline's public face; knows no chunker and no index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from rag.core import Document, Hit
from rag.eval.beir import BeirSet, document_of, read_beir
from rag.eval.bootstrap import NUM_RESAMPLES, difference, interval
from rag.eval.metrics import MEASURES, measurable, per_query
from rag.eval.report import BeirReport, Comparison, Ranking
from rag.pipeline import Rag

FUSED = "fused"
RERANKED = "reranked"


class Searched(Protocol):
    """What an evaluation needs of a pipeline; ``rag.pipeline.Rag`` has it."""

    def ingest_documents(self, documents: Iterable[Document]) -> Any:
        """Brings the documents into the index; those that are there already, unchanged, cost nothing."""
        ...

    def search_each(self, queries: Sequence[str], k: int) -> Sequence[Mapping[str, Sequence[Hit]]]:
        """Per query: index name -> its hits; ``fused`` if there are several; ``reranked`` if there are rerankers. Best first."""
        ...


def run_beir(
    folder: Path | str,
    *,
    index: Path | str | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    split: str = "test",
    k: int = 100,
    seed: int = 0,
) -> BeirReport:
    """Evaluates the configured pipeline on the collection in ``folder``. ``index``: where to keep what was ingested.

    Raises what ``read_beir``, ``Rag.open`` and ``evaluate_beir`` raise.
    """
    beir = read_beir(folder, split)
    with ExitStack() as stack:
        place = stack.enter_context(TemporaryDirectory(prefix="rag-eval-")) if index is None else index
        return evaluate_beir(stack.enter_context(Rag.open(place, config)), beir, k, seed=seed)


def ranked_documents(hits: Iterable[Hit], k: int) -> list[str]:
    """Document ids (``Chunk.doc_id``) by the highest score among each one's chunks; ties: the one found first. At most ``k``."""
    best: dict[str, float] = {}
    for hit in hits:
        best[hit.chunk.doc_id] = max(hit.score, best.get(hit.chunk.doc_id, hit.score))
    return sorted(best, key=lambda document: -best[document])[:k]


def evaluate_beir(
    rag: Searched,
    beir: BeirSet,
    k: int = 100,
    *,
    chunk_depth: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> BeirReport:
    """Ingests the corpus, searches every judged query, and measures each ranking by its first ``k`` documents.

    ``chunk_depth``: chunks to ask each index for. By default ``k``, as the pipeline itself would search; several chunks of
    one document take one place, so a ranking may then have fewer documents than ``k``. Compared are fused against the best
    single index (by the same measure on the same queries, which favours the single index), and reranked against what was
    reranked. Raises ``ValueError`` if nothing is judged, ``k`` is too small for every measure, or the pipeline's answer
    does not fit the queries.
    """
    measures = measurable(k)
    depth = k if chunk_depth is None else chunk_depth
    for name, value in (("chunk_depth", depth), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}; allowed: 1 or more")
    judged = list(beir.qrels)
    if not judged:
        raise ValueError(f"collection {beir.name!r} has no judgements in split {beir.split!r}")

    names, num_empty, ingest_seconds = _ingest(rag, beir)
    queries = [(query, beir.queries[query]) for query in judged]
    found, num_short, num_foreign, search_seconds = _search(rag, queries, names, k, depth, batch_size)
    rankings = {}
    for ranking in sorted(found, key=(FUSED, RERANKED).__contains__):  # the single indexes first
        values = per_query(found[ranking], beir.qrels, _deep_enough(ranking, found, measures))
        scores = {
            measure: interval(list(each.values()), seed=seed, num_resamples=num_resamples) for measure, each in values.items()
        }
        rankings[ranking] = Ranking(ranking, scores, values, found[ranking], num_short[ranking])
    in_corpus = set(names.values())
    return BeirReport(
        name=beir.name,
        split=beir.split,
        num_documents=len(names),
        num_empty_documents=num_empty,
        num_missing_documents=len({document for judgements in beir.qrels.values() for document in judgements} - in_corpus),
        num_queries=len(judged),
        unjudged_queries=beir.unjudged_queries,
        queries_without_relevant=[query for query, judgements in beir.qrels.items() if max(judgements.values()) <= 0],
        num_foreign_hits=num_foreign,
        k=k,
        chunk_depth=depth,
        batch_size=batch_size,
        ingest_seconds=ingest_seconds,
        ms_per_query=1000 * search_seconds / len(judged),
        seed=seed,
        num_resamples=num_resamples,
        rankings=rankings,
        comparisons=_comparisons(rankings, measures, seed, num_resamples),
    )


def _ingest(rag: Searched, beir: BeirSet) -> tuple[dict[str, str], int, float]:
    """Document id -> id in the collection; how many records were empty; seconds."""
    names: dict[str, str] = {}
    num_empty = 0

    def documents() -> Iterator[Document]:
        nonlocal num_empty
        for record in beir.corpus:
            document = document_of(record)
            if document is None:
                num_empty += 1
            else:
                names[document.id] = record.id
                yield document

    began = time.perf_counter()
    rag.ingest_documents(documents())
    return names, num_empty, time.perf_counter() - began


def _search(
    rag: Searched, queries: Sequence[tuple[str, str]], names: Mapping[str, str], k: int, depth: int, batch_size: int
) -> tuple[dict[str, dict[str, list[str]]], Counter[str], int, float]:
    """Ranking -> query id -> ids in the collection, best first; how many rankings ran out of chunks; foreign documents; seconds."""
    rag.search_each([queries[0][1]], depth)  # loads the models, untimed
    found: dict[str, dict[str, list[str]]] = {}
    num_short: Counter[str] = Counter()
    foreign: set[str] = set()
    seconds = 0.0
    for start in range(0, len(queries), batch_size):
        batch = queries[start : start + batch_size]
        began = time.perf_counter()
        answers = rag.search_each([text for _, text in batch], depth)
        seconds += time.perf_counter() - began
        if len(answers) != len(batch):
            raise ValueError(f"the pipeline answered {len(answers)} of {len(batch)} queries")
        for (query, _), answer in zip(batch, answers, strict=True):
            if found and set(answer) != set(found):
                raise ValueError(f"query {query!r} has the rankings {sorted(answer)}, earlier ones had {sorted(found)}")
            for ranking, hits in answer.items():
                documents = ranked_documents(hits, k)
                num_short[ranking] += len(documents) < min(k, len(names)) and len(hits) >= depth
                foreign.update(document for document in documents if document not in names)
                found.setdefault(ranking, {})[query] = [names.get(document, f"foreign {document}") for document in documents]
    return found, num_short, len(foreign), seconds


def _deep_enough(ranking: str, found: Mapping[str, Mapping[str, Sequence[str]]], measures: Sequence[str]) -> list[str]:
    """A reranker is handed the head of a ranking: what looks past that head would measure the cut and not the order."""
    longest = {name: max(len(documents) for documents in rankings.values()) for name, rankings in found.items()}
    uncut = ranking != RERANKED or longest[ranking] >= max(longest.values())
    return [measure for measure in measures if uncut or MEASURES[measure][1] <= longest[ranking]]


def _comparisons(rankings: Mapping[str, Ranking], measures: Sequence[str], seed: int, num_resamples: int) -> list[Comparison]:
    singles = [ranking for name, ranking in rankings.items() if name not in (FUSED, RERANKED)]
    compared: list[Comparison] = []
    for measure in measures if singles else ():
        best = max(singles, key=lambda single: single.scores[measure].mean)
        before = rankings.get(FUSED, best)
        pairs = [(before, best)] if len(singles) > 1 and before is not best else []
        if RERANKED in rankings and measure in rankings[RERANKED].scores:
            pairs.append((rankings[RERANKED], before))
        for ranking, baseline in pairs:
            values, against = (list(each.per_query[measure].values()) for each in (ranking, baseline))
            drawn = difference(values, against, seed=seed, num_resamples=num_resamples)
            compared.append(Comparison(measure, ranking.name, baseline.name, drawn))
    return compared
