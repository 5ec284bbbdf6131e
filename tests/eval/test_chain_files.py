"""Sets about files: the pipeline reads them, and what it cannot read is lost at ``read``, not left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rag.eval.chain import evaluate_chain
from rag.eval.chain_report import ChainReport
from rag.eval.question import Clause, Evidence, Point, Question
from rag.eval.question_set import QuestionSet
from tests.eval.chain_corpus import WORDS, Quoting

PDFS = Path(__file__).parents[1] / "fixtures" / "pdf"


@pytest.fixture
def given(tmp_path: Path) -> QuestionSet:
    folder = tmp_path / "documents"
    folder.mkdir()
    shutil.copy(PDFS / "encrypted.pdf", folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "ducks.txt").write_text("Mallards weigh ab-\nout 1.1 kg. They eat weed.\n", encoding="utf-8")
    (folder / "scrambled.txt").write_text("Mallards eat about weed 1.1 kg weigh.", encoding="utf-8")
    return QuestionSet(
        "files",
        (
            Question(id="good", question="How heavy are mallards?", evidence=(Evidence(source="sub/ducks.txt", text="weigh about 1.1 kg"),)),
            Question(id="scrambled", question="How heavy are mallards?", evidence=(Evidence(source="scrambled.txt", text="weigh about 1.1 kg"),)),
            Question(id="unread", question="What is secret?", evidence=(Evidence(source="encrypted.pdf", text="the secret plan of the ducks"),)),
            Question(id="absent", question="What is gone?", evidence=(Evidence(source="absent.pdf", text="words of a lost file"),)),
            Question(id="anywhere", question="What do they eat?", points=(Point(clauses=(Clause(text="they EAT weed"),)),)),
        ),
        files=(folder,),
    )  # fmt: skip


def evaluate(given: QuestionSet, cache: Path, generator: Quoting) -> ChainReport:
    return evaluate_chain(given, {"words": WORDS}, cache_folder=cache, components={"words": {"generator": generator}})


def test_what_the_reader_loses_is_lost_at_read_and_what_is_not_of_the_set_is_counted_apart(
    given: QuestionSet, tmp_path: Path
) -> None:
    report = evaluate(given, tmp_path / "cache", Quoting())
    outcome = report.configs[0]
    assert {question.id: question.lost_at for question in outcome.questions} == {
        "good": None, "scrambled": "read", "unread": "read", "absent": None, "anywhere": None,
    }  # fmt: skip
    assert outcome.stages[0].recall.mean == 0.5 and outcome.stages[0].recall.num_failed == 1
    assert outcome.questions[3].unlocated == ["words of a lost file"]
    assert any("1 files could not be read" in remark for remark in report.remarks)
    evidence = outcome.questions[0].evidence[0]
    assert evidence.source == "sub/ducks.txt" and report.documents[evidence.source][evidence.start : evidence.end] == evidence.text
    cited = {each.source for question in outcome.questions if question.answer for each in question.answer.citations}
    assert cited and cited <= {"sub/ducks.txt", "scrambled.txt"}, "no folder of this machine"
    assert str(tmp_path) not in report.model_dump_json()


def test_a_second_run_over_files_asks_nothing_and_an_edit_asks_again(given: QuestionSet, tmp_path: Path) -> None:
    evaluate(given, tmp_path / "cache", Quoting())
    again = Quoting()
    evaluate(given, tmp_path / "cache", again)
    assert again.num_asked == 0
    (given.files[0] / "scrambled.txt").write_text("Mallards weigh about 1.1 kg.", encoding="utf-8")
    report = evaluate(given, tmp_path / "cache", again)
    assert again.num_asked == 5 and report.configs[0].questions[1].lost_at is None


def test_a_pdf_is_judged_by_what_the_reader_takes_out_of_it(tmp_path: Path) -> None:
    """The page numbers its lines, and the numbers stay in the text: what a person reads across a line end is not there."""
    (tmp_path / "documents").mkdir()
    shutil.copy(PDFS / "scotus-transcript-p1.pdf", tmp_path / "documents")
    said = {
        "inside a line": "argument before the Supreme Court of the United States",
        "across lines": "came on for oral argument before the Supreme Court",
    }
    questions = [
        Question(id=name, question=text, points=(Point(clauses=(Clause(text=text, source="scotus-transcript-p1.pdf"),)),))
        for name, text in said.items()
    ]
    report = evaluate(QuestionSet("pdf", tuple(questions), files=(tmp_path / "documents",)), tmp_path / "cache", Quoting())
    assert [question.lost_at for question in report.configs[0].questions] == [None, "read"]
