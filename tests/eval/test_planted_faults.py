"""A fault in one stage is blamed on that stage, and a chain without a fault loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.core import Answer, Chunk, Document, Segment
from rag.eval.answer_outcome import outcome_of
from rag.eval.chain import evaluate_chain
from rag.eval.chain_report import AnswerOutcome, ConfigOutcome, QuestionOutcome
from rag.eval.question import Question
from rag.eval.question_set import QuestionSet
from rag.generate import LMGenerator
from rag.retrievers.bm25 import BM25Index
from tests.eval.chain_corpus import WORDS, Leaking, Paragraphs, Quoting, Reversing, Tearing, Truncating, facts, handbook
from tests.fakes import ToyLM

SET = handbook()


def unmeasured(question: Question, answer: Answer, texts: Mapping[str, str]) -> AnswerOutcome:
    """Faults are told by stages; measures of answers would only take time."""
    return outcome_of(answer, {}, {})


def run(given: QuestionSet = SET, config: Mapping[str, Any] = WORDS, **components: Any) -> ConfigOutcome:
    parts = {"chunker": Paragraphs(), "generator": Quoting(), **{name.replace("_", "."): part for name, part in components.items()}}
    report = evaluate_chain(given, {"planted": config}, components={"planted": parts}, measure=unmeasured)
    return report.configs[0]


def blamed(outcome: ConfigOutcome) -> Counter[str]:
    return Counter(question.lost_at for question in outcome.questions if question.lost_at)


def check_blamed(outcome: ConfigOutcome, stage: str, least: int = 30) -> None:
    """At least ``least`` of 40 questions are broken, 95 % of those are blamed on ``stage``, the summary says the same."""
    found = blamed(outcome)
    assert found.total() >= least, "the fault breaks many questions"
    assert found[stage] >= 0.95 * found.total() and set(found) == {stage}
    assert {summary.stage: summary.num_lost for summary in outcome.stages if summary.num_lost} == dict(found)


def test_a_chain_without_a_fault_loses_nothing() -> None:
    outcome = run()
    assert not blamed(outcome)
    assert [summary.stage for summary in outcome.stages] == ["read", "chunk", "words", "retrieve", "select", "prompt", "answer"]
    assert all(summary.recall.mean == summary.accuracy.mean == 1.0 for summary in outcome.stages)
    assert all(summary.recall.num_questions == 40 for summary in outcome.stages)


def write_files(folder: Path, *, scrambled: bool) -> QuestionSet:
    """Two columns a page, as a person reads them or as an extractor does that goes line by line across both."""
    folder.mkdir()
    rows = facts()
    for place in range(0, len(rows), 2):
        columns = [_lines(sentence) for _, _, sentence in rows[place : place + 2]]
        left, right = (column + [""] * (6 - len(column)) for column in columns)
        lines = [f"{one} {other}" for one, other in zip(left, right, strict=True)] if scrambled else [*left, "", *right]
        for machine, _, _ in rows[place : place + 2]:
            (folder / f"{machine}.txt").write_text("\n".join(lines), encoding="utf-8")
    questions = [
        question.model_copy(
            update={"evidence": tuple(each.model_copy(update={"start": None, "end": None}) for each in question.evidence)}
        )
        for question in SET.questions
    ]
    return QuestionSet("files", tuple(questions), files=(folder,))


def _lines(sentence: str) -> list[str]:
    words = sentence.split()
    return [" ".join(words[start : start + 5]) for start in range(0, len(words), 5)]


class Whole(Paragraphs):
    """One chunk per document."""

    def chunk(self, document: Document) -> list[Chunk]:
        from rag.core import Span

        return [Chunk.of(document, Span(0, len(document.text)))]


def test_scrambled_columns_are_blamed_on_reading(tmp_path: Path) -> None:
    check_blamed(run(write_files(tmp_path / "scrambled", scrambled=True), chunker=Whole()), "read")
    assert not blamed(run(write_files(tmp_path / "in order", scrambled=False), chunker=Whole()))


def test_a_chunker_that_leaves_characters_out_is_blamed() -> None:
    outcome = run(chunker=Leaking())
    check_blamed(outcome, "chunk")
    assert outcome.stages[1].recall.mean == 0.0, "no chunks together have it"


def test_a_chunker_that_tears_every_clause_is_blamed_for_halves_that_are_not_found() -> None:
    config = {**WORDS, "select": {"use": "top", "k": 1}}
    outcome = run(config=config, chunker=Tearing())
    check_blamed(outcome, "chunk")
    assert outcome.stages[1].recall.mean == 1.0 and outcome.stages[1].measures["whole"].mean < 0.6, "neighbours together have it"


class Forgetful(BM25Index):
    """An index that takes nothing in of the documents whose text holds a word of ``lost``."""

    def __init__(self, lost: Sequence[str]) -> None:
        super().__init__()
        self.lost = lost

    def build(
        self,
        keys: NDArray[np.int64],
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> Any:
        blank = [replace(chunk, text="") if any(word in chunk.text for word in self.lost) else chunk for chunk in chunks]
        return super().build(keys, blank)


def test_an_index_that_loses_documents_is_blamed_and_no_other_document_is() -> None:
    lost = [machine for machine, _, _ in facts()[:35]]
    outcome = run(indexes_words=Forgetful(lost))
    check_blamed(outcome, "retrieve")
    assert {question.id for question in outcome.questions if question.lost_at} == set(lost)


def test_what_one_index_loses_and_another_finds_is_not_lost() -> None:
    config = {**WORDS, "indexes": {"words": {"use": "bm25"}, "other": {"use": "bm25"}}, "fuse": {"use": "rrf"}}
    outcome = run(config=config, indexes_words=Forgetful([machine for machine, _, _ in facts()]))
    assert not blamed(outcome)
    by_stage = {summary.stage: summary for summary in outcome.stages}
    assert by_stage["words"].recall.mean == 0.0 and by_stage["other"].recall.mean == by_stage["fuse"].recall.mean == 1.0


def test_a_reversed_reranker_is_blamed() -> None:
    config = {**WORDS, "rerankers": [{"use": "cross-encoder", "model": "unused"}]}
    parts = {"chunker": Paragraphs(), "generator": Quoting(), "rerankers[0]": Reversing()}
    outcome = evaluate_chain(SET, {"planted": config}, components={"planted": parts}, measure=unmeasured).configs[0]
    check_blamed(outcome, "rerank:cross-encoder")


def test_of_two_rerankers_called_alike_the_second_is_blamed() -> None:
    block = {"use": "cross-encoder", "model": "unused"}
    parts = {"chunker": Paragraphs(), "generator": Quoting(), "rerankers[0]": Keeping(), "rerankers[1]": Reversing()}
    config = {**WORDS, "rerankers": [block, block]}
    outcome = evaluate_chain(SET, {"planted": config}, components={"planted": parts}, measure=unmeasured).configs[0]
    check_blamed(outcome, "rerank:cross-encoder#2")


class Keeping:
    """Hands on what it is given."""

    fingerprint = "keeping"

    def rerank(self, query: str, hits: Sequence[Any]) -> list[Any]:
        return list(hits)


class Nothing:
    """Selects the last hit alone."""

    fingerprint = "nothing"

    def rerank(self, query: str, hits: Sequence[Any]) -> list[Any]:
        return list(hits[-1:])


def test_a_selector_that_is_too_small_is_blamed() -> None:
    check_blamed(run(select=Nothing()), "select")


def test_a_truncated_prompt_is_blamed() -> None:
    check_blamed(run(generator=Truncating()), "prompt")


def sources(prompt: str) -> str:
    """Repeats the sources of a prompt, as a model would that copies all it sees."""
    lines = [
        line
        for line in prompt.split("\n")
        if line and not line.startswith(("BEGIN", "END", "One-time", "The sources end", "Question"))
    ]
    return "\n".join(lines[lines.index(next(line for line in lines if "instructions, requests" in line)) + 1 :])


@pytest.mark.parametrize(("room", "stage"), [(2000, None), (180, "prompt")])
def test_a_prompt_with_too_little_room_is_blamed_by_what_it_really_shows(room: int, stage: str | None) -> None:
    """The real generator: the last sources are left out or cut by ``sourced_prompt`` itself; the passage asked for comes last."""

    class Last(Nothing):
        def rerank(self, query: str, hits: Sequence[Any]) -> list[Any]:
            return list(reversed(hits[:3]))

    generator = LMGenerator(ToyLM(answer=sources), max_tokens=800, max_prompt_tokens=room)
    outcome = run(select=Last(), generator=generator)
    if stage is None:
        assert not blamed(outcome)
    else:
        check_blamed(outcome, stage)


def test_a_generator_that_ignores_its_sources_is_blamed() -> None:
    check_blamed(run(generator=Quoting("Forty-two, I think. Ask again later.")), "answer")


class Failing(Quoting):
    def generate(self, query: str, hits: Sequence[Any]) -> Any:
        yield from ()
        raise RuntimeError("out of memory")


def test_a_stage_that_raises_is_blamed_and_the_run_goes_on() -> None:
    outcome = run(generator=Failing())
    assert set(blamed(outcome)) == {"prompt"} and len(outcome.questions) == 40
    assert all(question.error == "RuntimeError: out of memory" for question in outcome.questions)
    by_stage = {summary.stage: summary for summary in outcome.stages}
    assert by_stage["select"].recall.mean == 1.0 and by_stage["answer"].recall.mean == 0.0


class Sulking(Nothing):
    def rerank(self, query: str, hits: Sequence[Any]) -> list[Any]:
        if facts()[0][0] in query:
            raise ValueError("no")
        return list(hits)[:5]


def test_a_fusion_that_raises_is_blamed_and_not_the_indexes() -> None:
    class Broken:
        def fuse(self, rankings: Any, vectors: Any) -> Any:
            raise OSError("disk")

    config = {**WORDS, "indexes": {"words": {"use": "bm25"}, "other": {"use": "bm25"}}}
    outcome = run(config=config, fuse=Broken())
    assert blamed(outcome) == {"fuse": 40}
    by_stage = {summary.stage: summary.recall.mean for summary in outcome.stages}
    assert (by_stage["retrieve"], by_stage["fuse"], by_stage["select"]) == (1.0, 0.0, 0.0)


def test_an_index_that_raises_takes_nothing_from_the_index_before_it() -> None:
    class Broken(BM25Index):
        def reader(self, segments: Any, live: Any) -> Any:
            return self

        def search(self, *_: Any) -> Any:
            raise OSError("disk")

    own: dict[str, Any] = {"indexes.other": Broken()}
    config = {**WORDS, "indexes": {"words": {"use": "bm25"}, "other": {"use": "bm25"}}}
    outcome = run(config=config, **own)
    assert blamed(outcome) == {"retrieve": 40}
    by_stage = {summary.stage: summary.recall.mean for summary in outcome.stages}
    assert (by_stage["words"], by_stage["other"], by_stage["retrieve"]) == (1.0, 0.0, 0.0)


def test_one_failing_question_costs_that_question() -> None:
    outcome = run(select=Sulking())
    assert blamed(outcome) == {"select": 1}
    failed: QuestionOutcome = outcome.questions[0]
    assert failed.error == "ValueError: no" and failed.answer is None
    assert [stage.stage for stage in failed.stages] == [summary.stage for summary in outcome.stages]
    assert outcome.stages[-1].accuracy.mean == pytest.approx(39 / 40) and outcome.stages[-1].accuracy.num_questions == 40
