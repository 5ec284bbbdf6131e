"""Runs over several configurations: what is shared, kept, compared, and counted apart."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rag.core import Answer, Citation, Usage
from rag.errors import ConfigError
from rag.eval.answer_points import gives, points_in_answer
from rag.eval.chain import Progress, evaluate_chain
from rag.eval.chain_cache import FILE, OutcomeCache
from rag.eval.chain_report import ChainReport, QuestionOutcome
from rag.eval.chain_summary import holm
from rag.eval.html_report import render
from rag.eval.peak_memory import PeakMemory
from rag.eval.placing import Library, place
from rag.eval.question import Clause, Evidence, Point, Question
from rag.eval.question_set import QuestionSet
from rag.eval.report_tables import tables
from rag.eval.span_set import document_of
from tests.eval.chain_corpus import WORDS, Paragraphs, Quoting, handbook
from tests.fakes import HashingEncoder

SET = handbook(12)
SMALL: Mapping[str, Any] = {**WORDS, "select": {"use": "top", "k": 1}}


def components(generator: Quoting | None = None, **others: Any) -> dict[str, Any]:
    return {"chunker": Paragraphs(), "generator": generator or Quoting(), **others}


def evaluate(given: QuestionSet = SET, cache: Path | None = None, generator: Quoting | None = None, **options: Any) -> ChainReport:
    return evaluate_chain(given, {"one": WORDS}, cache_folder=cache, components={"one": components(generator)}, **options)


def without_times(report: ChainReport) -> Any:
    plain = json.loads(report.model_dump_json(exclude={"created"}))
    for config in plain["configs"]:
        config["ingest"] = {name: value for name, value in config["ingest"].items() if name.startswith("num")}
        config["cost"] = {name: value for name, value in config["cost"].items() if "seconds" not in name and "memory" not in name}
        for each in [*config["stages"], *(stage for question in config["questions"] for stage in question["stages"])]:
            each.pop("seconds", None), each.pop("seconds_median", None)
        for question in config["questions"]:
            question["cost"] = {
                name: value for name, value in question["cost"].items() if "seconds" not in name and "memory" not in name
            }
    return plain


def test_a_second_run_asks_nothing_and_says_the_same(tmp_path: Path) -> None:
    first = evaluate(cache=tmp_path)
    again = Quoting()
    seen: list[Progress] = []
    second = evaluate(cache=tmp_path, generator=again, on_progress=seen.append)
    assert again.num_asked == 0 and seen[-1] == Progress("one", 12, 12, 12)
    peak = {"process_peak_memory_mb"}
    assert second.configs[0].questions == first.configs[0].questions and second.configs[0].stages == first.configs[0].stages
    assert second.configs[0].ingest.keys() == first.configs[0].ingest.keys() >= peak
    assert second.documents == first.documents and len(first.documents) == 12


def test_every_stage_has_its_seconds_and_its_peak_of_memory() -> None:
    watched = PeakMemory().since_mark_mb() is not None
    for question in evaluate().configs[0].questions:
        told = {name.partition("/")[2] for name in question.cost if name.startswith("peak_memory_mb/")}
        assert told == ({"words", "select", "prompt", "answer"} if watched else set())
        assert all(question.cost[f"peak_memory_mb/{stage}"] > 10 for stage in told)
        assert {
            "seconds/words",
            "seconds/select",
            "seconds/answer",
            "encoder_calls",
            "prompt_tokens",
            "cached_tokens",
        } <= question.cost.keys()


def test_the_same_seed_makes_the_same_report() -> None:
    assert without_times(evaluate(seed=3)) == without_times(evaluate(seed=3))


def test_an_interrupted_run_keeps_what_it_had(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.num_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(cache=tmp_path, on_progress=interrupt)
    generator = Quoting()
    evaluate(cache=tmp_path, generator=generator)
    assert generator.num_asked == 7


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    program = f"""
import os, signal, pathlib
from tests.eval.test_chain import evaluate
def die(progress):
    if progress.num_done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
evaluate(cache=pathlib.Path({str(tmp_path)!r}), on_progress=die)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert done.returncode == -signal.SIGKILL
    generator = Quoting()
    report = evaluate(cache=tmp_path, generator=generator)
    assert generator.num_asked == 7 and without_times(report) == without_times(evaluate())


def test_what_matters_is_asked_anew(tmp_path: Path) -> None:
    evaluate(cache=tmp_path)

    def asked(given: QuestionSet = SET, config: Mapping[str, Any] = WORDS, told: str | None = None) -> int:
        generator = Quoting(told)
        generator.fingerprint = f"quoting {told}"
        evaluate_chain(given, {"one": config}, cache_folder=tmp_path, components={"one": components(generator)})
        return generator.num_asked

    assert asked(config=SMALL) == 12, "another configuration"
    assert asked(told="x") == 12, "another generator"
    assert asked(told="x") == 0, "kept by now"
    assert asked(config={**WORDS, "models": {}}, told="x") == 12, "another tokenizer counts the returned tokens"
    more = QuestionSet(SET.name, SET.questions, (*SET.documents, document_of("new", "New words.")))
    assert asked(more) == 12, "other documents"


def test_only_the_changed_question_is_asked(tmp_path: Path) -> None:
    evaluate(cache=tmp_path)
    generator = Quoting()
    evaluate(SET.some([SET.questions[0].model_copy(update={"answers": ("x",)}), *SET.questions[1:]]), tmp_path, generator)
    assert generator.num_asked == 1


class Nameless(Quoting):
    fingerprint = None  # type: ignore[assignment]


def test_results_of_objects_without_a_name_are_not_kept(tmp_path: Path) -> None:
    evaluate(cache=tmp_path, generator=Nameless())
    generator = Nameless()
    evaluate(cache=tmp_path, generator=generator)
    assert generator.num_asked == 12


class Flaky(Quoting):
    fails = True

    def generate(self, query: str, hits: Any) -> Any:
        if self.fails and self.num_asked == 3:
            self.num_asked += 1
            raise TimeoutError("later")
        yield from super().generate(query, hits)


def test_a_question_that_failed_is_tried_again(tmp_path: Path) -> None:
    report = evaluate(cache=tmp_path, generator=Flaky())
    assert [question.error for question in report.configs[0].questions].count("TimeoutError: later") == 1
    assert any("broke off for 1 questions" in remark for remark in report.remarks)
    flaky = Flaky()
    flaky.fails = False
    report = evaluate(cache=tmp_path, generator=flaky)
    assert flaky.num_asked == 1 and not any(question.error for question in report.configs[0].questions)


def test_a_damaged_cache_is_put_aside(tmp_path: Path) -> None:
    evaluate(cache=tmp_path)
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    generator = Quoting()
    evaluate(cache=tmp_path, generator=generator)
    assert generator.num_asked == 12 and (tmp_path / FILE).with_suffix(".damaged").exists()


def test_a_row_that_was_altered_counts_as_absent(tmp_path: Path) -> None:
    outcome = QuestionOutcome(id="a", question="b", type="c", answerable="yes")
    cache = OutcomeCache(tmp_path)
    cache.put("key", outcome)
    assert cache.get("key") == outcome and cache.get("other") is None
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE texts SET text = replace(text, 'yes', 'no')")
    assert cache.get("key") is None
    cache.close()
    assert OutcomeCache(None).get("key") is None


def test_configurations_that_ingest_alike_share_an_index() -> None:
    encoder = HashingEncoder()
    dense = {"models": {"tokenizer": {"use": "words"}}, "indexes": {"dense": {"use": "faiss"}}}
    configs: dict[str, Mapping[str, Any]] = {"one": dense, "two": {**dense, "select": {"use": "top", "k": 2}}}
    parts = components(encoder=encoder)
    report = evaluate_chain(SET, configs, components={"one": parts, "two": parts})
    assert encoder.num_texts_encoded == 36, "36 chunks, once"
    assert report.configs[0].ingest["num_chunks"] == report.configs[1].ingest["num_chunks"] == 36
    assert report.baseline == "one" and {each.config for each in report.comparisons} == {"two"}


def test_a_difference_is_paired_and_corrected() -> None:
    """One chunk instead of five: what is first stays, and a hit that ranks second is lost."""
    configs = {"five": WORDS, "none": {**WORDS, "search": {"candidates": 1}}}

    class Second(Quoting):
        fingerprint = "second"

        def rerank(self, query: str, hits: Any) -> Any:
            return list(hits[1:])

    report = evaluate_chain(SET, configs, components={"five": components(), "none": components(select=Second())})
    by_measure = {each.measure: each for each in report.comparisons}
    lost = by_measure["recall@select"]
    assert lost.mean == -1.0 and not lost.inside_noise and lost.p <= lost.p_adjusted < 0.05 and lost.num_questions == 12
    assert by_measure["recall@read"].mean == 0.0 and by_measure["recall@read"].inside_noise


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], []), ([0.5], [0.5]), ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.02, 0.02, 0.9, 0.6], [0.08, 0.08, 1.0, 1.0])],
)
def test_holm(given: list[float], expected: list[float]) -> None:
    assert holm(given) == pytest.approx(expected)


def test_points_that_stand_nowhere_are_counted_apart() -> None:
    nowhere = Point(clauses=(Clause(text="This was never written anywhere", source=SET.documents[0].source),))
    first, second, third, *rest = SET.questions
    partly = place(second, Library({d.id: d.text for d in SET.documents}, {d.id: d.source for d in SET.documents})).question
    given = SET.some(
        [
            first.model_copy(update={"points": (nowhere,)}),
            partly.model_copy(update={"points": (*partly.points, nowhere)}),
            third.model_copy(update={"evidence": ()}),
            *rest,
        ]
    )
    report = evaluate(given)
    for summary in report.configs[0].stages:
        assert (summary.recall.num_questions, summary.recall.num_failed, summary.recall.mean) == (10, 1, 1.0)
    assert report.configs[0].questions[1].unlocated == [nowhere.text]
    assert report.remarks[0].startswith("1 of 12 questions have no information points")
    assert report.remarks[1].startswith("2 questions have points that stand nowhere in the documents; 1 of them")


def test_the_coarse_filter_deletes_chunks_without_a_topic_term() -> None:
    report = evaluate(SET.some([question.model_copy(update={"coarse": ("absent",)}) for question in SET.questions]))
    by_stage = {summary.stage: summary for summary in report.configs[0].stages}
    for stage in ("read", "chunk", "words", "retrieve", "select", "prompt"):
        assert by_stage[stage].recall.mean == 1.0 and by_stage[stage].recall_filtered.mean == 0.0
    assert by_stage["answer"].recall_filtered.mean == 1.0, "an answer need not repeat the topic"
    helped = evaluate(SET.some([question.model_copy(update={"coarse": ("absent", "ENGINE")}) for question in SET.questions]))
    assert all(summary.recall_filtered.mean == 1.0 for summary in helped.configs[0].stages)


def test_measures_of_rankings_tokens_and_cost() -> None:
    outcome = evaluate().configs[0]
    question = outcome.questions[0]
    assert question.measures["words/nDCG@10"] == 1.0 and question.measures["chunk/whole"] == 1.0
    assert question.measures["select/token_recall"] == 1.0
    assert question.measures["prompt/token_recall"] == 1.0 and 0 < question.measures["select/token_precision"] < 1
    assert question.measures["chunk/precision_omega"] == 1.0, "the evidence is a chunk of its own"
    assert list(outcome.recall_by_budget) == [100, 200, 400, 800, 1600] and outcome.recall_by_budget[100].mean == 1.0
    assert list(outcome.precision_by_budget) == list(outcome.iou_by_budget) == list(outcome.recall_by_budget)
    falling = [outcome.precision_by_budget[budget].mean for budget in (100, 200, 400)]
    assert falling == sorted(falling, reverse=True) and 0 < falling[-1] < falling[0]
    assert outcome.iou_by_budget[100].mean == pytest.approx(falling[0]), "all of the evidence is returned: IoU is precision"
    assert {"seconds/words", "seconds/select", "seconds/answer", "completion_tokens", "encoder_calls"} <= outcome.cost.keys()
    assert outcome.cost["completion_tokens"] == 7.0 and outcome.ingest["num_chunks"] == 36.0
    assert question.evidence[0].text == SET.questions[0].evidence[0].text


def test_without_answers_the_chain_ends_at_the_selection() -> None:
    outcome = evaluate(answers=False).configs[0]
    assert outcome.stages[-1].stage == "select" and not outcome.answers and outcome.questions[0].answer is None


def test_a_measure_that_fails_is_no_loss_of_the_chain() -> None:
    def broken(question: Question, answer: Answer, texts: Mapping[str, str]) -> Any:
        raise ZeroDivisionError("judge")

    report = evaluate(measure=broken)
    first = report.configs[0].questions[0]
    assert (
        first.lost_at is None
        and first.answer is not None
        and first.answer.failures == {"measure_answer": "ZeroDivisionError: judge"}
    )
    assert any("a measure of the answer failed for 12 questions" in remark for remark in report.remarks)


def test_a_report_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_TEST_KEY", "hunter2")
    config = {**WORDS, "serve": {"api_key": "${env:RAG_TEST_KEY}"}}
    text = evaluate_chain(SET, {"one": config}, components={"one": components()}).model_dump_json()
    assert "hunter2" not in text and "${env:RAG_TEST_KEY}" in text


def test_bad_calls_are_refused_before_anything_is_asked() -> None:
    with pytest.raises(ValueError, match="no configuration"):
        evaluate_chain(SET, {})
    with pytest.raises(ValueError, match="has no questions"):
        evaluate(SET.some([]))
    with pytest.raises(ValueError, match="has no documents"):
        evaluate(QuestionSet("x", SET.questions))
    with pytest.raises(ValueError, match="two questions with the id"):
        evaluate(SET.some([SET.questions[0]] * 2))
    with pytest.raises(ValueError, match="components for 'two'"):
        evaluate_chain(SET, {"one": WORDS}, components={"two": {}})
    generator = Quoting()
    with pytest.raises(ConfigError, match="k"):
        evaluate_chain(
            SET, {"one": WORDS, "bad": {**WORDS, "select": {"use": "top", "kk": 1}}}, components={"one": components(generator)}
        )
    with pytest.raises(ConfigError, match="needs a model"):
        evaluate_chain(SET, {"one": WORDS, "bad": {**WORDS, "generator": {"use": "lm"}}}, components={"one": components(generator)})
    assert generator.num_asked == 0


def test_a_report_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    report = evaluate()
    report.save(tmp_path / "report.json")
    assert ChainReport.load(tmp_path / "report.json") == report


def answer(text: str, *citations: Citation, abstained: bool = False) -> Answer:
    return Answer("q", text, citations, (), Usage(), {}, abstained)


TEXT = "The valve must be replaced after 300 operating hours. Nobody knows why."


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("THE VALVE must be re-\nplaced after 300 operating hours [1].", True),
        ("Replace the valve: after 300 operating hours it must be done.", True),
        ("After 300 hours of operating the valve must be replaced.", True),
        ("After 300 hours replace it.", False),
        ("Nobody knows.", False),
    ],
)
def test_an_answer_has_a_point_by_words_or_most_content_words(said: str, found: bool) -> None:
    question = Question(id="q", question="When?", evidence=(Evidence(source="doc", text=TEXT[:53]),))
    document = document_of("doc", TEXT)
    placed = place(question, Library({document.id: TEXT}, {document.id: "doc"}))
    assert points_in_answer(placed, answer(said), {document.id: TEXT}) == [found]
    assert points_in_answer(placed, answer(said, abstained=True), {document.id: TEXT}) == [False]
    cited = Citation(1, document.id, "doc", "c", 0, 53, TEXT[:53])
    assert points_in_answer(placed, answer("See there [1].", cited), {document.id: TEXT}) == [True]
    half = Citation(1, document.id, "doc", "c", 0, 20, TEXT[:20])
    rest = Citation(2, document.id, "doc", "c", 20, 53, TEXT[20:53])
    assert points_in_answer(placed, answer("See [1].", half), {document.id: TEXT}) == [False]
    assert points_in_answer(placed, answer("See [1][2].", half, rest), {document.id: TEXT}) == [True]
    short = place(question.model_copy(update={"answers": ("300 hours",)}), Library({document.id: TEXT}, {document.id: "doc"}))
    assert points_in_answer(short, answer("300 hours"), {document.id: TEXT}) == [True]


@pytest.mark.parametrize(
    ("text", "reference", "given"),
    [("308", "308", True), ("About 308 of them", "308", True), ("3080", "308", False), ("the red hen", "red hen the", True), ("No.", "no", True),
     ("There is no hen", "no", False), ("x", "", False), ("a b c d e f g", "a b c d e f g", False)],
)  # fmt: skip
def test_short_references(text: str, reference: str, given: bool) -> None:
    assert gives(text, reference) == given


def test_a_set_with_judged_relevance_alone_is_told_by_its_rankings(tmp_path: Path) -> None:
    judged = [
        question.model_copy(
            update={"evidence": (), "points": (), "coarse": (), "answers": (), "relevant": {SET.documents[0].source: 1}}
        )
        for question in SET.questions
    ]
    given = SET.some(judged)
    config = {**WORDS, "indexes": {"words": {"use": "bm25"}, "other": {"use": "bm25", "b": 0.1}}}
    parts = {"one": components(), "both": components()}
    report = evaluate_chain(given, {"one": WORDS, "both": config}, components=parts, answers=False)
    for outcome, last in zip(report.configs, ("words", "fuse"), strict=True):
        for question in outcome.questions:
            assert question.measures["ranking/nDCG@10"] == question.measures[f"{last}/nDCG@10"]
        assert all(not stage.recall.num_questions for stage in outcome.stages)
    assert [each.measure for each in report.comparisons] == ["ranking/nDCG@10"]
    page = render(report)
    assert 'id="rankings"' in page and "ranking: nDCG@10" in page and "there is nothing to compare" not in page
    stages = page[page.index('id="stages"') : page.index('id="losses"')]
    lost = page[page.index('id="losses"') : page.index('id="rankings"')]
    assert "no stage can be said to have lost one" in lost and "<svg" not in lost and "no question can be lost" in stages
    assert "0.0 to 0.0" not in stages and "\u2013" in stages, "nothing was measured there, which is not zero"
    assert any("nDCG@10" in str(table.columns[3].header) for table in tables(report) if len(table.columns) > 3)
