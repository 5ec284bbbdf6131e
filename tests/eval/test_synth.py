"""Made-up test sets over a real index: evidence that holds, reasons that are counted, runs that go on after an interruption."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rag import cli
from rag.core import Document
from rag.errors import ConfigError, ReadError
from rag.eval.question import Clause, Evidence, Question
from rag.eval.synth import Synthesis
from rag.eval.synth_cloze import BLANK
from rag.eval.synth_filter import SeenQuestions, brought_back
from rag.eval.synth_passages import drawn, passages
from rag.pipeline import Rag
from tests.fakes import HashingEncoder, ToyLM, document

TOPICS = ["Vienna", "Lisbon", "Oslo", "Athens", "Dublin", "Prague"]
SECRET = "The secret vault of Zurich holds 99 crowns and opens with the old key of Doctor Faust at night."
OpenLight = Callable[..., Rag]


def text_of(town: str, number: int) -> str:
    return (
        f"# Guide to {town}\n\n"
        f"The old bridge of {town} was opened in 18{number}3 and carries {number + 2} tram lines over the river every day.\n\n"
        f"Visitors of {town} find the museum of clocks behind the station, where a guard called Mister Quill{town} shows the way."
    )


@pytest.fixture
def towns(open_light: OpenLight) -> Rag:
    rag = open_light()
    documents = [document(f"{town}.md", text_of(town, number)) for number, town in enumerate(TOPICS)]
    rag.ingest_documents([*documents, document("secret.md", SECRET, principals=("user:ann",))])
    return rag


def texts(rag: Rag) -> dict[str, str]:
    with rag.catalog.reading() as read:
        return {row.source: read.document(row.id).text for row in read.documents()}


def check(questions: list[Question], known: dict[str, str]) -> None:
    """Every span of a question says what it claims to."""
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        clauses: list[Evidence | Clause] = [clause for point in question.points for clause in point.clauses]
        for each in [*clauses, *question.evidence]:
            assert each.source and known[each.source][each.start : each.end] == each.text


def read(out: Path) -> list[Question]:
    return [Question.model_validate_json(line) for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def writer(prompt: str) -> str:
    """A model that asks about the first town it sees, quotes the first sentence, and invents a clause about Oslo."""
    sources = re.findall(r"BEGIN SOURCE \d (\w+)\n(.*?)\nEND SOURCE", prompt, re.DOTALL)
    texts = [text for _, text in sources]
    towns = [next(town for town in TOPICS if town in text) for text in texts]
    if prompt.startswith("You write one question that the sources below do NOT"):
        return json.dumps({"question": f"Who painted the town hall of {towns[0]} {len(texts[0])}?"})
    if prompt.startswith("You decide whether"):
        return json.dumps({"answered": "Athens" in prompt.split("BEGIN QUESTION")[1]})
    if prompt.startswith("You mark what"):
        return json.dumps({"coarse": towns[:1], "points": [[texts[0][:40]], ["nobody wrote this"]]})
    quotes = ["an invented clause"] if towns[0] == "Oslo" else [text.splitlines()[0] for text in texts]
    subject = " and ".join(texts[0].split()[:9])
    return json.dumps({"question": f"What about {subject} in {towns[0]}, {len(prompt)}?", "answer": "Much.", "evidence": quotes})


def test_without_a_model_there_are_heading_and_cloze_questions(tmp_path: Path) -> None:
    config = {"indexes": {"words": {"use": "bm25"}}, "models": {"tokenizer": {"use": "words"}}}
    with Rag.open(tmp_path / "index", config) as rag:
        for number, town in enumerate(TOPICS):
            (tmp_path / f"{town}.md").write_text(text_of(town, number) + " " + "More of the same words follow here. " * 3)
        rag.ingest(tmp_path, include=["*.md"])
        report = Synthesis(rag, tmp_path / "out", num_questions=9).run()
        questions = read(tmp_path / "out")
        check(questions, texts(rag))
    assert report.num_questions == len(questions) == 9 and set(report.by_type) == {"heading", "cloze"}
    assert {question.type for question in questions} == {"heading", "cloze"}
    for question in questions:
        if question.type == "cloze":
            (gap,) = question.answers
            assert BLANK in question.question and gap not in re.findall(r"\w+", question.question)
            assert question.question.removeprefix("Which word is missing: ").replace(BLANK, gap) == " ".join(
                question.evidence[0].text.split()
            )
        else:
            assert "Guide to" in question.question


def test_the_rarest_name_is_taken_out(towns: Rag, tmp_path: Path) -> None:
    Synthesis(towns, tmp_path / "out", types=["cloze"]).run()
    answers = {question.answers[0] for question in read(tmp_path / "out")}
    assert any(answer.startswith("Quill") for answer in answers) and "The" not in answers


def test_with_a_model_every_type_and_every_reason(towns: Rag, tmp_path: Path) -> None:
    made = Synthesis(towns, tmp_path / "out", ToyLM(answer=writer), num_questions=500, k=3)
    report = made.run()
    questions = read(tmp_path / "out")
    check(questions, texts(towns))
    assert (
        set(report.by_type) == {"factual", "analytical", "tutorial", "comparative", "unanswerable"}
        and min(report.by_type.values()) > 0
    )
    assert report.dropped["evidence not in the source"] > 0 and report.dropped["answerable after all"] > 0
    assert report.num_refused >= report.num_questions - report.by_type["unanswerable"]  # one invented clause each
    assert sum(report.dropped.values()) + report.num_questions == report.num_tasks == 5 * report.num_passages
    for question in questions:
        assert (question.answerable == "no") == (question.type == "unanswerable") == (not question.evidence)
        assert question.type != "comparative" or len(question.evidence) == 2
        assert "Athens" not in question.question or question.answerable == "yes"
        assert not question.points or brought_back(towns, question.question, question.evidence, 3)


def test_what_not_everybody_may_read_is_in_no_question_and_no_corpus(towns: Rag, tmp_path: Path) -> None:
    assert "secret.md" not in {passage.source for passage in passages(towns)}
    made = Synthesis(towns, tmp_path / "out", num_questions=3)
    made.run()
    made.write_corpus()
    corpus = [json.loads(line) for line in (tmp_path / "out" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {each["source"] for each in corpus} == {f"{town}.md" for town in TOPICS}
    assert all(each["text"] == texts(towns)[each["source"]] for each in corpus)
    assert "Faust" not in "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir())


def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(towns: Rag, tmp_path: Path) -> None:
    Synthesis(towns, tmp_path / "whole", ToyLM(answer=writer), num_questions=8).run()

    def interrupting(prompt: str) -> str:
        calls.append(prompt)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return writer(prompt)

    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        Synthesis(towns, tmp_path / "torn", ToyLM(answer=interrupting), num_questions=8).run()
    with (tmp_path / "torn" / "questions.jsonl").open("a") as file:  # as a kill between the two writes leaves it
        file.write(read(tmp_path / "whole")[-1].model_dump_json() + "\n" + '{"id": "ha')
    with (tmp_path / "torn" / "manifest.jsonl").open("a") as file:
        file.write('{"task": "x"')
    assert 0 < len(Synthesis(towns, tmp_path / "torn", ToyLM(answer=writer), num_questions=8).store.questions) < 8
    again = ToyLM(answer=writer)
    Synthesis(towns, tmp_path / "torn", again, num_questions=8).run()
    for name in ("questions.jsonl", "manifest.jsonl"):
        assert (tmp_path / "torn" / name).read_text() == (tmp_path / "whole" / name).read_text()
    silent = ToyLM(answer=writer)
    Synthesis(towns, tmp_path / "torn", silent, num_questions=8).run()
    assert again.num_calls > 0 and silent.num_calls == 0


def test_other_settings_need_another_folder(towns: Rag, tmp_path: Path) -> None:
    Synthesis(towns, tmp_path / "out", num_questions=2).run()
    with pytest.raises(ConfigError, match="begun with seed=0, not 1; name a new folder"):
        Synthesis(towns, tmp_path / "out", seed=1)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "questions.jsonl").write_text("{}")
    with pytest.raises(ReadError, match="was not made here"):
        Synthesis(towns, tmp_path / "foreign")
    (tmp_path / "out" / "manifest.jsonl").write_text("[]\n")
    with pytest.raises(ReadError, match="damaged"):
        Synthesis(towns, tmp_path / "out")


def test_misuse_is_named(towns: Rag, tmp_path: Path, open_light: OpenLight) -> None:
    with pytest.raises(ValueError, match="unknown type 'factual'; allowed without a language model: heading, cloze"):
        Synthesis(towns, tmp_path / "out", types=["factual"])
    with pytest.raises(ValueError, match="k is 0"):
        Synthesis(towns, tmp_path / "out", k=0)
    empty = open_light(tmp_path / "empty")
    empty.ingest_documents([document("a", "short")])
    with pytest.raises(ValueError, match="no passage of prose"):
        Synthesis(empty, tmp_path / "out")


def test_the_order_is_seeded_and_takes_every_document_before_any_twice(towns: Rag) -> None:
    found = passages(towns)
    order = list(drawn(found, 7))
    assert order == list(drawn(found, 7)) != list(drawn(found, 8)) and sorted(order, key=str) == sorted(found, key=str)
    assert len({passage.source for passage in order[: len(TOPICS)]}) == len(TOPICS)


def test_repeats_are_seen_by_words_and_by_meaning() -> None:
    seen = SeenQuestions()
    seen.add("When was the old bridge of Vienna opened?")
    assert seen.is_repeated("when was Vienna's old bridge opened") and not seen.is_repeated("When was the museum opened?")
    by_meaning = SeenQuestions(HashingEncoder(256))
    by_meaning.add("who who who who who what")
    assert by_meaning.is_repeated("who who who who what")  # no content word in common: the vectors are near


def test_a_question_that_does_not_bring_its_evidence_back_is_dropped(towns: Rag, tmp_path: Path) -> None:
    (question, *_) = _made(towns, tmp_path)
    assert brought_back(towns, question.question, question.evidence, 10)
    assert not brought_back(towns, "tram lines", [each.model_copy(update={"source": "none.md"}) for each in question.evidence], 10)
    far = [
        each.model_copy(update={"source": "Vienna.md" if each.source != "Vienna.md" else "Oslo.md"}) for each in question.evidence
    ]
    assert not brought_back(towns, f"{question.sources[0]} Quill{question.sources[0].removesuffix('.md')}", far, 1)


def _made(rag: Rag, folder: Path) -> list[Question]:
    made = Synthesis(rag, folder / "made", types=["cloze"], num_questions=3)
    made.run()
    return made.store.questions


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    for number, town in enumerate(TOPICS):
        Path("docs", f"{town}.md").write_text(text_of(town, number))
    Path("light.yaml").write_text(
        "indexes: {words: {use: bm25}}\nmodels: {tokenizer: {use: words}}\nchunker: {use: recursive, max_tokens: 40}\n"
    )
    run: Any = CliRunner().invoke
    assert run(cli.app, ["ingest", "docs", "--config", "light.yaml"]).exit_code == 0
    monkeypatch.setattr(Synthesis, "__init__", _without_encoder(Synthesis.__init__))
    done = run(cli.app, ["eval", "synth", "rag.index", "set", "--lm", "none", "-n", "4"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "4 questions in set" in done.output and "no measure of answers" in done.output
    assert len(read(Path("set"))) == 4 and Path("set/corpus.jsonl").exists()
    refused = run(cli.app, ["eval", "synth", "rag.index", "other"])
    assert "or say --lm none" in str(refused.exception) and not Path("other").exists()
    assert "allowed are none, lm, judge" in str(run(cli.app, ["eval", "synth", "rag.index", "other", "--lm", "x"]).exception)


def _without_encoder(init: Callable[..., None]) -> Callable[..., None]:
    """The embedded encoder takes seconds to load; questions are compared by words here."""

    def made(self: Synthesis, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **{**options, "encoder": None})

    return made


def test_documents_keep_their_ids(towns: Rag) -> None:
    assert {passage.doc_id for passage in passages(towns)} == {Document.id_of(f"{town}.md") for town in TOPICS}
