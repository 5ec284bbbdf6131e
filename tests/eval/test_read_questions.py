"""Every layout is recognised and read; what is wrong is named with its place; sets are checked and written in our own layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag.errors import ReadError
from rag.eval.question import Clause, Evidence, Question
from rag.eval.question_check import check_set, with_points
from rag.eval.question_set import QuestionSet, Sources
from rag.eval.read_own import write_own
from rag.eval.read_questions import read_questions
from rag.eval.span_set import document_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "spans"
DUCKS = "Ducks swim on ponds. Mallards weigh about 1.1 kg, and they eat weed. Nobody counted them."


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, *values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def own(folder: Path) -> Path:
    write_lines(folder / "questions.jsonl", {"id": "q", "question": "How heavy are mallards?", "sources": ["ducks.txt"], "answers": ["1.1 kg"],
                "evidence": [{"source": "ducks.txt", "text": "Mallards weigh about 1.1 kg"}]})  # fmt: skip
    (folder / "documents").mkdir()
    (folder / "documents" / "ducks.txt").write_text(DUCKS, encoding="utf-8")
    return folder


def own_corpus(folder: Path) -> Path:
    write_lines(folder / "questions.jsonl", {"id": "q", "question": "How heavy are mallards?", "sources": ["ducks"], "answers": ["1.1 kg"],
                "evidence": [{"source": "ducks", "text": DUCKS[21:50], "start": 21, "end": 50}]})  # fmt: skip
    write_lines(folder / "corpus.jsonl", {"source": "ducks", "text": DUCKS, "meta": {"year": 2020}})
    return folder


def beir(folder: Path) -> Path:
    write_lines(folder / "corpus.jsonl", {"_id": "ducks", "title": "Ducks", "text": DUCKS}, {"_id": "cats", "text": "Cats sleep."})
    write_lines(folder / "queries.jsonl", {"_id": "q", "text": "How heavy are mallards?"})
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\tducks\t2\nq\tcats\t0\n", encoding="utf-8")
    return folder


def squad(folder: Path) -> Path:
    asked = [
        {"id": "q", "question": "How heavy are mallards?", "answers": [{"text": "1.1 kg", "answer_start": DUCKS.index("1.1 kg")}]},
        {"id": "no", "question": "How many are there?", "answers": [], "is_impossible": True},
    ]
    return write_json(folder / "xquad.en.json", {"data": [{"title": "Ducks", "paragraphs": [{"context": DUCKS, "qas": asked}]}]})


def long_documents(folder: Path) -> Path:
    start = DUCKS.index("1.1 kg")
    asked = {"qid": "q", "question": "How heavy are mallards?", "answer": "1.1 kg", "start": start, "end": start + 6}
    return write_lines(folder / "long.jsonl", {"doc_id": "a", "title": "Ducks", "text": DUCKS, "questions": [asked]})


def mtrag(folder: Path) -> Path:
    said = [("user", "What are ducks?"), ("agent", "Birds."), ("user", "How heavy are mallards?")]
    task = {
        "task_id": "q", "contexts": [{"document_id": "ducks", "text": DUCKS}], "input": [{"speaker": who, "text": text} for who, text in said],
        "targets": [{"speaker": "agent", "text": "Mallards weigh about 1.1 kg."}], "answerability": ["ANSWERABLE"], "Question Type": ["Factoid"],
    }  # fmt: skip
    none = {**task, "task_id": "no", "contexts": [], "input": task["input"][:1], "answerability": ["UNANSWERABLE"]}
    vague = {
        **task,
        "task_id": "vague",
        "input": [*task["input"][:2], {"speaker": "user", "text": "And?"}],
        "answerability": ["UNDERSPECIFIED"],
    }
    return write_lines(folder / "reference.jsonl", task, none, vague)


def clapnq(folder: Path) -> Path:
    passage = {"title": "Ducks", "text": DUCKS, "sentences": [DUCKS[:20]]}
    answer = {"answer": "About 1.1 kg.", "selected_sentences": ["Mallards weigh about 1.1 kg, and they eat weed.&"], "meta": {}}
    good = {"id": "q", "input": "how heavy are mallards", "passages": [passage], "output": [answer]}
    return write_lines(
        folder / "clapnq.jsonl", good, {**good, "id": 7, "input": "who counted them", "output": [{"answer": None, "meta": None}]}
    )


def pubmedqa(folder: Path) -> Path:
    record = {"QUESTION": "Are mallards heavy?", "CONTEXTS": [DUCKS, "We weighed mallards: 1.1 kg."], "LONG_ANSWER": "Mallards weigh about 1.1 kg.",
              "final_decision": "no", "YEAR": "2011"}  # fmt: skip
    return write_json(folder / "pqal.json", {"q": record})


def cofe(folder: Path) -> Path:
    example = {"query_type": "\u4e8b\u5b9e\u7c7b", "query": "How heavy are mallards?", "reference_answer": "1.1 kg", "file_name": "ducks.txt",
               "coarse_keywords": ["Mallards"], "fine_keywords": [["weigh about 1.1 kg", "eat weed"], "ducks swim"]}  # fmt: skip
    own(folder)
    (folder / "questions.jsonl").unlink()
    return write_json(folder / "rag_dataset.json", {"examples": [example]})


def table(folder: Path) -> Path:
    own(folder)
    (folder / "questions.jsonl").unlink()
    path = folder / "faq.csv"
    path.write_text(
        'Question,Answer,Source,Evidence\nHow heavy are mallards?,1.1 kg,ducks.txt,"weigh about 1.1 kg"\n', encoding="utf-8"
    )
    return path


def spans(folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "corpora_layout", folder, dirs_exist_ok=True))


def meetings(folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "meetings_layout", folder, dirs_exist_ok=True))


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    each.__name__: each
    for each in (own, own_corpus, beir, squad, long_documents, mtrag, clapnq, pubmedqa, cofe, table, spans, meetings)
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    folder = tmp_path / "set"
    folder.mkdir()
    return request.param, LAYOUTS[request.param](folder)


def test_every_layout_is_recognised_and_nothing_is_wrong_with_it(layout: tuple[str, Path]) -> None:
    name, path = layout
    given = read_questions(path)
    assert given.questions and (given.documents or given.files)
    report = check_set(given)
    assert not report.faults, name
    if name not in ("spans", "meetings"):
        first = given.questions[0]
        assert "mallards" in first.question.lower() and first.sources
    if name not in ("beir",):
        assert dict(report.counts[given.name])["with information points"] >= 1


def test_the_folder_of_a_single_set_does_as_well(layout: tuple[str, Path]) -> None:
    _, path = layout
    assert read_questions(path.parent if path.is_file() else path).questions == read_questions(path).questions


def test_our_layout_holds_all_of_them(layout: tuple[str, Path], tmp_path: Path) -> None:
    """Converted and read again it is the same set; questions have their points then, and each stands in the text."""
    given = with_points(read_questions(layout[1]))
    write_own(given, tmp_path / "ours")
    again = read_questions(tmp_path / "ours")
    assert again.questions == given.questions
    assert [(each.source, each.text) for each in again.documents] == [(each.source, each.text) for each in given.documents]
    assert not check_set(again).faults
    with pytest.raises(FileExistsError, match="not empty"):
        write_own(given, tmp_path / "ours")


def test_what_each_layout_says(tmp_path: Path) -> None:
    (question,) = read_questions(beir(made(tmp_path / "beir"))).questions
    assert question.relevant == {"beir:ducks": 2}
    answerable, impossible = read_questions(squad(tmp_path / "squad")).questions
    assert answerable.evidence[0].text == "Mallards weigh about 1.1 kg, and they eat weed." and impossible.answerable == "no"
    full, none, vague = read_questions(mtrag(tmp_path / "mtrag")).questions
    assert (full.answerable, none.answerable, vague.answerable) == ("yes", "no", "unclear")
    assert [(turn.role, turn.text) for turn in full.history] == [("user", "What are ducks?"), ("assistant", "Birds.")]
    assert full.evidence[0].text == "Mallards weigh about 1.1 kg, and they eat weed." and not none.evidence
    (claps, unanswerable) = read_questions(clapnq(tmp_path / "clap")).questions
    assert claps.evidence[0].start == 21 and unanswerable.id == "7" and unanswerable.answerable == "no"
    (medical,) = read_questions(pubmedqa(tmp_path / "pubmed")).questions
    assert medical.answers == ("Mallards weigh about 1.1 kg.", "no")
    (fine,) = read_questions(cofe(made(tmp_path / "cofe"))).questions
    assert fine.type == "factual" and [len(point.clauses) for point in fine.points] == [2, 1] and fine.coarse == ("Mallards",)


def test_points_of_evidence_have_exact_places(tmp_path: Path) -> None:
    (question,) = with_points(read_questions(long_documents(tmp_path))).questions
    (point,) = question.points
    assert all(DUCKS[clause.start : clause.end] == clause.text for clause in point.clauses)
    assert question.coarse == ("mallards",)


def test_unknown_layouts_are_refused_with_what_was_expected(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    for path in (tmp_path, tmp_path / "x.json"):
        with pytest.raises(ValueError, match=r"is no question set: .*Expected a folder with questions.jsonl"):
            read_questions(path)
    with pytest.raises(FileNotFoundError):
        read_questions(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("build", "spoil", "message"),
    [
        (own, lambda path: write_lines(path / "questions.jsonl", {"id": "q", "question": ""}), "line 1: question"),
        (own, lambda path: shutil.rmtree(path / "documents"), "expected a folder documents/"),
        (own_corpus, lambda path: write_lines(path / "corpus.jsonl", *[{"source": "a", "text": "b"}] * 2), "line 2: source 'a'"),
        (squad, lambda path: path.write_text(path.read_text().replace('"answer_start": ', '"answer_start": 1')), "question q: characters"),
        (mtrag, lambda path: path.write_text(path.read_text().replace('"task_id": "no"', '"task_id": 3')), "line 2: task_id"),
        (table, lambda path: path.write_text("frage,antwort\na,b\n"), "has no column question"),
        (table, lambda path: path.write_text("question,evidence\na,b\n"), "row 1: has evidence but no source"),
        (pubmedqa, lambda path: write_json(path, {"q": {"QUESTION": "x", "CONTEXTS": []}}), "q.CONTEXTS"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(build: Any, spoil: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    path = build(tmp_path / "set")
    spoil(path)
    with pytest.raises(ReadError, match=message):
        read_questions(path)


def test_check_names_everything_that_is_wrong() -> None:
    document = document_of("ducks", DUCKS)
    good = Evidence(source="ducks", text=DUCKS[21:50], start=21, end=50)
    questions = [
        Question(id="a", question="How heavy?", evidence=(good,)),
        Question(id="a", question="How heavy?", evidence=(good.model_copy(update={"start": 20, "end": 49}),)),
        Question(id="b", question="What else?", sources=("cats",)),
        Question(id="c", question="And then?", evidence=(Evidence(source="ducks", text="Mallards weigh about 9 kg"),)),
    ]
    faults = check_set(QuestionSet("bad", tuple(questions), (document,))).faults
    assert faults["ids that stand twice"] == ["'a', 2 times"] and faults["questions that stand twice"] == ["'How heavy?', 2 times"]
    assert faults["missing documents"] == ["'cats', named by 1 questions ('b' first)"]
    moved, absent = faults["spans that do not match"]
    assert "it stands at 21 to 48" in moved or "it stands at 21 to 50" in moved
    assert "the nearest is 'Mallards weigh about' at 21 to 41" in absent
    (unlocated,) = faults["points that cannot be located"]
    assert "'c'" in unlocated and "9 kg" in unlocated
    assert check_set(QuestionSet("none", (), ())).faults["empty sets"] == ["none has no questions", "none has no documents"]


def test_files_that_do_not_hold_the_words_are_named(tmp_path: Path) -> None:
    path = own(tmp_path)
    (path / "documents" / "ducks.txt").write_text("Something else.", encoding="utf-8")
    (path / "documents" / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    faults = check_set(read_questions(path)).faults
    assert "the files as read do not hold" in faults["points that cannot be located"][0]
    assert "broken.pdf" in faults["files that cannot be read"][0]


def test_sources_are_found_by_their_ends_at_separators() -> None:
    sources = Sources(
        {"1": "/home/ann/manual.pdf", "2": "/home/ann/a-manual.pdf", "3": "C:\\files\\manual.pdf", "4": "x/ann/manual.pdf"}
    )
    assert sources.find("manual.pdf") == ["1", "3", "4"] and sources.find("ann/manual.pdf") == ["1", "4"]
    assert sources.find("files/manual.pdf") == ["3"] and sources.find("/home/ann/manual.pdf") == ["1"]
    assert sources.find("nual.pdf") == [] and sources.find("no.pdf") == []


def test_a_set_has_documents_or_files_not_both(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        QuestionSet("x", (), (document_of("a", "b"),), (tmp_path,))


def test_clauses_are_cut_at_strong_marks_only() -> None:
    from rag.eval.keywords import points_of

    text = "The old mill on the river, which nobody had used for years, burned down in May; its owner, Ann, left. Yes."
    (point,) = points_of([Evidence(source="s", text=text, start=100, end=100 + len(text))])
    said = [clause.text for clause in point.clauses]
    assert said == ["The old mill on the river", "which nobody had used for years", "burned down in May", "its owner, Ann, left."]
    assert all(clause.start is not None and text[clause.start - 100 :].startswith(clause.text) for clause in point.clauses)
    assert isinstance(point.clauses[0], Clause)


def test_nothing_is_wrong_with_the_questions_about_the_examples() -> None:
    """Twenty-odd real files of many formats: every quotation stands in what the readers take out of them."""
    report = check_set(read_questions(Path(__file__).parents[2] / "examples"))
    assert not report.faults
    assert dict(report.counts["examples"])["with information points"] == 55
