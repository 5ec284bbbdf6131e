"""A tiny collection, written by each test, and a pipeline that finds what the test wants it to find."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rag.core import Chunk, Document, Hit, Span
from rag.eval.beir import BeirSet, Record, read_beir
from rag.eval.run import evaluate_beir, ranked_documents, run_beir
from tests.eval.birds import write_birds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_birds(tmp_path)


class FakePipeline:
    """Cuts at blank lines; ``answers``: ranking -> query text -> (beir id, number of the chunk, score), best first."""

    def __init__(self, answers: Mapping[str, Mapping[str, Sequence[tuple[str, int, float]]]]) -> None:
        self.answers = answers
        self.chunks: dict[str, list[Chunk]] = {}
        self.searched: list[tuple[tuple[str, ...], int]] = []

    def ingest_documents(self, documents: Iterable[Document]) -> None:
        for document in documents:
            assert document.source == f"beir:{document.meta['beir_id']}"
            self.chunks[document.meta["beir_id"]] = [Chunk.of(document, element.span) for element in document.elements]

    def search_each(self, queries: Sequence[str], k: int) -> list[dict[str, list[Hit]]]:
        self.searched.append((tuple(queries), k))
        return [
            {
                ranking: [Hit(self.chunks[name][number], score) for name, number, score in answers.get(query, ())][:k]
                for ranking, answers in self.answers.items()
            }
            for query in queries
        ]


GOOD = {"what do ducks eat": [("duck", 2, 3.0), ("goose", 0, 1.0)], "where do geese fly": [("goose", 1, 2.0)]}
BAD = {"what do ducks eat": [("untitled", 0, 3.0), ("duck", 0, 1.0)], "where do geese fly": [("title only", 0, 2.0)]}


def hit_of(document: str, score: float) -> Hit:
    return Hit(Chunk(f"{document}{score}", document, Span(0, 1), "x"), score)


def test_a_document_counts_by_its_best_chunk() -> None:
    """Neither the sum (a), nor the last (c), nor the mean (b) of a document's chunks would rank b first."""
    hits = [hit_of("b", 9.0), hit_of("a", 8.0), hit_of("a", 7.0), hit_of("c", 6.0), hit_of("a", 5.0), hit_of("b", 0.1)]
    assert ranked_documents(hits, 10) == ["b", "a", "c"]
    assert ranked_documents(hits, 2) == ["b", "a"]
    assert ranked_documents([hit_of("a", 1.0), hit_of("b", 2.0), hit_of("a", 3.0)], 10) == ["a", "b"], "scores decide, not places"
    assert ranked_documents([hit_of("b", 1.0), hit_of("a", 1.0)], 10) == ["b", "a"], "ties stay as they were found"
    assert ranked_documents([hit_of("b", -1.0), hit_of("a", -2.0)], 10) == ["b", "a"], "scores may be below 0"


def test_chunks_of_one_document_take_one_place(folder: Path) -> None:
    """Counted as three places, duck would push goose to the fourth."""
    answers = {"what do ducks eat": [("duck", 0, 9.0), ("duck", 1, 8.0), ("duck", 2, 7.0), ("goose", 0, 1.0)]}
    report = evaluate_beir(FakePipeline({"only": answers}), read_beir(folder))
    assert report.rankings["only"].documents["q1"] == ["duck", "goose"]
    assert report.rankings["only"].per_query["nDCG@10"]["q1"] == 1.0


def test_the_report_holds_what_was_measured(folder: Path) -> None:
    pipeline = FakePipeline({"reranked": GOOD, "fused": GOOD, "bm25": BAD, "dense": GOOD})
    report = evaluate_beir(pipeline, read_beir(folder), k=100, batch_size=2)
    assert list(report.rankings) == ["bm25", "dense", "reranked", "fused"]
    dense = report.rankings["dense"]
    assert dense.per_query["MRR@10"] == {"q1": 1.0, "q2": 1.0, "q3": 0.0}
    assert dense.scores["MRR@10"].mean == pytest.approx(2 / 3)
    assert report.rankings["bm25"].per_query["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
    assert (report.num_documents, report.num_empty_documents, report.num_missing_documents) == (4, 1, 1)
    assert (report.num_queries, report.unjudged_queries, report.queries_without_relevant) == (3, ["q4"], ["q3"])
    assert dense.num_short == 0 and report.num_foreign_hits == 0
    assert [queries for queries, _ in pipeline.searched[1:]] == [("what do ducks eat", "where do geese fly"), ("colour of swans",)]
    assert {k for _, k in pipeline.searched} == {100} and report.chunk_depth == 100
    assert report.ms_per_query > 0


def test_fused_meets_the_best_single_index_by_each_measure_and_reranked_meets_fused(folder: Path) -> None:
    report = evaluate_beir(FakePipeline({"bm25": BAD, "dense": GOOD, "fused": BAD, "reranked": GOOD}), read_beir(folder))
    assert [(each.measure, each.name, each.baseline) for each in report.comparisons[:2]] == [
        ("nDCG@10", "fused", "dense"),
        ("nDCG@10", "reranked", "fused"),
    ]
    assert report.comparisons[0].difference.mean < 0 < report.comparisons[1].difference.mean
    assert report.comparisons[0].verdict == "inside the noise", "three queries prove nothing"
    assert "inside the noise" in report.table()


def test_a_ranking_that_ran_out_of_chunks_is_counted(folder: Path) -> None:
    """Two chunks of duck use up the depth of 2; the other queries simply have no more hits."""
    answers = {"what do ducks eat": [("duck", 0, 9.0), ("duck", 1, 8.0), ("goose", 0, 1.0)]}
    report = evaluate_beir(FakePipeline({"only": answers}), read_beir(folder), chunk_depth=2)
    assert report.rankings["only"].num_short == 1
    assert "only: 1 rankings hold fewer than 100 documents, since 2 chunks reach no further" in report.table()


def test_one_index_alone_is_not_compared_with_itself(folder: Path) -> None:
    assert not evaluate_beir(FakePipeline({"bm25": GOOD, "fused": GOOD}), read_beir(folder)).comparisons


def many_queries(
    num_queries: int = 40,
) -> tuple[BeirSet, dict[str, list[tuple[str, int, float]]], dict[str, list[tuple[str, int, float]]]]:
    """One document and one question each; the first answers find every document, the second every other one."""
    names = [f"d{number}" for number in range(num_queries)]
    beir = BeirSet(
        "many",
        "test",
        [Record(name, "", name) for name in names],
        {name: f"find {name}" for name in names},
        {name: {name: 1} for name in names},
    )
    return beir, {f"find {name}": [(name, 0, 1.0)] for name in names}, {f"find {name}": [(name, 0, 1.0)] for name in names[::2]}


def test_a_clear_difference_is_called_so() -> None:
    beir, all_found, half_found = many_queries()
    report = evaluate_beir(FakePipeline({"one": half_found, "two": half_found, "fused": all_found, "reranked": half_found}), beir)
    assert [each.verdict for each in report.comparisons if each.measure == "nDCG@10"] == ["better", "worse"]
    text = report.table()
    assert (
        "By nDCG@10, fused is better than one (+0.5000 (" in text and "By nDCG@10, reranked is worse than fused (-0.5000 (" in text
    )
    interval = report.rankings["one"].scores["nDCG@10"]
    assert 0.3 < interval.low < 0.5 == interval.mean < interval.high < 0.7


def test_a_seed_makes_the_same_report() -> None:
    beir, all_found, _ = many_queries()
    names = list(beir.queries)
    at_many_places = {  # the answer stands at the places 1 to 9, behind other documents
        f"find {name}": [(other, 0, 1.0) for other in [*(names[number - 9 : number] or names[-9:])[: number % 9], name]]
        for number, name in enumerate(names)
    }

    def report(seed: int) -> dict[str, Any]:
        pipeline = FakePipeline({"one": at_many_places, "two": all_found, "fused": all_found})
        found = evaluate_beir(pipeline, beir, seed=seed, num_resamples=500)
        return dataclasses.replace(found, ingest_seconds=0.0, ms_per_query=0.0, seed=0).as_dict(per_query=True)

    assert report(1) == report(1)
    assert report(1) != report(2)


def test_documents_of_others_in_the_index_are_counted_and_not_relevant(folder: Path) -> None:
    pipeline = FakePipeline({"only": {"where do geese fly": [("stranger", 0, 9.0), ("goose", 0, 1.0)]}})
    pipeline.chunks["stranger"] = [Chunk("c", "another id", Span(0, 1), "x")]
    report = evaluate_beir(pipeline, read_beir(folder))
    assert report.rankings["only"].per_query["MRR@10"]["q2"] == 0.5
    assert report.num_foreign_hits == 1 and "not of this collection" in report.table()


def test_json_and_markdown_say_what_was_measured(folder: Path) -> None:
    report = evaluate_beir(FakePipeline({"bm25": BAD, "dense": GOOD, "fused": GOOD}), read_beir(folder))
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["rankings"]["dense"]["scores"]["MRR@10"]["mean"] == pytest.approx(2 / 3)
    assert set(plain["comparisons"][0]) == {"measure", "name", "baseline", "mean", "low", "high", "p", "num_queries", "verdict"}
    assert "per_query" not in plain["rankings"]["dense"]
    assert report.as_dict(per_query=True)["rankings"]["dense"]["per_query"]["MRR@10"]["q1"] == 1.0
    text = report.table()
    assert "| ranking | nDCG@10" in text and "| dense   | 0.6667 (" in text
    assert "3 judged queries" in text and "1 query (q4) without judgements" in text
    assert "1 query (q3) without a relevant document" in text
    assert "1 judged documents are not in the corpus" in text and "1 documents have neither title nor text" in text


def test_a_shallow_evaluation_leaves_deep_measures_out(folder: Path) -> None:
    report = evaluate_beir(FakePipeline({"only": GOOD}), read_beir(folder), k=10, chunk_depth=12)
    assert list(report.rankings["only"].scores) == ["nDCG@10", "recall@10", "MRR@10"] and report.chunk_depth == 12
    for bad, message in (({"k": 5}, "k is 5"), ({"batch_size": 0}, "batch_size is 0"), ({"chunk_depth": 0}, "chunk_depth is 0")):
        with pytest.raises(ValueError, match=message):
            evaluate_beir(FakePipeline({"only": GOOD}), read_beir(folder), **bad)


def test_a_pipeline_that_loses_queries_or_rankings_is_caught(folder: Path) -> None:
    class Forgetful(FakePipeline):
        def search_each(self, queries: Sequence[str], k: int) -> list[dict[str, list[Hit]]]:
            return super().search_each(queries, k)[:1]

    class Fickle(FakePipeline):
        def search_each(self, queries: Sequence[str], k: int) -> list[dict[str, list[Hit]]]:
            return [{f"ranking {number}": []} for number in range(len(queries))]

    with pytest.raises(ValueError, match="answered 1 of 3 queries"):
        evaluate_beir(Forgetful({"only": GOOD}), read_beir(folder))
    with pytest.raises(ValueError, match=r"query 'q2' has the rankings \['ranking 1'\], earlier ones had \['ranking 0'\]"):
        evaluate_beir(Fickle({}), read_beir(folder))


def test_a_reranked_head_is_not_measured_past_its_end() -> None:
    beir, _, _ = many_queries()
    everything = {query: [(name, 0, 40.0 - number) for number, name in enumerate(beir.queries)] for query in beir.queries.values()}
    head = {query: list(reversed(found[:12])) for query, found in everything.items()}
    report = evaluate_beir(FakePipeline({"only": everything, "reranked": head}), beir)
    assert list(report.rankings["reranked"].scores) == ["nDCG@10", "recall@10", "MRR@10"]
    assert report.rankings["only"].scores["recall@100"].mean == 1.0
    assert [(each.measure, each.baseline) for each in report.comparisons] == [
        (name, "only") for name in ("nDCG@10", "recall@10", "MRR@10")
    ]
    assert "| -  " in report.table() and "reranked orders only the head of a ranking" in report.table()


def test_the_real_pipeline_is_measured_from_a_configuration(folder: Path, tmp_path: Path) -> None:
    """Words alone, so that no model is loaded; the second time, nothing is ingested again."""
    words = {"models": {"tokenizer": {"use": "words"}}, "indexes": {"sparse": {"use": "bm25"}}}
    for _ in range(2):
        report = run_beir(folder, index=tmp_path / "index", config=words)
        assert report.rankings["sparse"].per_query["MRR@10"] == {"q1": 1.0, "q2": 1.0, "q3": 0.0}
        assert report.num_documents == 4 and report.num_foreign_hits == 0
    assert run_beir(folder, config=words).as_dict()["rankings"] == report.as_dict()["rankings"], "a temporary index does as well"
