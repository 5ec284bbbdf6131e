"""A test set as a retrieval collection: a BEIR folder, or an object with the methods of ir_datasets. Knows documents and questions.

Whatever reads ``docs_iter``, ``queries_iter`` and ``qrels_iter`` (PyTerrier, ir-measures, ...) reads a ``Collection``; nothing is
registered anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rag.core import Document
from rag.eval.question import Question
from rag.eval.question_set import Sources


class Doc(NamedTuple):
    """A document; its id is its source."""

    doc_id: str
    text: str


class Query(NamedTuple):
    """A question."""

    query_id: str
    text: str


class Qrel(NamedTuple):
    """A judgement; above 0 is relevant."""

    query_id: str
    doc_id: str
    relevance: int
    iteration: str = "0"


class DocStore:
    """Documents by id."""

    def __init__(self, docs: Mapping[str, Doc]) -> None:
        self._docs = docs

    def get(self, doc_id: str) -> Doc:
        """Raises ``KeyError`` for an unknown id."""
        return self._docs[doc_id]

    def get_many(self, doc_ids: Iterable[str]) -> dict[str, Doc]:
        """Those that are there."""
        return {name: self._docs[name] for name in doc_ids if name in self._docs}


class Collection:
    """Documents, questions and judgements. A question's documents are found by the ends of their names, as everywhere.

    Judged are questions with ``relevant`` documents, else with ``sources`` (grade 1), that the sources answer at least partly.
    Raises ``ValueError`` for documents of one name, questions of one id and judged documents that are not there.
    """

    def __init__(self, documents: Iterable[Document], questions: Sequence[Question]) -> None:
        self._docs: dict[str, Doc] = {}
        for each in documents:
            if each.source in self._docs:
                raise ValueError(f"two documents are called {each.source!r}")
            self._docs[each.source] = Doc(each.source, each.text)
        self._named = Sources({source: source for source in self._docs})
        self._queries: dict[str, Query] = {}
        self._qrels: list[Qrel] = []
        for question in questions:
            if question.id in self._queries:
                raise ValueError(f"two questions have the id {question.id!r}")
            self._queries[question.id] = Query(question.id, question.question)
            self._qrels += self._judged(question)

    def _judged(self, question: Question) -> Iterator[Qrel]:
        grades = question.relevant or (dict.fromkeys(question.sources, 1) if question.answerable in ("yes", "partly") else {})
        for name, grade in grades.items():
            found = self._named.find(name)
            if len(found) != 1:
                raise ValueError(f"question {question.id!r}: there is no document {name!r}, or several")
            yield Qrel(question.id, found[0], grade)

    def docs_iter(self) -> Iterator[Doc]:
        """Every document."""
        yield from self._docs.values()

    def queries_iter(self) -> Iterator[Query]:
        """Every question, judged or not."""
        yield from self._queries.values()

    def qrels_iter(self) -> Iterator[Qrel]:
        """Every judgement."""
        yield from self._qrels

    def docs_store(self) -> DocStore:
        """Documents by id."""
        return DocStore(self._docs)

    def docs_count(self) -> int:
        """How many documents there are."""
        return len(self._docs)

    def queries_count(self) -> int:
        """How many questions there are."""
        return len(self._queries)


def write_beir(folder: Path, collection: Collection, split: str = "test") -> None:
    """Writes ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``. Texts are whole, so titles are empty.

    Raises ``FileExistsError`` if the folder has a corpus already, ``ValueError`` for a name with a tab or a line break.
    """
    if (folder / "corpus.jsonl").exists():
        raise FileExistsError(f"{folder} holds a corpus.jsonl already; name a new folder")
    names = [*(doc.doc_id for doc in collection.docs_iter()), *(query.query_id for query in collection.queries_iter())]
    if bad := next((name for name in names if any(mark in name for mark in "\t\n\r") or name != name.strip()), None):
        raise ValueError(f"{bad!r} is no name for a BEIR folder: tabs, line breaks and blanks at its ends would be lost")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write(folder / "corpus.jsonl", ({"_id": doc.doc_id, "title": "", "text": doc.text} for doc in collection.docs_iter()))
    _write(folder / "queries.jsonl", ({"_id": query.query_id, "text": query.text} for query in collection.queries_iter()))
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        file.writelines(f"{qrel.query_id}\t{qrel.doc_id}\t{qrel.relevance}\n" for qrel in collection.qrels_iter())


def _write(path: Path, records: Iterable[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
