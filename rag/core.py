"""The words that pass between rooms. Knows no model, no file format and no index, and loads no torch.

One currency runs through everything: **character offsets into the canonical text of a document**. A reader makes that
text once; chunks, citations, evaluation spans and highlights all refer to it and can all be checked against it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from rag.core_corpus import Corpus as Corpus
from rag.core_corpus import Stretch as Stretch
from rag.core_encoders import Encoder as Encoder
from rag.core_encoders import MultiVectorEncoder as MultiVectorEncoder
from rag.core_encoders import SparseEncoder as SparseEncoder
from rag.core_encoders import SparseVectors as SparseVectors
from rag.core_encoders import TokenBlock as TokenBlock
from rag.core_encoders import TokenEncoder as TokenEncoder
from rag.core_encoders import hearing as hearing
from rag.core_encoders import tell as tell
from rag.core_index import Facts as Facts
from rag.core_index import Index as Index
from rag.core_index import Interaction as Interaction
from rag.core_index import KeptInFolder as KeptInFolder
from rag.core_index import Matches as Matches
from rag.core_index import OnProgress as OnProgress
from rag.core_index import Reader as Reader
from rag.core_index import Segment as Segment
from rag.core_index import StandAlone as StandAlone
from rag.core_lm import LM as LM
from rag.core_lm import Completion as Completion
from rag.core_lm import LocalLM as LocalLM
from rag.core_lm import Message as Message
from rag.core_lm import OpenModel as OpenModel
from rag.core_lm import Prompt as Prompt
from rag.core_lm import TokenLogprobs as TokenLogprobs
from rag.core_query import Finding as Finding
from rag.core_query import Found as Found
from rag.core_query import QueryStage as QueryStage

ElementKind = Literal["heading", "paragraph", "table", "list", "caption", "figure", "code"]
ELEMENT_KINDS: tuple[str, ...] = get_args(ElementKind)

PUBLIC = "*"
"""The principal that stands for everybody: a document readable by ``*`` needs no identity to be found."""


def digest(*parts: str) -> str:
    """128-bit hex name of some strings; the parts are length-prefixed, so ``("ab", "c")`` and ``("a", "bc")`` differ."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(len(encoded).to_bytes(8, "little"))
        state.update(encoded)
    return state.hexdigest()


class Span(NamedTuple):
    """Half-open range of characters ``[start, end)`` in the canonical text of one document."""

    start: int
    end: int

    def __len__(self) -> int:  # the length of the range, not of the pair
        return self.end - self.start

    def of(self, text: str) -> str:
        """The characters this span covers in ``text``."""
        return text[self.start : self.end]

    def overlaps(self, other: Span) -> bool:
        """Whether the two ranges share at least one character."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Element:
    """One piece of layout: a heading, a paragraph, a table, ... Elements stand in reading order and do not overlap.

    ``level`` is 1-6 for headings. ``page`` counts from 1. ``bbox`` is ``(left, top, right, bottom)`` in points from the
    top left corner of the page. ``rows`` are the spans of a table's rows inside ``span``; the first ``num_header_rows``
    of them are its head. ``source`` names the place in the original file (``Sheet1!A1:C9``, ``slide 3``, ``line 12``).
    """

    span: Span
    kind: ElementKind
    level: int | None = None
    page: int | None = None
    bbox: tuple[float, float, float, float] | None = None
    rows: tuple[Span, ...] = ()
    num_header_rows: int = 0
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A text that was read once and never changes: every offset in the system refers to ``text``.

    ``id`` is ``Document.id_of(source)``; ``principals`` are the identities that may find it (``("*",)``: everybody;
    ``()``: nobody). ``meta`` holds plain JSON values only.
    """

    id: str
    source: str
    text: str
    elements: tuple[Element, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    principals: tuple[str, ...] = (PUBLIC,)

    @staticmethod
    def id_of(source: str) -> str:
        """The id of the document that comes from ``source``: stable over edits of its content."""
        return digest("document", source)

    @property
    def content_hash(self) -> str:
        """Changes with the text, the layout or the metadata; not with the place the document was read from."""
        layout = json.dumps([_plain(element) for element in self.elements], separators=(",", ":"))
        return digest("content", self.text, layout, json.dumps(self.meta, sort_keys=True, default=str))


def _plain(element: Element) -> list[Any]:
    return [*element.span, element.kind, element.level, element.page, element.bbox, element.rows, element.num_header_rows,
            element.source]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one document: ``document.text[span.start:span.end] == text``, always.

    ``context`` holds words that are *not* in the span but help to find the chunk (titles, heading path, repeated table
    head, a summary); indexes read ``indexed_text``, citations read ``text``.
    """

    id: str
    doc_id: str
    span: Span
    text: str
    context: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document, span: Span, context: str = "", meta: Mapping[str, Any] | None = None) -> Chunk:
        """The chunk that ``span`` cuts out of ``document``. Raises ``ValueError`` if the span is not inside the text."""
        if not 0 <= span.start < span.end <= len(document.text):
            raise ValueError(
                f"span {(span.start, span.end)} is empty or outside the text of {document.source!r} ({len(document.text)} characters)"
            )
        return cls.at(document.id, span, span.of(document.text), context, meta)

    @classmethod
    def at(cls, doc_id: str, span: Span, text: str, context: str = "", meta: Mapping[str, Any] | None = None) -> Chunk:
        """The chunk of a document that reads ``text`` at ``span``. Raises ``ValueError`` if that is not as long as the span."""
        if len(text) != span.end - span.start:
            raise ValueError(f"span {(span.start, span.end)} has {span.end - span.start} characters, its text has {len(text)}")
        name = digest("chunk", doc_id, text, f"{span.start}:{span.end}", context)
        return cls(name, doc_id, span, text, context, dict(meta or {}))

    def part(self, span: Span) -> Chunk:
        """The characters ``span`` of the document as a chunk of their own, with ``parent_chunk``, the id of this one, in its meta.

        The whole chunk is its own part. Raises ``ValueError`` if the span is empty or not inside this chunk.
        """
        if span == self.span:
            return self
        if not self.span.start <= span.start < span.end <= self.span.end:
            raise ValueError(f"span {(span.start, span.end)} is empty or outside the chunk at {(self.span.start, self.span.end)}")
        text = self.text[span.start - self.span.start : span.end - self.span.start]
        return Chunk.at(self.doc_id, span, text, self.context, {**self.meta, "parent_chunk": self.id})

    @property
    def indexed_text(self) -> str:
        """What indexes and rerankers read: the context, a line break, the text."""
        return f"{self.context}\n{self.text}" if self.context else self.text


class Placed(NamedTuple):
    """Score and rank (from 1) of a hit in one stage."""

    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk found for a query. Higher ``score`` is better everywhere; ``why`` tells what each stage thought of it."""

    chunk: Chunk
    score: float
    why: Mapping[str, Placed] = field(default_factory=dict)

    def placed(self, stage: str, score: float, rank: int) -> Hit:
        """A new hit with ``score``, and with the stage's verdict added to ``why``."""
        return Hit(self.chunk, score, {**self.why, stage: Placed(score, rank)})


def rescored(stage: str, ranked: Iterable[tuple[Hit, float]]) -> list[Hit]:
    """Hits with the stage's scores, best first (ties: chunk id), each with its rank in ``why``."""
    ordered = sorted(ranked, key=lambda pair: (-pair[1], pair[0].chunk.id))
    return [hit.placed(stage, score, rank) for rank, (hit, score) in enumerate(ordered, start=1)]


def reordered(stage: str, scored: Iterable[tuple[Hit, float]]) -> list[Hit]:
    """``rescored`` for rerankers: ties keep the order in which they came, which is what the stages before thought of them."""
    ordered = sorted(scored, key=lambda pair: -pair[1])
    return [hit.placed(stage, score, rank) for rank, (hit, score) in enumerate(ordered, start=1)]


@dataclass(frozen=True, slots=True)
class Citation:
    """A checked quotation: ``document.text[start:end] == quote``. ``number`` is the ``[n]`` printed in the answer."""

    number: int
    doc_id: str
    source: str
    chunk_id: str
    start: int
    end: int
    quote: str
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost. Adding two adds every counter.

    Of the prompt's tokens, ``cached_tokens`` came out of a cache of keys and values and ``recomputed_tokens`` of them were computed
    anew all the same; ``saved_seconds`` is what that is estimated to have saved. ``unread_replies`` of the model did not have the form
    they were asked for, not even at the second try, and were left out.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    lm_calls: int = 0
    dropped_citations: int = 0
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    saved_seconds: float = 0.0
    unread_replies: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


Support = Literal["full", "partly", "none"]
"""How much of a question the sources answer."""


def _supported(abstained: bool, support: Support | None) -> Support:
    """What ``abstained`` implies, unless more is known. Raises ``ValueError`` if the two contradict each other."""
    if support is not None and abstained != (support == "none"):
        raise ValueError(f"abstained={abstained} and support={support!r} contradict each other: who declines has support 'none'")
    return support or ("none" if abstained else "full")


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, checked citations, the hits it was made from, and what it cost. ``abstained``: the sources do not answer.

    ``support``: how much they do answer, as far as the generator can tell; by default what ``abstained`` implies. ``queries``, ``notes``:
    those of the ``QueryEvent``; empty if the question was searched as it is.
    """

    query: str
    text: str
    citations: tuple[Citation, ...]
    hits: tuple[Hit, ...]
    usage: Usage
    seconds: Mapping[str, float]
    abstained: bool = False
    support: Support = None  # type: ignore[assignment]  # never None: set below
    queries: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "support", _supported(self.abstained, self.support))


# What a generator and the pipeline stream ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StageEvent:
    """A stage of the chain is done: its name, what it found, how long it took."""

    stage: str
    hits: tuple[Hit, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class QueryEvent(StageEvent):
    """The query stage is done: how the question was read, and what was searched for it, in order.

    ``stage`` is ``query:`` and the stage's word, ``seconds`` its own time (its searches are stages of their own). ``question`` is
    what the later stages read. ``notes`` say what went another way than configured, or which way was taken.
    """

    question: str
    queries: tuple[str, ...]
    notes: tuple[str, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class TextEvent:
    """The next piece of the answer; the pieces joined are the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CitationEvent:
    """A quotation that the generator offers; the pipeline passes it on only if it is found verbatim in the document."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """What the generator used, and whether it declined to answer. The last event of every generator."""

    usage: Usage
    abstained: bool = False
    support: Support = None  # type: ignore[assignment]  # never None: set below

    def __post_init__(self) -> None:
        object.__setattr__(self, "support", _supported(self.abstained, self.support))


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """The whole answer. The last event of ``Rag.stream``."""

    answer: Answer


Event = StageEvent | TextEvent | CitationEvent | UsageEvent | AnswerEvent


# What components must be able to do ------------------------------------------------------------------------------------


class Chunker(Protocol):
    """Cuts a document into chunks: in order, deterministic, every span exact; lossless where its docstring says so."""

    def chunk(self, document: Document) -> list[Chunk]: ...


@runtime_checkable
class BatchChunker(Chunker, Protocol):
    """A chunker that asks a model, and can ask about many documents at once, so that the model reads full batches."""

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        """What ``chunk`` gives for each document, as far as the model answers the same in a larger batch."""


def chunk_many(chunker: Chunker, documents: Sequence[Document]) -> list[list[Chunk]]:
    """The chunks of each document, made together if ``chunker`` can, else one document after the other."""
    if isinstance(chunker, BatchChunker):
        return chunker.chunk_many(documents)
    return [chunker.chunk(document) for document in documents]


class Tokenizer(Protocol):
    """Cuts text into the tokens of one named vocabulary, for size limits and offsets. Adds no special tokens."""

    @property
    def name(self) -> str: ...

    def spans(self, text: str) -> list[Span]:
        """The characters of each token, in order."""

    def count(self, text: str) -> int:
        """How many tokens ``text`` has."""


class Splitter(Protocol):
    """Finds the sentences of a text."""

    def spans(self, text: str) -> list[Span]:
        """The sentences in order, without the blanks around them; they do not overlap."""


VectorsOf = Callable[[str, Sequence[Hit]], Interaction]
"""(index name, hits of any index) -> the query and those chunks as that index compares them. Raises ``rag.errors.NoVectors``."""


class Fusion(Protocol):
    """Makes one ranking of several: every chunk of any of them once, best first. Sees one query at a time."""

    @property
    def reads_vectors(self) -> bool:
        """Whether it looks behind the scores."""
        ...

    def fuse(self, rankings: Mapping[str, Sequence[Hit]], vectors: VectorsOf) -> list[Hit]:
        """``rankings``: index name -> hits, best first. ``vectors`` is for fusions that look behind the scores; nothing is read
        from an index unless it is called.
        """


class Reranker(Protocol):
    """Orders hits anew: returns a permutation of them or a prefix of one. Selectors keep to the same protocol (a subset)."""

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]: ...


class Generator(Protocol):
    """Answers from hits, as a stream that ends with a ``UsageEvent``."""

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """Called once per ingested batch, after its commit (a generator that precomputes chunk KV does it here). May do nothing.

        Called with no chunks before anything is committed: one that could not prepare any raises now.
        """

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """Called by compaction with all chunks that still exist: what was kept of others is deleted. How many things that were."""

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """Yields ``StageEvent("prompt", hits, 0.0)``: what it reads of the hits (of one that was cut, the chunk holds what is left); then
        ``TextEvent`` and ``CitationEvent``; last one ``UsageEvent``.
        """
