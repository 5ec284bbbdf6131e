"""A set of questions and the documents they are about. Knows no file layout and no pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rag.core import Document
from rag.eval.question import Question


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions, and the documents they are about: ready ones, or files and folders that a pipeline is to read. Not both.

    ``remarks``: what a reader of results must know about the set.
    """

    name: str
    questions: tuple[Question, ...]
    documents: tuple[Document, ...] = ()
    files: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.documents and self.files:
            raise ValueError(f"set {self.name!r} has ready documents and files; allowed: one of the two")

    def some(self, questions: Sequence[Question]) -> QuestionSet:
        """The set with only these questions."""
        return QuestionSet(self.name, tuple(questions), self.documents, self.files, self.remarks)


class Sources:
    """Finds documents by the names that questions use: the whole source, or the end of it at a path separator.

    ``sources``: document id -> source.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._whole: dict[str, list[str]] = {}
        self._last: dict[str, list[tuple[str, str]]] = {}
        for doc, source in sources.items():
            self._whole.setdefault(source, []).append(doc)
            self._last.setdefault(_last_part(source), []).append((_slashed(source), doc))

    def find(self, name: str) -> list[str]:
        """Ids of the documents called ``name``: an exact match, else all whose source ends with it."""
        if name in self._whole:
            return self._whole[name]
        end = "/" + _slashed(name).lstrip("/")
        return [doc for source, doc in self._last.get(_last_part(name), ()) if ("/" + source).endswith(end)]


def named_sources(question: Question) -> list[str]:
    """Every source that a question names, each once."""
    clauses = (clause for point in question.points for clause in point.clauses)
    names: Iterable[str | None] = [
        *question.sources,
        *(evidence.source for evidence in question.evidence),
        *(clause.source for clause in clauses),
        *question.relevant,
    ]
    return list(dict.fromkeys(name for name in names if name))


def _slashed(source: str) -> str:
    return source.replace("\\", "/")


def _last_part(source: str) -> str:
    return PurePosixPath(_slashed(source)).name or source
