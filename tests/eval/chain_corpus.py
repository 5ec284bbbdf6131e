"""A made-up handbook of many machines, one document each, with questions about it: marked as made, seeded, quick to index."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rag.core import Chunk, Citation, CitationEvent, Document, Event, Hit, Span, StageEvent, TextEvent, Usage, UsageEvent
from rag.eval.question import Evidence, Question
from rag.eval.question_set import QuestionSet
from rag.eval.span_set import document_of

WORDS = {"models": {"tokenizer": {"use": "words"}}, "indexes": {"words": {"use": "bm25"}}, "chunker": {"use": "fixed"}}
"""A configuration that loads no model."""

_SYLLABLES = [
    "bar",
    "del",
    "fon",
    "gir",
    "hul",
    "jas",
    "kem",
    "lor",
    "mip",
    "nat",
    "pol",
    "quin",
    "rus",
    "sev",
    "tam",
    "vor",
    "wex",
    "yim",
    "zan",
]
_PARTS = ["valve", "pump", "rotor", "filter", "gasket", "bearing", "piston", "nozzle"]
_FILLER = "The manual covers storage, shipping and cleaning in other chapters that nobody asks about here."


def names(number: int, seed: int = 7) -> list[str]:
    """Different invented names."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(draw.sample(_SYLLABLES, 3)).capitalize()] = None
    return list(found)


def facts(number: int = 40) -> list[tuple[str, str, str]]:
    """(machine, question, the sentence that answers it) of each document."""
    draw = random.Random(11)
    rows = []
    for machine in names(number):
        part, hours, torque = draw.choice(_PARTS), draw.randint(100, 9999), draw.randint(10, 99)
        sentence = f"The {part} of the {machine} engine must be replaced after {hours} operating hours with a torque of {torque} newton metres."
        rows.append((machine, f"When must the {part} of the {machine} engine be replaced?", sentence))
    return rows


def handbook(number: int = 40) -> QuestionSet:
    """One document of three paragraphs per machine, and one question about the middle one."""
    documents, questions = [], []
    for machine, query, sentence in facts(number):
        text = f"Handbook of the {machine} engine. {_FILLER}\n\n{sentence}\n\n{_FILLER} End of {machine}."
        document = document_of(f"{machine}.txt", text)
        documents.append(document)
        start = text.index(sentence)
        evidence = Evidence(source=document.source, text=sentence, start=start, end=start + len(sentence))
        questions.append(
            Question(id=machine, question=query, answers=(sentence,), sources=(document.source,), evidence=(evidence,))
        )
    return QuestionSet("handbook", tuple(questions), tuple(documents))


class Paragraphs:
    """One chunk per paragraph."""

    fingerprint = "paragraphs"

    def chunk(self, document: Document) -> list[Chunk]:
        return [Chunk.of(document, element.span) for element in document.elements]


class Tearing(Paragraphs):
    """Every paragraph in two chunks, cut in its middle; the second half of each has words that no question has, so it is not found."""

    fingerprint = "tearing"

    def chunk(self, document: Document) -> list[Chunk]:
        halves = []
        for whole in super().chunk(document):
            middle = whole.text.index(" ", len(whole.text) // 2)
            for start, end in ((0, middle), (middle + 1, len(whole.text))):
                halves.append(Chunk.of(document, Span(whole.span.start + start, whole.span.start + end)))
        return halves


class Leaking(Paragraphs):
    """Loses the last twenty characters of every chunk."""

    fingerprint = "leaking"

    def chunk(self, document: Document) -> list[Chunk]:
        return [
            Chunk.of(document, Span(chunk.span.start, chunk.span.end - 20))
            for chunk in super().chunk(document)
            if len(chunk.span) > 40
        ]


class Reversing:
    """Worst first, and only the first two of those: what a reversed reranker does before a cut."""

    fingerprint = "reversing"

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        return [hit.placed("reversing", float(-rank), rank) for rank, hit in enumerate(list(reversed(hits))[:2], start=1)]


class Quoting:
    """Quotes all it is given, with citations, and says what it read. ``told``: what it says instead of the sources."""

    fingerprint = "quoting"

    def __init__(self, told: str | None = None) -> None:
        self.told = told
        self.num_asked = 0

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        pass

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        self.num_asked += 1
        yield StageEvent("prompt", tuple(hits), 0.0)
        if self.told is not None:
            yield TextEvent(self.told)
            hits = ()
        for number, hit in enumerate(hits, start=1):
            chunk = hit.chunk
            yield TextEvent(f"{chunk.text} [{number}] ")
            yield CitationEvent(Citation(number, chunk.doc_id, "", chunk.id, chunk.span.start, chunk.span.end, chunk.text))
        yield UsageEvent(Usage(completion_tokens=7, lm_calls=1))


class Truncating(Quoting):
    """Reads only the first twenty characters of every hit."""

    fingerprint = "truncating"

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        yield from super().generate(query, [_head(hit, 20) for hit in hits])


def _head(hit: Hit, length: int) -> Hit:
    chunk = hit.chunk
    return replace(hit, chunk=replace(chunk, span=Span(chunk.span.start, chunk.span.start + length), text=chunk.text[:length]))
