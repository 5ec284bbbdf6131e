"""Reads meetings in the layout of QMSum: turns, topics, and questions with the turns that answer them. Knows no chunk.

Zhong et al., QMSum: A New Benchmark for Query-based Multi-domain Meeting Summarization, NAACL 2021 (github.com/Yale-LILY/QMSum).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.core import Document, Element, Span
from rag.errors import ReadError
from rag.eval.span_set import SpanQuestion, SpanSet, Topics, disjoint, trimmed

MIN_GAP_UNITS = 3
"""Turns between two topics that make a stretch of their own; fewer belong to the topic before them."""

_BREAK = re.compile(r"[\r\n]")
_MARK = '"meeting_transcripts"'

Ranges = Sequence[tuple[int, int]]
"""First and last turn of each stretch, both included."""


class _Turn(BaseModel):
    speaker: str
    content: str


class _Topic(BaseModel):
    model_config = ConfigDict(extra="ignore")
    relevant_text_span: list[tuple[int, int]] = Field(min_length=1)


class _Query(_Topic):
    query: str


class _Meeting(BaseModel):
    model_config = ConfigDict(extra="ignore")
    meeting_transcripts: list[_Turn] = Field(min_length=1)
    specific_query_list: list[_Query] = []
    topic_list: list[_Topic] = []


def is_transcripts(folder: Path) -> bool:
    """Whether the folder has a ``.jsonl`` file whose first line is a meeting."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            if _MARK.encode() in file.readline():
                return True
    return False


def read_transcripts(folder: Path) -> SpanSet:
    """Every meeting of ``folder/*.jsonl`` (one JSON object a line) as a document, a turn a line: ``speaker: content``.

    Read are ``meeting_transcripts`` (``speaker``, ``content``), ``specific_query_list`` (``query``, ``relevant_text_span``) and
    ``topic_list`` (``relevant_text_span``); a ``relevant_text_span`` is a list of ``[first turn, last turn]``, from 0, both
    included, as numbers or as strings. ``general_query_list`` marks no turns and is left out. Each turn is one element of the
    document; line breaks inside a turn become blanks.

    Raises ``rag.errors.ReadError`` with the file and the row (line) for anything that is not in the layout.
    """
    documents, questions, topics = [], [], {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, meeting in _meetings(path):
            source = f"{path.stem}-{number}"
            document, turns = _document(source, meeting.meeting_transcripts)
            if not document.text.strip(": \n"):
                raise _bad_row(path, number, "no turn says anything")
            documents.append(document)
            for place, asked in enumerate(meeting.specific_query_list):
                where = f"specific_query_list.{place}"
                if not asked.query.strip():
                    raise _bad_row(path, number, f"{where}: the query is blank")
                ranges = _checked(path, number, where, asked.relevant_text_span, len(turns))
                spans = disjoint(Span(turns[first].start, turns[last].end) for first, last in ranges)
                questions.append(SpanQuestion(asked.query.strip(), source, spans))
            topics[source] = _topics(path, number, meeting, turns)
    if not questions:
        raise ReadError(folder, "no meeting has a question in its specific_query_list")
    return SpanSet(
        folder.resolve().name, tuple(documents), tuple(questions), {name: each for name, each in topics.items() if each.starts}
    )


def _document(source: str, said: Iterable[_Turn]) -> tuple[Document, list[Span]]:
    """The document and the characters of each turn."""
    lines = [_BREAK.sub(" ", f"{turn.speaker}: {turn.content}") for turn in said]
    firsts = itertools.accumulate((len(line) + 1 for line in lines), initial=0)
    turns = [Span(first, first + len(line)) for first, line in zip(firsts, lines, strict=False)]
    text = "\n".join(lines)
    solid = ((number, trimmed(text, turn)) for number, turn in enumerate(turns))
    elements = tuple(Element(span, "paragraph", source=f"turn {number}") for number, span in solid if span)
    return Document(Document.id_of(source), source, text, elements), turns


def _topics(path: Path, number: int, meeting: _Meeting, turns: Sequence[Span]) -> Topics:
    marked, labels = meeting.topic_list, "topics"
    if not marked:
        marked, labels = list(meeting.specific_query_list), "questions"
    name = "topic_list" if labels == "topics" else "specific_query_list"
    ranges = [
        found
        for place, each in enumerate(marked)
        for found in _checked(path, number, f"{name}.{place}", each.relevant_text_span, len(turns))
    ]
    return Topics(tuple(turns), topic_starts(ranges, len(turns)), labels)


def topic_starts(ranges: Ranges, num_turns: int) -> tuple[int, ...]:
    """The turns at which the topic changes: each range's first turn, and the first turn after it unless the gap that begins
    there has fewer than ``MIN_GAP_UNITS`` turns; turns before the first topic count as a gap too. Turn 0 is none.

    >>> topic_starts([(1, 4), (6, 8)], 20)
    (6, 9)
    """
    starts: list[int] = []
    covered = 0  # turns up to here are dealt with
    for first, last in sorted(ranges):
        if first - covered >= MIN_GAP_UNITS:
            starts.append(covered)
        if first >= MIN_GAP_UNITS or covered:
            starts.append(first)
        covered = max(covered, last + 1)
    if num_turns - covered >= MIN_GAP_UNITS:
        starts.append(covered)
    return tuple(sorted({start for start in starts if start > 0}))


def _checked(path: Path, number: int, where: str, ranges: Ranges, num_turns: int) -> Ranges:
    for first, last in ranges:
        if not 0 <= first <= last < num_turns:
            raise _bad_row(path, number, f"{where}: turns {first} to {last} are out of order or outside the {num_turns} turns")
    return ranges


def _meetings(path: Path) -> Iterator[tuple[int, _Meeting]]:
    """The meetings with the numbers of their lines, from 1. Only ``\\n`` ends a line: JSON strings may hold the others."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, _Meeting.model_validate_json(line)
            except ValidationError as error:
                problem = error.errors()[0]
                place = ".".join(map(str, problem["loc"]))
                raise _bad_row(path, number, f"{place}: {problem['msg']}" if place else str(problem["msg"])) from None


def _bad_row(path: Path, number: int, reason: str) -> ReadError:
    return ReadError(path, f"row {number}: {reason}")
