"""Whole sentences, as many as fit. Knows sentences; knows no layout but the page numbers."""

from __future__ import annotations

from functools import partial

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.layout import Layout
from rag.chunkers.pack import Level
from rag.chunkers.ruler import Ruler
from rag.chunkers.sentences import sentences_by, words
from rag.chunkers.units import fitted
from rag.core import Chunk, Document, Span, Splitter, Tokenizer


class SentenceChunker:
    """As many whole sentences as ``max_tokens`` tokens allow, each chunk starting ``overlap_sentences`` before the last ended.

    Lossless: every character that is not blank is in a chunk. A sentence above the limit is cut between words. The overlap is
    smaller where the next sentence would not fit beside it. ``splitter`` finds the sentences; without one it is done by punctuation.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int = 200, overlap_sentences: int = 0, splitter: Splitter | None = None
    ) -> None:
        check_limit(max_tokens)
        if overlap_sentences < 0:
            raise ValueError(f"overlap_sentences={overlap_sentences}: must be at least 0")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.overlap_sentences = overlap_sentences
        self.splitter = splitter

    def chunk(self, document: Document) -> list[Chunk]:
        text = document.text
        ruler = Ruler(text, self.tokenizer)
        spans = self._pack(ruler, self._sentences(ruler))
        spans = within_limit(text, spans, self.tokenizer, self.max_tokens, ruler=ruler)
        return chunks_of(document, spans, Layout(document).meta)

    def _sentences(self, ruler: Ruler) -> list[int]:
        """The starts of the sentences, and of the parts of those above the limit, and the end of the text."""
        text, end = ruler.text, len(ruler.text)
        starts = [0, *sentences_by(self.splitter, text)(text, 0, end)]
        return [*fitted(ruler, starts, [Level(partial(words, text))], self.max_tokens), end]

    def _pack(self, ruler: Ruler, bounds: list[int]) -> list[Span]:
        spans: list[Span] = []
        num_before = ruler.indexes(bounds)
        first = 0
        while first < len(bounds) - 1:
            stop = first + 1
            while stop < len(bounds) - 1 and num_before[stop + 1] - num_before[first] <= self.max_tokens:
                stop += 1
            spans.append(Span(bounds[first], bounds[stop]))
            if stop == len(bounds) - 1:
                break
            again = max(stop - self.overlap_sentences, first + 1)
            while again < stop and num_before[stop + 1] - num_before[again] > self.max_tokens:
                again += 1
            first = again
        return spans
