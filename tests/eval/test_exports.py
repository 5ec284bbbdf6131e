"""Files of other tools: what is written is read back, by us and by their own readers; what is damaged is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Answer, Chunk, Hit, Span, Usage
from rag.errors import ReadError
from rag.eval.beir import read_beir
from rag.eval.chain_report import AnswerOutcome, Passage, QuestionOutcome, StageOutcome
from rag.eval.exports.collection import Collection, write_beir
from rag.eval.exports.ragas import (
    RagasSample,
    contexts_of,
    named,
    question_of,
    read_samples,
    sample_of,
    sample_of_outcome,
    write_samples,
)
from rag.eval.exports.trec import qrels_of, read_qrels, read_run, run_of, strict, write_qrels, write_run
from rag.eval.question import Evidence, Question, Turn
from tests.fakes import document

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(lambda name: name.strip() != "")
RUNS = st.dictionaries(
    NAMES, st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5), max_size=4
)
QRELS = st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(-1, 3), min_size=1, max_size=5), max_size=4)
DOCUMENTS = [document("/files/my tower.md", "The tower is 330 m tall."), document("ducks.md", "Ducks swim.")]


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_a_run_comes_back(tmp_path_factory: pytest.TempPathFactory, run: dict[str, dict[str, float]]) -> None:
    path = tmp_path_factory.mktemp("trec") / "run"
    write_run(path, run)
    assert read_run(path) == run


@settings(max_examples=60, deadline=None)
@given(QRELS)
def test_judgements_come_back(tmp_path_factory: pytest.TempPathFactory, qrels: dict[str, dict[str, int]]) -> None:
    path = tmp_path_factory.mktemp("trec") / "qrels"
    write_qrels(path, qrels)
    assert read_qrels(path) == qrels


def test_other_readers_read_them(tmp_path: Path) -> None:
    run = {"q 1": strict(["my doc", "b", "c%"]), "q2": {"a": 0.1, "b": 1e-9}}
    qrels = {"q 1": {"b": 1}, "q2": {"a": 2, "b": 0}}
    write_run(tmp_path / "run", run)
    write_qrels(tmp_path / "qrels", qrels)
    with (tmp_path / "run").open() as file:
        theirs = pytrec_eval.parse_run(file)
    assert theirs == {"q%201": {"my%20doc": 3.0, "b": 2.0, "c%25": 1.0}, "q2": {"a": 0.1, "b": 1e-9}}
    readers: Any = ir_measures
    judged, ranked = readers.read_trec_qrels(str(tmp_path / "qrels")), readers.read_trec_run(str(tmp_path / "run"))
    assert ir_measures.calc_aggregate([ir_measures.RR], judged, ranked)[ir_measures.RR] == pytest.approx((0.5 + 1.0) / 2)
    first = (tmp_path / "run").read_text().splitlines()[0]
    assert first == "q%201 Q0 my%20doc 1 3.0 ragstone"


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (read_run, "q Q0 d 1 0.5\n", "line 1: expected 6 columns between blanks, found 5"),
        (read_run, "\nq Q0 d 1 high tag\n", "line 2: the score 'high' is no number"),
        (read_run, "q Q0 d 1 nan tag\n", "is not finite"),
        (read_run, "q Q0 d 1 1 tag\nq Q0 d 2 2 tag\n", "line 2: document 'd' of query 'q' has another score"),
        (read_qrels, "q 0 d 1.5\n", "line 1: the judgement '1.5' is not a whole number"),
        (read_qrels, "q 0 d 1\nq 0 d 2\n", "line 2: document 'd' of query 'q' is judged otherwise"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, read: Callable[[Path], object], text: str, reason: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ReadError) as error:
        read(tmp_path / "file")
    assert reason in str(error.value)


def test_what_no_trec_file_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a finite number"):
        write_run(tmp_path / "run", {"q": {"d": float("nan")}})
    with pytest.raises(ValueError, match="no name"):
        write_run(tmp_path / "run", {" ": {"d": 1.0}})
    with pytest.raises(ValueError, match="'a' stands twice"):
        strict(["a", "b", "a"])


def outcome() -> QuestionOutcome:
    passages = [
        Passage(source="b", start=0, end=5, rank=2), Passage(source="a", start=2, end=4, rank=1),
        Passage(source="b", start=5, end=9, rank=3),
    ]  # fmt: skip
    stage = StageOutcome(stage="select", found=[], found_filtered=[], passages=passages)
    return QuestionOutcome(
        id="1", question="How tall?", type="factual", answerable="yes", reference="330 m", stages=[stage],
        evidence=[Passage(source="a", start=0, end=3, text="abc")], answer=AnswerOutcome(text="Tall.", abstained=False),
    )  # fmt: skip


def test_a_stage_of_a_chain_is_a_run() -> None:
    assert run_of([outcome()], "select") == {"1": {"a": 2.0, "b": 1.0}}
    assert run_of([outcome()], "fuse") == {}


def question(**known: Any) -> Question:
    evidence = (Evidence(source="my tower.md", text="330 m tall", start=13, end=23),)
    return Question(
        **{"id": "1", "question": "How tall?", "answers": ("330 m",), "sources": ("my tower.md",), "evidence": evidence, **known}
    )


def test_a_question_comes_back_from_ragas_but_for_what_ragas_has_no_word_for(tmp_path: Path) -> None:
    history = (Turn(role="user", text="Hello"), Turn(role="assistant", text="Yes?"))
    asked = question(history=history, relevant={"my tower.md": 1})
    write_samples(tmp_path / "ragas.jsonl", [sample_of(asked, as_messages=True), sample_of(asked)])
    first, second = read_samples(tmp_path / "ragas.jsonl")
    bare = tuple(each.model_copy(update={"start": None, "end": None}) for each in asked.evidence)
    assert question_of(first, "1") == asked.model_copy(update={"evidence": bare})
    assert second.user_input == "user: Hello\nassistant: Yes?\nuser: How tall?" and sample_of(question()).user_input == "How tall?"


@settings(max_examples=40, deadline=None)
@given(
    st.builds(RagasSample, user_input=st.text(), retrieved_contexts=st.none() | st.lists(st.text()), response=st.none() | st.text())
)
def test_records_come_back(tmp_path_factory: pytest.TempPathFactory, sample: RagasSample) -> None:
    path = tmp_path_factory.mktemp("ragas") / "samples.jsonl"
    write_samples(path, [sample, sample])
    assert read_samples(path) == [sample, sample]


def test_records_of_others_keep_their_fields_and_may_be_a_json_list(tmp_path: Path) -> None:
    record = {"user_input": "q", "reference_contexts": ["some text"], "rubrics": {"score1": "bad"}}
    (tmp_path / "list.json").write_text(json.dumps([record]))
    (sample,) = read_samples(tmp_path / "list.json")
    assert sample.model_dump(exclude_none=True) == record
    made = question_of(sample, "x")
    assert made.evidence == (Evidence(source=named("some text"), text="some text"),)
    assert contexts_of([sample]) == {named("some text"): "some text"}


def test_an_answer_becomes_response_and_contexts() -> None:
    hit = Hit(Chunk.of(DOCUMENTS[0], Span(0, 24)), 1.0)
    sample = sample_of(question(), Answer("How tall?", "330 m [1]", (), (hit,), Usage(), {}))
    assert (sample.response, sample.retrieved_contexts, sample.reference) == ("330 m [1]", [DOCUMENTS[0].text], "330 m")
    made = sample_of_outcome(outcome(), {"a": "abcdef", "b": "0123456789"})
    assert made.retrieved_contexts == ["01234", "cd", "5678"] and made.reference_contexts == ["abc"] and made.response == "Tall."
    with pytest.raises(ValueError, match="the text of 'b' is needed"):
        sample_of_outcome(outcome(), {"a": "abcdef"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"user_input": "q"}\nx', "record 2: not JSON"),
        ('{"user_input": 3}', "record 1: user_input"),
        ('{"user_input": "q"}\n{"response": "a"}', "record 2: user_input: Field required"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(ReadError) as error:
        read_samples(tmp_path / "bad.jsonl")
    assert reason in str(error.value)


def test_conversations_end_with_the_user() -> None:
    sample = RagasSample.model_validate({"user_input": [{"content": "hi", "type": "human"}, {"content": "yes", "type": "ai"}]})
    with pytest.raises(ValueError, match="not the user's"):
        question_of(sample, "1")
    with pytest.raises(ValueError, match="1 reference_context_ids do not pair with 2"):
        question_of(RagasSample(user_input="q", reference_contexts=["a", "b"], reference_context_ids=["x"]), "1")


def test_a_collection_is_what_ir_datasets_gives() -> None:
    made = Collection(
        DOCUMENTS, [question(), question(id="2", answerable="no"), question(id="3", sources=(), relevant={"ducks.md": 2})]
    )
    assert [tuple(doc) for doc in made.docs_iter()] == [(each.source, each.text) for each in DOCUMENTS]
    assert [tuple(qrel) for qrel in made.qrels_iter()] == [("1", "/files/my tower.md", 1, "0"), ("3", "ducks.md", 2, "0")]
    assert (made.docs_count(), made.queries_count()) == (2, 3)
    assert made.docs_store().get("ducks.md").text == "Ducks swim." and list(made.docs_store().get_many(["ducks.md", "x"])) == [
        "ducks.md"
    ]
    run = [ir_measures.ScoredDoc("1", "/files/my tower.md", 2.0), ir_measures.ScoredDoc("3", "ducks.md", 1.0)]
    assert ir_measures.calc_aggregate([ir_measures.nDCG @ 10], made.qrels_iter(), run)[ir_measures.nDCG @ 10] == 1.0


def test_a_beir_folder_comes_back(tmp_path: Path) -> None:
    questions = [question(), question(id="2", question="Who swims?", sources=(), evidence=(), relevant={"ducks.md": 2})]
    write_beir(tmp_path / "set", Collection(DOCUMENTS, questions))
    found = read_beir(tmp_path / "set")
    assert [(each.id, each.text) for each in found.corpus] == [(each.source, each.text) for each in DOCUMENTS]
    assert found.queries == {"1": "How tall?", "2": "Who swims?"}
    assert found.qrels == {"1": {"/files/my tower.md": 1}, "2": {"ducks.md": 2}} and qrels_of(questions) == {"2": {"ducks.md": 2}}
    with pytest.raises(FileExistsError):
        write_beir(tmp_path / "set", Collection(DOCUMENTS, questions))


def test_collections_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two documents are called 'ducks.md'"):
        Collection([DOCUMENTS[1], DOCUMENTS[1]], [])
    with pytest.raises(ValueError, match="two questions have the id '1'"):
        Collection(DOCUMENTS, [question(), question()])
    with pytest.raises(ValueError, match="there is no document 'cats.md'"):
        Collection(DOCUMENTS, [question(relevant={"cats.md": 1})])
    with pytest.raises(ValueError, match="tabs"):
        write_beir(tmp_path, Collection([document("a\tb", "text")], []))
