"""Chunks of sentences that mean much the same, as an encoder sees it. Knows vectors, layout and sentences; knows no LM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.breakpoints import checked_amount, margins
from rag.chunkers.context import ContextWriter
from rag.chunkers.layout import Layout
from rag.chunkers.pack import spans_of, split
from rag.chunkers.ruler import Ruler
from rag.chunkers.segmentation import best_runs
from rag.chunkers.together import Work, together
from rag.chunkers.units import unit_levels, unit_starts
from rag.core import Chunk, Document, Encoder, Span, Splitter, Tokenizer

MAX_BAND = 64
"""How many sentences apart two sentences may be and still be compared: far more than a chunk holds, and it bounds the memory."""


class SemanticChunker:
    """Sentences whose vectors are alike, together; the encoder reads each window of sentences once, all in one call, those of many documents too.

    Lossless: every character that is not blank is in a chunk.

    ``rule`` says what a good cut is. Whatever it says, a chunk has at most ``max_tokens`` tokens, and none has fewer than
    ``min_tokens`` (by default a fifth of ``max_tokens``) that could be avoided by cutting between other sentences.

    - ``optimal``: over all ways to cut, the largest sum, over all pairs of sentences that share a chunk, of their cosine
      minus the mean cosine of all pairs of sentences of the document and minus ``amount`` (0). This is ClusterSemantic (Smith
      and Troynikov, Chroma technical report, 2024) with sentences for pieces of 50 tokens and a limit in tokens.
    - ``percentile``, ``standard_deviation``, ``interquartile``, ``gradient``, ``absolute``: between neighbours that are far
      apart, see ``rag.chunkers.breakpoints``. What the rule leaves above the limit is cut between the neighbours farthest
      apart, what it leaves under ``min_tokens`` is joined to the nearer neighbour.

    ``optimal`` is the default because it alone weighs a sentence against all of the chunk, knows the limit while it decides
    and needs no threshold: the thresholds are taken from the distances of one document, so that a document about one thing is
    cut as often as one about twenty, and what they leave is seldom of a size to use (with all-MiniLM-L6-v2 and two corpora of
    prose, 84 to 100 % of the tokens were left in pieces above 200, or, by ``absolute``, most pieces under 40). It finds no more than the
    published rules do at like sizes (docs/chunking.md).

    A sentence is read with ``window`` neighbours on each side (by default 1, as published, and 0 for ``optimal``). With
    layout, rows, list items and pieces of code stand for sentences, and a heading belongs to the first sentence below it. A
    row is cut only if it alone is above the limit. Contexts are those of the structure chunker. ``splitter`` finds the
    sentences in prose; without one it is done by punctuation.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        max_tokens: int = 200,
        min_tokens: int | None = None,
        rule: Literal["optimal", "percentile", "standard_deviation", "interquartile", "gradient", "absolute"] = "optimal",
        amount: float | None = None,
        window: int | None = None,
        max_context_tokens: int = 40,
        splitter: Splitter | None = None,
    ) -> None:
        self.min_tokens = max_tokens // 5 if min_tokens is None else min_tokens
        check_limit(max_tokens, min_tokens=self.min_tokens)
        self.is_optimal = rule == "optimal"
        self.amount = (amount or 0.0) if self.is_optimal else checked_amount(rule, amount)
        self.window = (0 if self.is_optimal else 1) if window is None else window
        if self.window < 0:
            raise ValueError(f"window={window}: must be at least 0")
        if max_context_tokens < 0:
            raise ValueError(f"max_context_tokens={max_context_tokens}: must be at least 0")
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.rule = rule
        self.max_context_tokens = max_context_tokens
        self.splitter = splitter

    def chunk(self, document: Document) -> list[Chunk]:
        return self.chunk_many([document])[0]

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        return together(map(self._work, documents), self.encoder.encode_documents)

    def _work(self, document: Document) -> Work[str, list[Chunk]]:
        text, end, layout = document.text, len(document.text), Layout(document)
        if not layout.blocks:
            return []
        ruler = Ruler(text, self.tokenizer)
        starts = unit_starts(ruler, layout, self.splitter, self.max_tokens)
        num_tokens = np.maximum(np.diff(ruler.indexes([*starts, end])), 1)
        weights = self._weights((yield self._windows(text, spans_of(starts, end))), num_tokens)
        runs = best_runs(weights, num_tokens, self.max_tokens, np.ones(len(starts), dtype=np.bool_), self.min_tokens)
        spans = spans_of([starts[run] for run in runs], end)

        def recut(span: Span, max_tokens: int) -> list[Span]:
            return spans_of(split(ruler, *span, unit_levels(text, layout), max_tokens), span.end)

        spans = within_limit(text, spans, self.tokenizer, self.max_tokens, recut, ruler)
        return chunks_of(document, spans, layout.meta, ContextWriter(document, layout, self.tokenizer, self.max_context_tokens))

    def _windows(self, text: str, units: list[Span]) -> list[str]:
        """Each unit with its neighbours."""
        last = len(units) - 1
        windows = (text[units[max(i - self.window, 0)].start : units[min(i + self.window, last)].end] for i in range(last + 1))
        return [window.strip() for window in windows]

    def _weights(self, vectors: NDArray[np.float32], num_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """What is gained by units ``i`` and ``i + d`` being in one chunk, ``(units, band)``."""
        if self.is_optimal:
            return similarity_band(vectors, _longest_run(num_tokens, self.max_tokens), self.amount)
        to_next = margins(1.0 - _cosines(vectors, 1), self.rule, self.amount)
        return np.stack([np.zeros(len(vectors)), np.append(to_next, 0.0)], axis=1)


def similarity_band(vectors: NDArray[np.float32], band: int, amount: float = 0.0) -> NDArray[np.float64]:
    """Cosine of rows ``i`` and ``i + d`` minus the mean cosine of all pairs of rows and minus ``amount``, ``(rows, band)``.

    ``vectors``, ``(rows, dim)``, have length 1. Column 0 and what points past the last row are 0. Never makes a matrix of all
    pairs: the sum of their cosines is ``|sum of the vectors|^2`` minus the number of rows.
    """
    num_rows = len(vectors)
    weights = np.zeros((num_rows, band))
    if num_rows > 1:
        sum_of_all = vectors.sum(axis=0, dtype=np.float64)
        mean = float(sum_of_all @ sum_of_all - num_rows) / (num_rows * (num_rows - 1))
        for distance in range(1, min(band, num_rows)):
            weights[:-distance, distance] = _cosines(vectors, distance) - mean - amount
    return weights


def _cosines(vectors: NDArray[np.float32], distance: int) -> NDArray[np.float64]:
    """Of each row and the one ``distance`` rows on."""
    cosines: NDArray[np.float32] = np.einsum("ij,ij->i", vectors[:-distance], vectors[distance:])
    return cosines.astype(np.float64)


def _longest_run(num_tokens: NDArray[np.int64], max_tokens: int) -> int:
    """The most units that fit into one chunk, at most ``MAX_BAND``."""
    before = np.concatenate([[0], np.cumsum(num_tokens)])
    reach = np.searchsorted(before, before[:-1] + max_tokens, side="right") - 1 - np.arange(len(num_tokens))
    return min(max(int(reach.max()), 1), MAX_BAND)
