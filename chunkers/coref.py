"""A chunker around another one: who the pronouns of a chunk stand for goes into its context. Knows mentions; knows no model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Protocol

from rag.chunkers.addition import check_context_limit, with_addition
from rag.core import Chunk, Chunker, Document, Span, Tokenizer, chunk_many

MAX_NAME_CHARS = 60
"""A longer mention explains nothing: it is a whole clause."""

_PRONOUNS = """
    he him his himself she her hers herself it its itself they them their theirs themselves this that these those
    i me my mine myself we us our ours ourselves you your yours yourself yourselves who whom whose which
"""
PRONOUNS = frozenset(_PRONOUNS.split())


class Resolver(Protocol):
    """Finds out which words of a text mean the same person or thing."""

    def clusters(self, text: str) -> list[list[Span]]:
        """The mentions of each person or thing that is mentioned more than once."""
        ...


class CorefChunker:
    """The chunks of ``chunker``; before the context of each, the pronouns in it and what they stand for: ``he = Dr. Smith``.

    The resolver reads the whole document once. A pronoun is named by the first mention of its cluster that is none, unless
    the chunk itself holds a mention that is none. Spans and texts stay those of ``chunker``; the context has at most ``max_context_tokens``
    tokens, and pairs that do not fit are left out, the last ones first.
    """

    def __init__(self, tokenizer: Tokenizer, resolver: Resolver, chunker: Chunker, max_context_tokens: int = 80) -> None:
        check_context_limit(max_context_tokens)
        self._tokenizer = tokenizer
        self._resolver = resolver
        self.chunker = chunker
        self.max_context_tokens = max_context_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        return self._all_explained(document, self.chunker.chunk(document))

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        made = chunk_many(self.chunker, documents)
        return [self._all_explained(document, chunks) for document, chunks in zip(documents, made, strict=True)]

    def _all_explained(self, document: Document, chunks: list[Chunk]) -> list[Chunk]:
        if not chunks:
            return []
        clusters = [sorted(set(cluster)) for cluster in self._resolver.clusters(document.text)]
        return [self._explained(document, chunk, clusters) for chunk in chunks]

    def _explained(self, document: Document, chunk: Chunk, clusters: list[list[Span]]) -> Chunk:
        pairs = dict.fromkeys(pair for _, pair in sorted(_pairs(document.text, chunk.span, clusters)))
        own_tokens = self._tokenizer.count(chunk.context)
        line = ""
        for pair in pairs:
            longer = f"{line}; {pair}" if line else pair
            if own_tokens + self._tokenizer.count(longer) > self.max_context_tokens:
                break
            line = longer
        return with_addition(document, chunk, line, self._tokenizer, self.max_context_tokens, {})


def _pairs(text: str, chunk: Span, clusters: list[list[Span]]) -> Iterator[tuple[int, str]]:
    """``pronoun = name`` for every pronoun of the chunk that it does not explain itself, and where the pronoun stands."""
    for cluster in clusters:
        inside = [
            span for span in cluster[bisect_left(cluster, chunk.start, key=lambda span: span.start) :] if span.end <= chunk.end
        ]
        name = next((span.of(text) for span in cluster if _is_name(text, span)), None)
        if inside and name and not any(_is_name(text, span) for span in inside):
            yield from (
                (span.start, f"{span.of(text).casefold()} = {' '.join(name.split())}") for span in inside if _is_pronoun(text, span)
            )


def _is_pronoun(text: str, span: Span) -> bool:
    return span.of(text).casefold() in PRONOUNS


def _is_name(text: str, span: Span) -> bool:
    return 0 < len(span) <= MAX_NAME_CHARS and span.of(text).strip() != "" and not _is_pronoun(text, span)
