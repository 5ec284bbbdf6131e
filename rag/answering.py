"""From selected hits to a checked answer. Knows the generator's protocol and the catalog; knows no model.

A citation reaches the user only if the document, as stored, holds the quotation at that place and the asker may read it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rag.catalog import Catalog
from rag.core import (
    Answer,
    AnswerEvent,
    Citation,
    CitationEvent,
    Document,
    Event,
    Generator,
    Hit,
    QueryEvent,
    StageEvent,
    TextEvent,
    Usage,
    UsageEvent,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, who asks it, and what may answer it."""

    query: str
    principals: Sequence[str]
    catalog: Catalog
    generator: Generator


def answer_events(asked: Asked, stages: Iterator[StageEvent]) -> Iterator[Event]:
    """Passes the stages on, then the generator's events with unverified citations left out, then the ``AnswerEvent``.

    The generator reads the question as the query stage understood it; what that cost is part of the usage.
    """
    seconds: dict[str, float] = {}
    hits: tuple[Hit, ...] = ()
    read = QueryEvent("", (), 0.0, asked.query, ())
    for stage in stages:
        seconds[stage.stage] = stage.seconds
        hits = stage.hits
        if isinstance(stage, QueryEvent):
            read = stage
        yield stage
    started = time.perf_counter()
    text: list[str] = []
    citations: list[Citation] = []
    ending = UsageEvent(Usage())
    num_dropped = 0
    documents: dict[str, Document] = {}
    for event in asked.generator.generate(read.question, hits):
        match event:
            case CitationEvent(citation):
                if not is_verified(asked, documents, citation):
                    num_dropped += 1
                    continue
                event = CitationEvent(replace(citation, source=documents[citation.doc_id].source))
                citations.append(event.citation)
            case TextEvent(piece):
                text.append(piece)
            case UsageEvent():
                ending = event
                continue
        yield event
    seconds["generate"] = time.perf_counter() - started
    usage = read.usage + ending.usage + Usage(dropped_citations=num_dropped)
    yield replace(ending, usage=usage)
    answer = Answer(asked.query, "".join(text), tuple(citations), hits, usage, seconds, ending.abstained, ending.support)
    yield AnswerEvent(replace(answer, queries=read.queries, notes=read.notes))


def is_verified(asked: Asked, documents: dict[str, Document], citation: Citation) -> bool:
    """Whether the stored document holds ``quote`` at ``[start, end)`` and one of the asker's principals may read it."""
    if citation.doc_id not in documents:
        with asked.catalog.reading() as read:
            try:
                documents[citation.doc_id] = read.document(citation.doc_id)
            except KeyError:
                return False
    document = documents[citation.doc_id]
    may_read = bool(set(document.principals) & set(asked.principals))
    return may_read and citation.quote != "" and document.text[citation.start : citation.end] == citation.quote
