"""Sets about whole files: CoFE-RAG's JSON and plain CSV tables, each with a folder of documents beside it. Knows no pipeline."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rag.errors import ReadError
from rag.eval.question import Clause, Evidence, Point, Question
from rag.eval.question_set import QuestionSet
from rag.eval.read_own import CORPUS, documents_beside, read_corpus
from rag.eval.read_records import bad_place, checked

COLUMNS = ("question", "answer", "source", "evidence", "id", "type")
_TYPES = {
    "\u4e8b\u5b9e\u7c7b": "factual", "\u5206\u6790\u7c7b": "analytical", "\u6bd4\u8f83\u7c7b": "comparative", "\u6559\u7a0b\u7c7b": "tutorial",
}  # fmt: skip


class _Example(BaseModel):
    model_config = ConfigDict(extra="ignore")
    query: str = Field(min_length=1)
    query_type: str = "factual"
    reference_answer: str = ""
    file_name: str | None = None
    coarse_keywords: list[str] = []
    fine_keywords: list[list[str] | str] = []


class _Examples(BaseModel):
    model_config = ConfigDict(extra="ignore")
    examples: list[_Example]


def read_cofe(path: Path, value: Any) -> QuestionSet:
    """CoFE-RAG's questions (github.com/Alibaba-NLP/CoFE-RAG): a fine keyword list is a point, its items are clauses of ``file_name``.

    An item that is a string and no list is a point of its own.
    """
    examples = checked(path, "", _Examples, value if isinstance(value, dict) else {"examples": value}).examples
    questions = []
    for number, each in enumerate(examples, start=1):
        lists = [[words] if isinstance(words, str) else words for words in each.fine_keywords]
        clauses = [tuple(Clause(text=text, source=each.file_name) for text in words if text.strip()) for words in lists]
        questions.append(
            Question(
                id=f"{path.stem}-{number}",
                question=each.query.strip(),
                type=_TYPES.get(each.query_type, each.query_type.lower()),
                answers=(each.reference_answer,) if each.reference_answer.strip() else (),
                sources=(each.file_name,) if each.file_name else (),
                coarse=tuple(term for term in each.coarse_keywords if term.strip()),
                points=tuple(Point(clauses=own) for own in clauses if own),
            )
        )
    return QuestionSet(path.stem, tuple(questions), files=(documents_beside(path),))


def read_table(path: Path) -> QuestionSet:
    """A CSV file with a head: ``question`` and, as far as known, ``answer``, ``source``, ``evidence`` (a quotation of the source), ``id``, ``type``.

    Beside it a folder ``documents/`` or a ``corpus.jsonl``. Raises ``ReadError`` with the row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            if "question" not in columns:
                raise ReadError(
                    path, f"has no column question; expected {', '.join(COLUMNS)}, found {', '.join(columns) or 'nothing'}"
                )
            reader.fieldnames = columns
            rows = list(reader)
    except csv.Error as error:
        raise ReadError(path, f"not CSV ({error})") from None
    except UnicodeDecodeError as error:
        raise ReadError(path, f"not UTF-8 ({error.reason})") from None
    questions = tuple(_row(path, number, row) for number, row in enumerate(rows, start=1))
    if (path.parent / CORPUS).is_file():
        return QuestionSet(path.stem, questions, documents=tuple(read_corpus(path.parent / CORPUS)))
    return QuestionSet(path.stem, questions, files=(documents_beside(path),))


def _row(path: Path, number: int, row: dict[str, Any]) -> Question:
    if None in row or None in row.values():
        raise bad_place(path, f"row {number}", "has not as many cells as the head")
    cells = {name: str(row.get(name) or "").strip() for name in COLUMNS}
    if not cells["question"]:
        raise bad_place(path, f"row {number}", "the question is blank")
    if cells["evidence"] and not cells["source"]:
        raise bad_place(path, f"row {number}", "has evidence but no source")
    return Question(
        id=cells["id"] or str(number),
        question=cells["question"],
        type=cells["type"] or "factual",
        answers=(cells["answer"],) if cells["answer"] else (),
        sources=(cells["source"],) if cells["source"] else (),
        evidence=(Evidence(source=cells["source"], text=cells["evidence"]),) if cells["evidence"] else (),
    )
