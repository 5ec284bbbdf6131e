"""Our own layout: ``questions.jsonl`` beside ``documents/`` (files) or ``corpus.jsonl`` (texts). Reads and writes it; knows no other.

A line of ``questions.jsonl`` is a ``rag.eval.question.Question``. A line of ``corpus.jsonl`` is ``{"source": ..., "text": ...}`` and may have
``meta``; its text is taken character by character, so offsets of the questions hold.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rag.core import Document
from rag.errors import ReadError
from rag.eval.question import Question
from rag.eval.question_set import QuestionSet
from rag.eval.read_records import bad_place, records_of
from rag.eval.span_set import document_of

QUESTIONS, CORPUS, DOCUMENTS = "questions.jsonl", "corpus.jsonl", "documents"


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid")
    source: str = Field(min_length=1)
    text: str
    meta: dict[str, Any] = {}


def read_own(path: Path) -> QuestionSet:
    """The set of a folder or of its question file. Raises ``ReadError`` with file and line, or if there are no documents beside it."""
    file = path / QUESTIONS if path.is_dir() else path
    questions = tuple(question for _, question in records_of(file, Question))
    folder = file.parent
    name = folder.resolve().name if file.name == QUESTIONS else file.stem
    if (folder / CORPUS).is_file():
        return QuestionSet(name, questions, documents=tuple(read_corpus(folder / CORPUS)))
    return QuestionSet(name, questions, files=(documents_beside(file),))


def read_corpus(path: Path) -> Iterable[Document]:
    """The documents of a ``corpus.jsonl``."""
    seen: dict[str, int] = {}
    for number, each in records_of(path, _Text):
        if each.source in seen:
            raise bad_place(path, f"line {number}", f"source {each.source!r} stands on line {seen[each.source]} already")
        if not each.text.strip():
            raise bad_place(path, f"line {number}", f"the text of {each.source!r} is blank")
        seen[each.source] = number
        document = document_of(each.source, each.text)
        yield Document(document.id, document.source, document.text, document.elements, each.meta)


def documents_beside(file: Path) -> Path:
    """The folder of files that a question file is about. Raises ``ReadError`` if there is none."""
    for name in (DOCUMENTS, "docs", "files", f"{file.stem}_documents"):
        if (file.parent / name).is_dir():
            return file.parent / name
    raise ReadError(file, f"there are no documents beside it; expected a folder {DOCUMENTS}/ with files, or {CORPUS}")


def check_new(folder: Path) -> None:
    """Raises ``FileExistsError`` if the folder holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; name a new folder")


def write_own(given: QuestionSet, folder: Path) -> None:
    """Writes a set as a folder of our layout; files are copied. Raises ``FileExistsError`` if the folder holds something already."""
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / QUESTIONS).open("w", encoding="utf-8") as out:
        out.writelines(question.model_dump_json(exclude_defaults=True) + "\n" for question in given.questions)
    for path in given.files:
        if path.is_dir():
            shutil.copytree(path, folder / DOCUMENTS, dirs_exist_ok=True)
        else:
            (folder / DOCUMENTS).mkdir(exist_ok=True)
            shutil.copy(path, folder / DOCUMENTS / path.name)
    if given.documents:
        with (folder / CORPUS).open("w", encoding="utf-8") as out:
            for each in given.documents:
                record = {"source": each.source, "text": each.text, **({"meta": dict(each.meta)} if each.meta else {})}
                out.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
