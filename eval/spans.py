"""Readers of span-labelled sets: which layout a folder has, and the layout of Chroma's chunking_evaluation. Knows no chunk.

Every offset is checked against the text on loading: a set whose spans do not say what they claim is refused.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from rag.core import Document, Span
from rag.errors import ReadError
from rag.eval.span_set import SpanQuestion, SpanSet, disjoint, document_of
from rag.eval.transcripts import is_transcripts, read_transcripts

QUESTIONS = "questions_df.csv"
CORPORA = "corpora"

_MAX_CELL_CHARS = 100_000_000


def read_spans(folder: Path | str) -> SpanSet:
    """The set in ``folder``, whose layout is told from its content.

    - ``questions_df.csv`` and ``corpora/*.md``: the layout of Chroma's chunking_evaluation, see ``read_corpora``;
    - ``*.jsonl`` with ``meeting_transcripts``: the layout of QMSum, see ``rag.eval.transcripts.read_transcripts``.

    Raises ``ValueError`` for a folder in neither layout or in both, and ``rag.errors.ReadError`` with the file and the row for
    anything that is not in the layout.
    """
    folder = Path(folder)
    has_corpora, has_transcripts = (folder / QUESTIONS).is_file(), is_transcripts(folder)
    if has_corpora == has_transcripts:
        found = "both of these" if has_corpora else "neither of these"
        raise ValueError(
            f"{str(folder)!r} holds {found}: {QUESTIONS} with {CORPORA}/*.md (as chunking_evaluation), "
            "or *.jsonl files with meeting_transcripts (as QMSum)"
        )
    return read_transcripts(folder) if has_transcripts else read_corpora(folder)


class _Reference(BaseModel):
    """One item of the column ``references``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    content: str
    start_index: int
    end_index: int


_REFERENCES = TypeAdapter(list[_Reference])


def read_corpora(folder: Path) -> SpanSet:
    """The layout of chunking_evaluation (github.com/brandonstarxel/chunking_evaluation).

    ``corpora/<corpus_id>.md``: UTF-8, taken character by character (no markup is read, no line break changed).
    ``questions_df.csv``: columns ``question``, ``references``, ``corpus_id``; ``references`` is a JSON list of
    ``{"content", "start_index", "end_index"}``, whose offsets count characters from 0, the end excluded.
    Corpora that no question asks about stay in, as they would in an index.
    """
    documents = {path.stem: document_of(path.name, _text(path)) for path in sorted((folder / CORPORA).glob("*.md"))}
    if not documents:
        raise ReadError(folder / CORPORA, "holds no .md file")
    if blank := next((document.source for document in documents.values() if not document.text.strip()), None):
        raise ReadError(folder / CORPORA / blank, "holds no text")
    path = folder / QUESTIONS
    questions = tuple(_question(path, number, row, documents) for number, row in _rows(path))
    if not questions:
        raise ReadError(path, "holds no question")
    return SpanSet(folder.resolve().name, tuple(documents.values()), questions)


def _question(path: Path, number: int, row: Mapping[str, str], documents: Mapping[str, Document]) -> SpanQuestion:
    query, corpus = row["question"].strip(), row["corpus_id"].strip()
    if not query:
        raise _bad_row(path, number, "the question is blank")
    if corpus not in documents:
        raise _bad_row(path, number, f"corpus_id {corpus!r} is not in {CORPORA}/; allowed: {', '.join(documents)}")
    try:
        references = _REFERENCES.validate_json(row["references"])
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, ("references", *problem["loc"])))
        raise _bad_row(path, number, f"{place}: {problem['msg']}") from None
    if not references:
        raise _bad_row(path, number, "references is an empty list")
    document = documents[corpus]
    for reference in references:
        start, end = reference.start_index, reference.end_index
        if not 0 <= start < end <= len(document.text):
            raise _bad_row(
                path, number, f"span {start} to {end} is empty or outside the {len(document.text)} characters of {corpus!r}"
            )
        if document.text[start:end] != reference.content:
            raise _bad_row(
                path,
                number,
                f"characters {start} to {end} of {corpus!r} are {_short(document.text[start:end])}, not {_short(reference.content)}",
            )
        if not reference.content.strip():
            raise _bad_row(path, number, f"span {start} to {end} holds nothing but blanks")
    return SpanQuestion(query, document.source, disjoint(Span(each.start_index, each.end_index) for each in references))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows with their numbers, from 1 after the head."""
    limit = csv.field_size_limit(_MAX_CELL_CHARS)  # of the whole process, so it is put back before anything else runs
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := {"question", "references", "corpus_id"} - set(reader.fieldnames or ()):
                raise ReadError(path, f"has no column {', '.join(sorted(missing))}")
            rows = list(enumerate(reader, start=1))
    except csv.Error as error:
        raise ReadError(path, f"not CSV ({error})") from None
    except UnicodeDecodeError as error:
        raise ReadError(path, f"not UTF-8 ({error.reason})") from None
    finally:
        csv.field_size_limit(limit)
    for number, row in rows:
        if None in row or None in row.values():
            raise _bad_row(path, number, "has not as many cells as the head")
    return rows


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ReadError(path, f"not UTF-8 ({error.reason} at byte {error.start})") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _bad_row(path: Path, number: int, reason: str) -> ReadError:
    return ReadError(path, f"row {number}: {reason}")
