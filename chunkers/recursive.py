"""Paragraphs, else lines, else sentences, else clauses, else words. Knows punctuation; knows no layout but the page numbers."""

from __future__ import annotations

from functools import partial

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.layout import Layout
from rag.chunkers.pack import Level, spans_of, split, spread_tail, with_overlap
from rag.chunkers.ruler import Ruler
from rag.chunkers.sentences import clauses, lines, paragraphs, sentences, words
from rag.core import Chunk, Document, Span, Tokenizer

GENTLE = 3
"""How many of ``text_levels`` cut no sentence."""


class RecursiveChunker:
    """As many whole paragraphs as ``max_tokens`` tokens allow; a longer paragraph by lines, sentences, clauses, words.

    Lossless: every character that is not blank is in a chunk. A last chunk under ``min_tokens`` (by default a fifth of
    ``max_tokens``) is joined to the one before or shares evenly with it, where that can be done. With ``overlap_tokens``
    each chunk starts that much (at most) inside the one before, at a word.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = 200, overlap_tokens: int = 0, min_tokens: int | None = None) -> None:
        self.min_tokens = max_tokens // 5 if min_tokens is None else min_tokens
        check_limit(max_tokens, overlap_tokens=overlap_tokens, min_tokens=self.min_tokens)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.overlap_tokens = overlap_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        text, end = document.text, len(document.text)
        ruler = Ruler(text, self.tokenizer)
        levels = text_levels(text)
        limit = self.max_tokens - self.overlap_tokens
        starts = split(ruler, 0, end, levels, limit, min(self.min_tokens, limit // 2))
        starts = spread_tail(ruler, starts, end, levels[:GENTLE], min(self.min_tokens, limit // 2), limit)

        def recut(span: Span, max_tokens: int) -> list[Span]:
            return spans_of(split(ruler, *span, levels, max_tokens), span.end)

        spans = with_overlap(ruler, spans_of(starts, end), self.overlap_tokens)
        spans = within_limit(text, spans, self.tokenizer, self.max_tokens, recut, ruler)
        return chunks_of(document, spans, Layout(document).meta)


def text_levels(text: str) -> list[Level]:
    """Where to cut a text of unknown layout, best places first."""
    return [Level(partial(places, text)) for places in (paragraphs, lines, sentences, clauses, words)]
