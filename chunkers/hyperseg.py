"""Chunks of a transcript that end where the talk turns to other words. Knows turns, words and layout; knows no model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.breakpoints import checked_amount, margins
from rag.chunkers.context import ContextWriter
from rag.chunkers.hypervectors import window_cosines
from rag.chunkers.layout import Layout
from rag.chunkers.pack import spans_of, split
from rag.chunkers.ruler import Ruler
from rag.chunkers.segmentation import best_runs
from rag.chunkers.turns import turns
from rag.chunkers.units import fitted, unit_levels, unit_starts
from rag.core import Chunk, Document, Span, Splitter, Tokenizer
from rag.sentences import STOP_WORDS
from rag.tokenizer import WordTokenizer

MIN_DIMENSION = 64


class HypersegChunker:
    """Turns (``Name: words``) between deep dips of likeness, or sentences where the text is no transcript; needs no model.

    Lossless: every character that is not blank is in a chunk.

    From HyperSeg (Park, Seo and Lee, "Unsupervised dialogue topic segmentation in hyperdimensional space", Interspeech 2023): each
    word has a random vector of 10,000 dimensions, a turn is the sum of the vectors of its words without stop words, a boundary
    is a local minimum of the cosine that lies one standard deviation beyond the mean.

    Ours: the vectors are hashed from the words, so that they are the same in every run; the sides compared are ``window`` turns each
    instead of one; what is compared with mean and deviation (times ``amount``) is the depth of the dip below the peaks on its two
    sides (Hearst, "TextTiling", 1997), so that a slow drift is no boundary; stop words are ours, names of speakers are left out;
    the size limits. Chunks have at most ``max_tokens`` tokens, and none has fewer than ``min_tokens`` (by default a fifth of
    ``max_tokens``) that could be avoided; a stretch above the limit is cut where the dips are deepest. Long turns are cut between
    sentences.

    Since random vectors of so many dimensions are all but orthogonal, the cosines are those of plain counts of words, up to about
    ``1 / sqrt(dimension)``. Contexts are those of the structure chunker.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int = 200,
        min_tokens: int | None = None,
        window: int = 10,
        amount: float = 1.0,
        dimension: int = 10_000,
        max_context_tokens: int = 40,
        splitter: Splitter | None = None,
    ) -> None:
        self.min_tokens = max_tokens // 5 if min_tokens is None else min_tokens
        check_limit(max_tokens, min_tokens=self.min_tokens)
        if window < 1:
            raise ValueError(f"window={window}: must be at least 1")
        if dimension < MIN_DIMENSION or dimension % 8:
            raise ValueError(f"dimension={dimension}: must be a multiple of 8 and at least {MIN_DIMENSION}")
        if max_context_tokens < 0:
            raise ValueError(f"max_context_tokens={max_context_tokens}: must be at least 0")
        self.amount = checked_amount("standard_deviation", amount)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.window = window
        self.dimension = dimension
        self.max_context_tokens = max_context_tokens
        self.splitter = splitter

    def chunk(self, document: Document) -> list[Chunk]:
        text, end, layout = document.text, len(document.text), Layout(document)
        if not layout.blocks:
            return []
        ruler = Ruler(text, self.tokenizer)
        levels = unit_levels(text, layout)
        spoken = turns(text)
        if spoken:
            first = {layout.blocks[0].span.start}
            starts = fitted(ruler, sorted(first | {turn.start for turn in spoken}), levels, self.max_tokens)
        else:
            starts = unit_starts(ruler, layout, self.splitter, self.max_tokens)
        cosines = window_cosines(_words(text, starts, [Span(*turn) for turn in spoken]), self.window, self.dimension)
        weights = np.stack([np.zeros(len(starts)), np.append(self._margins(cosines), 0.0)], axis=1)
        num_tokens = np.maximum(np.diff(ruler.indexes([*starts, end])), 1)
        runs = best_runs(weights, num_tokens, self.max_tokens, np.ones(len(starts), dtype=np.bool_), self.min_tokens)

        def recut(span: Span, max_tokens: int) -> list[Span]:
            return spans_of(split(ruler, *span, levels, max_tokens), span.end)

        spans = spans_of([starts[run] for run in runs], end)
        spans = within_limit(text, spans, self.tokenizer, self.max_tokens, recut, ruler)
        return chunks_of(document, spans, layout.meta, ContextWriter(document, layout, self.tokenizer, self.max_context_tokens))

    def _margins(self, cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Negative where there is a boundary: only at local minima of ``cosines``."""
        depths = margins(dip_depths(cosines), "standard_deviation", self.amount)
        padded = np.concatenate([[np.inf], cosines, [np.inf]])
        is_minimum = (cosines < padded[:-2]) & (cosines <= padded[2:])
        return np.where(is_minimum, depths, np.maximum(depths, 0.0))


def dip_depths(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each place lies below the nearest peak to its left and the one to its right, both added up, ``(places,)``."""
    return _below_peak(cosines) + _below_peak(cosines[::-1])[::-1]


def _below_peak(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each place lies below the peak that is reached by going left as long as it goes up."""
    peaks = cosines.copy()
    for place in range(1, len(cosines)):
        if cosines[place - 1] >= cosines[place]:
            peaks[place] = peaks[place - 1]
    return peaks - cosines


def _words(text: str, starts: list[int], labels: list[Span]) -> list[list[str]]:
    """The words of each unit that mean something, in small letters; those inside ``labels`` are left out."""
    tokens = np.array(WordTokenizer().offsets(text), dtype=np.int64).T
    in_unit = np.searchsorted(starts, tokens[:, 0], side="right") - 1
    if labels:
        edges = np.array(labels, dtype=np.int64)
        label = np.maximum(np.searchsorted(edges[:, 0], tokens[:, 0], side="right") - 1, 0)
        is_said = (tokens[:, 0] < edges[label, 0]) | (tokens[:, 0] >= edges[label, 1])
        tokens, in_unit = tokens[is_said], in_unit[is_said]
    units: list[list[str]] = [[] for _ in starts]
    for (start, end), unit in zip(tokens.tolist(), in_unit.tolist(), strict=True):
        word = text[start:end].casefold()
        if word[0].isalnum() and word not in STOP_WORDS:
            units[unit].append(word)
    return units
