"""SQuAD's JSON (XQuAD, MLQA, ... use it too) and a layout of long documents with moved offsets. Knows answers with a place.

Rajpurkar et al., SQuAD, EMNLP 2016 (and 2.0, ACL 2018: ``is_impossible``). The evidence of a question is the sentence that holds its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rag.core import Document, Span
from rag.eval.question import Evidence, Question
from rag.eval.question_set import QuestionSet
from rag.eval.read_records import bad_place, checked, records_of
from rag.eval.span_set import document_of
from rag.sentences import sentence_spans


class _Layout(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Answer(_Layout):
    text: str
    answer_start: int = Field(ge=0)


class _Asked(_Layout):
    id: str
    question: str
    answers: list[_Answer] = []
    is_impossible: bool = False


class _Paragraph(_Layout):
    context: str
    qas: list[_Asked]


class _Article(_Layout):
    title: str = ""
    paragraphs: list[_Paragraph]


class _Squad(_Layout):
    data: list[_Article]


class _LongQuestion(_Layout):
    qid: str
    question: str
    answer: str
    start: int = Field(ge=0)
    end: int = Field(ge=1)


class _LongDocument(_Layout):
    doc_id: str
    title: str = ""
    text: str
    questions: list[_LongQuestion]


def read_squad(path: Path, value: Any) -> QuestionSet:
    """One document per paragraph, called ``title#number``. Raises ``ReadError`` for an answer that is not where it says."""
    documents, questions = [], []
    for place, article in enumerate(checked(path, "", _Squad, value).data):
        for number, paragraph in enumerate(article.paragraphs):
            document = document_of(f"{article.title or place}#{number}", paragraph.context)
            documents.append(document)
            for asked in paragraph.qas:
                spans = [Span(each.answer_start, each.answer_start + len(each.text)) for each in asked.answers]
                for span, each in zip(spans, asked.answers, strict=True):
                    if span.of(document.text) != each.text:
                        said = f"characters {span.start} to {span.end} are {span.of(document.text)!r}, not {each.text!r}"
                        raise bad_place(path, f"question {asked.id}", said)
                answers = tuple(dict.fromkeys(each.text for each in asked.answers))
                impossible = asked.is_impossible or not answers
                questions.append(_question(asked.id, asked.question, document, answers, spans, impossible))
    return QuestionSet(path.stem, tuple(questions), tuple(documents))


def read_long_documents(path: Path) -> QuestionSet:
    """JSONL: a long document a line, with questions whose ``start`` and ``end`` count its characters."""
    documents, questions = [], []
    for number, each in records_of(path, _LongDocument):
        document = document_of(each.title or each.doc_id, each.text)
        documents.append(document)
        for asked in each.questions:
            span = Span(asked.start, asked.end)
            if span.of(each.text) != asked.answer:
                raise bad_place(
                    path, f"line {number}, question {asked.qid}", f"the span holds {span.of(each.text)!r}, not {asked.answer!r}"
                )
            questions.append(_question(asked.qid, asked.question, document, (asked.answer,), [span], False))
    return QuestionSet(path.stem, tuple(questions), tuple(documents))


def _question(
    name: str, text: str, document: Document, answers: tuple[str, ...], spans: Sequence[Span], impossible: bool
) -> Question:
    return Question(
        id=name,
        question=text.strip(),
        answers=answers,
        sources=() if impossible else (document.source,),
        evidence=() if impossible else tuple(sentences_around(document, spans[:1])),
        answerable="no" if impossible else "yes",
    )


def sentences_around(document: Document, spans: Iterable[Span]) -> Iterable[Evidence]:
    """The sentences that hold ``spans``; an answer that runs over a sentence's end takes both."""
    sentences = sentence_spans(document.text)
    for span in spans:
        around = [each for each in sentences if each.overlaps(span)] or [span]
        start, end = around[0].start, around[-1].end
        yield Evidence(source=document.source, text=document.text[start:end], start=start, end=end)
