"""Chunks that end where a language model has understood: at minima of perplexity. Knows the LM protocol; knows no prompt."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rag.chunkers.merge import UnitMerger
from rag.chunkers.together import Work, together
from rag.core import LM, Chunk, Document, Span, Splitter, Tokenizer, TokenLogprobs
from rag.errors import ModelError

DYNAMIC_MINIMA = 100
"""So many minima are collected before a dynamic threshold leaves 0."""


class PerplexityChunker:
    """Ends a chunk after a sentence that was easier to predict than both of its neighbours; then merges small neighbours.

    Lossless: every character that is not blank is in a chunk.

    Meta-Chunking (arXiv 2410.12788): a sentence that the model finds easy completes a thought, the next one begins another. The
    whole text is read once, by one call of ``lm.logprobs`` (many documents by one call too); the surprise of a sentence is the mean of ``-log p`` over its tokens,
    in nats (the first token of the text and blank tokens count nowhere). ``theta``: a minimum counts if the surprise falls by at
    least so much before it or rises by as much after it; 0 to 0.5 are in use. ``"dynamic"``: 0 until 100 minima are found, then
    the smallest depth among the last 100. Length is ruled separately: ``max_tokens`` is kept always, and neighbours are
    merged up to ``target_tokens`` (default: ``max_tokens``), which in practice shapes the chunks as much as the minima do.

    Sections, tables and lists are kept whole where they fit, as in the structure chunker, whose context
    (``max_context_tokens``) the chunks carry too. ``splitter`` finds the sentences in prose; without one it is done by punctuation.
    Which cuts are found depends on the model: an index is made with one.

    ``chunk`` raises ``ModelError`` if the model gives no log-probabilities of a text (not every server does).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        lm: LM,
        max_tokens: int = 200,
        target_tokens: int | None = None,
        theta: float | Literal["dynamic"] = 0.0,
        max_context_tokens: int = 40,
        splitter: Splitter | None = None,
    ) -> None:
        if theta != "dynamic" and not (isinstance(theta, (int, float)) and 0 <= theta < math.inf):
            raise ValueError(f"theta={theta!r}: must be a number of at least 0, in nats, or 'dynamic'")
        self._merger = UnitMerger(tokenizer, max_tokens, target_tokens, max_context_tokens, splitter)
        self._lm = lm
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_context_tokens = max_context_tokens
        self.theta = theta

    def chunk(self, document: Document) -> list[Chunk]:
        return self.chunk_many([document])[0]

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        return together(map(self._work, documents), self._read)

    def _work(self, document: Document) -> Work[Document, list[Chunk]]:
        cut = self._merger.cut(document)
        if not cut.units:
            return []
        found: TokenLogprobs = (yield [document])[0]
        return cut.chunks([number + 1 for number in minima(surprises(found, document.text, cut.units), self.theta)])

    def _read(self, documents: Sequence[Document]) -> list[TokenLogprobs]:
        more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
        try:
            found = self._lm.logprobs([document.text for document in documents])
        except ModelError as error:
            raise ModelError(f"the perplexity chunker needs log-probabilities of {documents[0].source!r}{more}: {error}") from error
        for document, (spans, logprobs) in zip(documents, found, strict=True):
            if len(spans) != len(logprobs) or (len(spans) > 1 and all(map(math.isnan, logprobs))):
                needs = f"the perplexity chunker needs log-probabilities of {document.source!r}"
                raise ModelError(f"{needs}; the language model gave none for its {len(spans)} tokens")
        return found


def surprises(found: TokenLogprobs, text: str, units: Sequence[Span]) -> list[float]:
    """Mean of ``-log p`` in nats over the tokens of each unit, ``(units,)``; nan where a unit has none that counts.

    A token belongs to the unit that holds its first character that is not blank.
    """
    starts = [unit.start for unit in units]
    sums, counts = np.zeros(len(units)), np.zeros(len(units))
    for (start, end), logprob in zip(found.spans, found.logprobs, strict=True):
        piece = text[start:end]
        solid = piece.lstrip()
        if solid and not math.isnan(logprob):
            number = bisect_right(starts, start + len(piece) - len(solid)) - 1
            sums[number] -= logprob
            counts[number] += 1
    with np.errstate(invalid="ignore"):
        means: list[float] = (sums / counts).tolist()
    return means


def minima(values: Sequence[float], theta: float | Literal["dynamic"] = 0.0) -> list[int]:
    """Where ``values`` have a local minimum that is deep enough, neither first nor last (Meta-Chunking, section 3.2).

    ``i`` is one if ``values[i]`` is below both neighbours and one of the two differences is at least ``theta``, or if it is
    below the left one by at least ``theta`` and equals the right one. No comparison with nan holds.

    >>> minima([3.0, 1.0, 2.0, 1.9, 1.9, 2.5, 2.4, 2.6], theta=0.15)
    [1, 6]
    >>> minima([3.0, 1.0, 2.0, 1.9, 1.9, 2.5, 2.4, 2.6])
    [1, 3, 6]
    """
    depths: deque[float] = deque(maxlen=DYNAMIC_MINIMA)
    found: list[int] = []
    for i in range(1, len(values) - 1):
        fall, rise = values[i - 1] - values[i], values[i + 1] - values[i]
        threshold = theta if theta != "dynamic" else min(depths) if len(depths) == DYNAMIC_MINIMA else 0.0
        if (fall > 0 and rise > 0 and max(fall, rise) >= threshold) or (fall > 0 and rise == 0 and fall >= threshold):
            found.append(i)
            depths.append(min(fall, rise) if rise > 0 else fall)
    return found
