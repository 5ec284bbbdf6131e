"""Points for questions that people wrote, by a scripted model over real passages: located, counted, gone on with, asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rag import cli
from rag.core import LM
from rag.eval.marking import Marking
from rag.eval.question import Question
from rag.eval.question_check import check_set, library_of
from rag.eval.read_questions import read_questions
from tests.fakes import ToyLM

PUMP = "# The pump\n\nThe pump runs at 3 bar. It was built in Graz.\n\n# The lid\n\nClose the valve be-\nfore you open the lid."
MILL = "# The mill\n\nThe old mill grinds four tons of rye a day. Its wheel has twelve blades. A pump runs at some pressure there, too."
GIVEN: list[dict[str, Any]] = [
    {"id": "named", "question": "At which pressure does the pump run?", "answers": ["3 bar"], "sources": ["pump.md"]},
    {"id": "anywhere", "question": "How much does the mill grind?", "answers": ["four tons of rye"]},
    {"id": "evident", "question": "How many blades?", "evidence": [{"source": "mill.md", "text": "Its wheel has twelve blades."}]},
    {"id": "unanswerable", "question": "Who owns the mill?", "answerable": "no"},
    {"id": "refused", "question": "Where was the pump built?", "answers": ["Linz"]},
]


def said(prompt: str) -> str:
    """Reads the question out of the prompt and marks what a model might."""
    asked = prompt.rsplit("Question:", 1)[1]
    if "pressure" in asked:
        return json.dumps({"coarse": ["pump"], "points": [["pump runs at 3 bar"]]})
    if "grind" in asked:
        return json.dumps({"coarse": ["mill", "steam"], "points": [["four tons of rye"], ["a day", "sold in Linz"]]})
    return json.dumps({"coarse": ["pump"], "points": [["built in Linz"]]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "set"
    (path / "documents").mkdir(parents=True)
    (path / "documents" / "pump.md").write_text(PUMP, encoding="utf-8")
    (path / "documents" / "mill.md").write_text(MILL, encoding="utf-8")
    (path / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in GIVEN), encoding="utf-8")
    return path


def by_id(questions: tuple[Question, ...]) -> dict[str, Question]:
    return {question.id: question for question in questions}


def test_points_are_located_in_the_documents_and_the_rest_is_counted(folder: Path, tmp_path: Path) -> None:
    lm = ToyLM(answer=said)
    marking = Marking(read_questions(folder), lm, tmp_path / "kept.sqlite")
    found = by_id(marking.run().questions)
    (clause,) = found["named"].points[0].clauses
    assert (clause.text, clause.source) == ("pump runs at 3 bar", "pump.md")
    library, _ = library_of(read_questions(folder))
    (text,) = (library.texts[doc] for doc in library.find("pump.md"))
    assert clause.start is not None and text[clause.start : clause.end] == clause.text and found["named"].coarse == ("pump",)
    assert [point.text for point in found["anywhere"].points] == ["four tons of rye"] and found["anywhere"].coarse == ("mill",)
    assert found["evident"].points and not found["unanswerable"].points and not found["refused"].points
    report = marking.report
    assert (report.num_marked, report.num_ready, report.num_unanswerable) == (2, 1, 1)
    assert report.num_refused == 3  # "steam", "sold in Linz", "built in Linz"
    assert list(report.failures) == ["refused"] and "word for word" in report.failures["refused"]
    assert lm.num_calls == 3, "evidence and unanswerable questions need no model"
    shown = next(prompt for prompt in lm.prompts if "pressure" in prompt)
    assert "four tons" not in shown, "a question that names its document is marked in that document"


def test_what_was_marked_is_kept_and_what_failed_is_asked_again(folder: Path, tmp_path: Path) -> None:
    def run(lm: LM) -> dict[str, Question]:
        marking = Marking(read_questions(folder), lm, tmp_path / "kept.sqlite")
        try:
            return by_id(marking.run().questions)
        finally:
            marking.close()

    calls: list[str] = []

    def until_interrupted(prompt: str) -> str:
        calls.append(prompt)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return said(prompt)

    with pytest.raises(KeyboardInterrupt):
        run(ToyLM(answer=until_interrupted))
    second = ToyLM(answer=said)
    whole = run(second)
    assert second.num_calls == 2, "the first question was kept"
    third = ToyLM(answer=said)
    assert run(third) == whole and third.num_calls == 1, "only the failed one is asked for again"


def test_a_document_that_is_not_there_is_a_failure_not_a_search_of_the_others(folder: Path, tmp_path: Path) -> None:
    given = read_questions(folder)
    lost = given.some([Question(id="lost", question="At which pressure does the pump run?", sources=("gone.md",))])
    marking = Marking(lost, ToyLM(answer=said), tmp_path / "kept.sqlite")
    assert not marking.run().questions[0].points and "no passage" in marking.report.failures["lost"]


def test_the_command_writes_a_sound_set_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.cli_eval_judge.configured_model", lambda config, name: ToyLM(answer=said))
    out = tmp_path / "marked"
    arguments = ["eval", "data", "mark", str(folder), str(out), "--config", "any.yaml"]
    result = CliRunner().invoke(cli.app, arguments)
    told = " ".join(result.output.split())
    assert result.exit_code == 1 and "2 questions marked, 1 had points or evidence, 1 unanswerable" in told
    assert "not marked: refused" in told and not out.with_name("marked.part").exists()
    written = read_questions(out)
    assert not check_set(written).faults
    assert by_id(written.questions)["named"].points
    again = CliRunner().invoke(cli.app, arguments)
    assert again.exit_code != 0 and "not empty" in str(again.exception or again.output)


def test_misuse(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k is 0"):
        Marking(read_questions(folder), ToyLM(), tmp_path / "kept.sqlite", k=0)
