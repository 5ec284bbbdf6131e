"""The shipped examples: their licences are stated, their configuration is in force, and the chain answers their questions."""

import json
import re
import runpy
from pathlib import Path

import pytest

from rag import Rag, config
from rag.config import Config
from rag.embedded import model_path
from rag.errors import MissingExtra
from rag.eval.question_check import check_set
from rag.eval.read_questions import read_questions
from rag.read.worker import read_file

EXAMPLES = Path(__file__).parents[1] / "examples"
DOCUMENTS = sorted((EXAMPLES / "documents").iterdir())
EXPECTED = json.loads((EXAMPLES / "expected.json").read_text(encoding="utf-8"))
LONG = (
    "longeval-eacl-2023.pdf",
    "zinc-finger-proteins.nxml",
    "boeing-737-max-proposed-rule.pdf",
    "state-of-the-union-2024.txt",
    "duck.html",
)
LICENCES = {
    "MIT (`MIT-docling.txt`)": "MIT-docling.txt",
    "CC BY 4.0": "CC-BY-4.0.txt",
    "CC BY-SA 4.0": "CC-BY-SA-4.0.txt",
    "CC0 1.0": "CC0-1.0.txt",
    "work of the US government, public domain": None,
}


def test_there_is_enough_to_try_and_not_too_much_to_ship() -> None:
    assert len(DOCUMENTS) >= 20
    assert len({path.suffix for path in DOCUMENTS}) >= 6
    sizes = [path.stat().st_size for path in DOCUMENTS]
    assert sum(sizes) < 6_000_000 and max(sizes) < 2_500_000


def test_every_document_states_origin_and_licence() -> None:
    stated: dict[str, str] = {}
    for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            files, origin, licence = (cell.strip() for cell in line.strip("| ").split(" | "))
            assert origin and licence in LICENCES, line
            for name in re.findall(r"`([^`]+)`", files):
                assert name not in stated, f"{name} is listed twice"
                stated[name] = licence
    assert sorted(stated) == [path.name for path in DOCUMENTS]
    for licence in set(stated.values()):
        text = LICENCES[licence]
        assert text is None or (EXAMPLES / "documents-licences" / text).stat().st_size > 1000


def test_the_questions_are_answered_in_three_formats() -> None:
    questions = (EXAMPLES / "questions.txt").read_text(encoding="utf-8").splitlines()
    assert questions == [wanted["question"] for wanted in EXPECTED] and len(questions) == 3
    files = [EXAMPLES / "documents" / wanted["file"] for wanted in EXPECTED]
    assert all(path in DOCUMENTS for path in files) and len({path.suffix for path in files}) == 3


def test_the_commented_configuration_says_the_defaults() -> None:
    loaded = config.load(EXAMPLES / "rag.yaml")
    config.check(loaded)
    shown, default = loaded.model_dump(), Config().model_dump()
    shown["select"].pop("k")  # written out for the reader; the selector's own default
    assert shown == default


@pytest.mark.parametrize("name", ["quickstart.py", "compare_chunkers.py"])
def test_the_scripts_import(name: str) -> None:
    assert callable(runpy.run_path(str(EXAMPLES / name), run_name="imported")["main"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_document_is_read(path: Path) -> None:
    text = " ".join(read_file(path, sandbox=False).text.split())
    assert len(text) > 100
    for wanted in EXPECTED:
        if wanted["file"] == path.name:
            assert wanted["citation_contains"] in text


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Rag:
    """The documents but for the longest ones without an answer, which take most of the time to encode."""
    try:
        model_path()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    opened = Rag.open(tmp_path_factory.mktemp("examples") / "demo.index", EXAMPLES / "rag.yaml")
    report = opened.ingest(EXAMPLES / "documents", exclude=LONG)
    assert not report.failed and len(report.added) == len(DOCUMENTS) - len(LONG)
    return opened


@pytest.mark.parametrize("wanted", EXPECTED, ids=[wanted["file"] for wanted in EXPECTED])
def test_each_question_is_answered_with_the_expected_citation(rag: Rag, wanted: dict[str, str]) -> None:
    answer = rag.ask(wanted["question"])
    assert not answer.abstained
    cited = [(Path(citation.source).name, " ".join(citation.quote.split())) for citation in answer.citations]
    assert any(name == wanted["file"] and wanted["citation_contains"] in quote for name, quote in cited), cited
    assert wanted["citation_contains"] in " ".join(answer.text.split())


def test_the_sixty_questions_are_sound() -> None:
    given = read_questions(EXAMPLES)
    report = check_set(given)
    assert not report.faults, report.faults
    assert len(given.questions) == 60 and sum(question.answerable == "no" for question in given.questions) == 5
    told = {evidence.source for question in given.questions for evidence in question.evidence}
    assert told == {path.name for path in DOCUMENTS}, "every document is asked about"
