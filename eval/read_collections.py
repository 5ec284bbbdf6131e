"""Sets that other modules here read already (BEIR, chunking_evaluation, QMSum), as questions. Knows those readers; knows no pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rag.core import Document
from rag.eval.beir import document_of, read_beir
from rag.eval.question import Evidence, Question
from rag.eval.question_set import QuestionSet
from rag.eval.read_records import json_of, lines_of
from rag.eval.span_set import SpanSet
from rag.eval.spans import read_spans
from rag.eval.transcripts import is_transcripts


def read_beir_questions(folder: Path) -> QuestionSet:
    """The judged queries of the split ``test`` (else of the first there is), with their judgements in ``relevant``."""
    splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    beir = read_beir(folder, "test" if "test" in splits or not splits else splits[0])
    documents: dict[str, Document] = {}
    for record in beir.corpus:
        if document := document_of(record):
            documents[record.id] = document
    questions = []
    for query, judged in beir.qrels.items():
        relevant = {f"beir:{name}": grade for name, grade in judged.items() if grade > 0}
        questions.append(Question(id=query, question=beir.queries[query], sources=tuple(relevant), relevant=relevant))
    return QuestionSet(beir.name, tuple(questions), tuple(documents.values()))


def read_span_questions(folder: Path) -> QuestionSet:
    """The layouts of ``rag.eval.spans``: every marked span is evidence. Meetings bring the summaries that answer their questions."""
    spans = read_spans(folder)
    answers = _summaries(folder) if is_transcripts(folder) else {}
    return QuestionSet(spans.name, tuple(_questions(spans, answers)), spans.documents)


def _questions(spans: SpanSet, answers: Mapping[tuple[str, str], str]) -> list[Question]:
    texts = {document.source: document.text for document in spans.documents}
    questions = []
    for number, asked in enumerate(spans.questions, start=1):
        text = texts[asked.source]
        evidence = [Evidence(source=asked.source, text=span.of(text), start=span.start, end=span.end) for span in asked.spans]
        answer = answers.get((asked.source, asked.query))
        questions.append(
            Question(
                id=f"{spans.name}-{number}",
                question=asked.query,
                answers=(answer,) if answer else (),
                sources=(asked.source,),
                evidence=tuple(evidence),
            )
        )
    return questions


def _summaries(folder: Path) -> dict[tuple[str, str], str]:
    """(document, query) -> the answer that the meeting gives."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in lines_of(path):
            meeting = json_of(path, f"line {number}", line)
            for asked in meeting.get("specific_query_list", ()):
                if isinstance(asked.get("answer"), str) and asked["answer"].strip():
                    found[f"{path.stem}-{number}", str(asked.get("query", "")).strip()] = asked["answer"].strip()
    return found
