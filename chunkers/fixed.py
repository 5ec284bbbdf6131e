"""Windows of a fixed number of tokens. Knows no sentences and no layout: the baseline that all others must beat."""

from __future__ import annotations

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.layout import Layout
from rag.chunkers.pack import spans_of, split, with_overlap
from rag.chunkers.ruler import Ruler
from rag.core import Chunk, Document, Tokenizer


class FixedChunker:
    """Windows of at most ``max_tokens`` tokens, each starting ``overlap_tokens`` before the end of the last.

    Lossless: every character that is not blank is in a chunk. A window ends between words if it can, so it may be shorter,
    and the overlap with it. Raises ``ValueError`` for an overlap that is not below ``max_tokens``.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = 200, overlap_tokens: int = 0) -> None:
        check_limit(max_tokens, overlap_tokens=overlap_tokens)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.overlap_tokens = overlap_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        text = document.text
        ruler = Ruler(text, self.tokenizer)
        starts = split(ruler, 0, len(text), [], self.max_tokens - self.overlap_tokens)
        spans = with_overlap(ruler, spans_of(starts, len(text)), self.overlap_tokens)
        spans = within_limit(text, spans, self.tokenizer, self.max_tokens, ruler=ruler)
        return chunks_of(document, spans, Layout(document).meta)
