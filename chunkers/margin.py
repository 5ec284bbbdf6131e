"""Chunks that end where a language model, asked, would rather split than keep. Knows the LM protocol and its own prompt."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rag.chunkers.merge import UnitMerger
from rag.chunkers.quoting import Quoter
from rag.core import LM, Chunk, Document, Message, Span, Splitter, Tokenizer
from rag.tokenizer import counts_of

SPLIT, KEEP = "1", "2"
THRESHOLD_OF = 5
"""How many margins the threshold is the mean of."""

BATCH = 256
"""Pairs per call of the model: a long document is not held as prompts all at once."""

TASK = f"""You cut documents into passages that each treat one subject.
You see the end of the current passage and the text that follows it. Answer with one digit and nothing else:
{SPLIT} if the text that follows begins a new subject and should be split off,
{KEEP} if it continues the same subject and should be kept together with the passage."""


class MarginChunker:
    """Asks, for each sentence, whether it continues the chunk before it; then merges small neighbours.

    Lossless: every character that is not blank is in a chunk.

    Margin sampling of Meta-Chunking (arXiv 2410.12788): two numbered answers, ``d = P(keep) - P(split)`` from ``lm.score``, and the
    sentence is kept if ``d`` is above a threshold: 0 at first, and the mean of the last five ``d`` once there are five, so it
    follows the bias of a model towards one of the digits. ``mode``: ``pairs`` shows the model two neighbouring sentences, so
    all questions about a document are known beforehand and are asked in batches; ``sequential`` shows it the whole
    chunk so far, as published, so each question waits for the answer before it, and prompts grow to ``max_tokens`` (beyond that
    nothing is asked). ``pairs`` is the default: it is cheaper by about the length of a chunk in sentences, and no published
    comparison shows a gain from the longer prompt that is larger than noise.

    ``max_tokens``, ``target_tokens``, ``max_context_tokens``, ``splitter`` and the treatment of layout are those of the perplexity chunker. A
    model that gives no log-probabilities works too (its answer in words is then taken for a probability near 1).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        lm: LM,
        max_tokens: int = 200,
        target_tokens: int | None = None,
        mode: Literal["pairs", "sequential"] = "pairs",
        max_context_tokens: int = 40,
        splitter: Splitter | None = None,
    ) -> None:
        if mode not in ("pairs", "sequential"):
            raise ValueError(f"mode={mode!r}: allowed are pairs, sequential")
        self._merger = UnitMerger(tokenizer, max_tokens, target_tokens, max_context_tokens, splitter)
        self._lm = lm
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_context_tokens = max_context_tokens
        self.mode = mode

    def chunk(self, document: Document) -> list[Chunk]:
        def beginnings(units: Sequence[Span]) -> list[int]:
            texts = [unit.of(document.text).strip() for unit in units]
            quoter = Quoter(document.text)
            return begun(self._margins(quoter, texts)) if self.mode == "pairs" else self._sequential(quoter, texts)

        return self._merger.chunks(document, beginnings)

    def _margins(self, quoter: Quoter, texts: Sequence[str]) -> Iterator[float]:
        """``d`` of each text but the first, given the one before it."""
        for first in range(1, len(texts), BATCH):
            numbers = range(first, min(first + BATCH, len(texts)))
            yield from self._asked([_prompt(quoter, texts[number - 1], texts[number]) for number in numbers])

    def _sequential(self, quoter: Quoter, texts: Sequence[str]) -> list[int]:
        counts = counts_of(self.tokenizer, texts)
        threshold = Threshold()
        beginnings = [0]
        for number in range(1, len(texts)):
            first = beginnings[-1]
            if sum(counts[first : number + 1]) > self.max_tokens:
                beginnings.append(number)
                continue
            (margin,) = self._asked([_prompt(quoter, "\n".join(texts[first:number]), texts[number])])
            if not threshold.is_kept(margin):
                beginnings.append(number)
        return beginnings

    def _asked(self, prompts: Sequence[Sequence[Message]]) -> list[float]:
        return [math.exp(keep) - math.exp(split) for split, keep in self._lm.score(prompts, (SPLIT, KEEP))]


class Threshold:
    """0 until five margins were seen, then the mean of the last five."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=THRESHOLD_OF)

    def is_kept(self, margin: float) -> bool:
        """Whether ``margin`` is above the threshold; it counts for the next ones."""
        threshold = math.fsum(self._last) / THRESHOLD_OF if len(self._last) == THRESHOLD_OF else 0.0
        self._last.append(margin)
        return margin > threshold


def begun(margins: Iterable[float]) -> list[int]:
    """The numbers of the texts that begin something new; ``margins`` are those of texts 1, 2, ...

    >>> begun([0.2, -0.1, 0.3, 0.3, 0.3, 0.1])
    [0, 2, 6]
    """
    threshold = Threshold()
    return [0, *(number for number, margin in enumerate(margins, start=1) if not threshold.is_kept(margin))]


def _prompt(quoter: Quoter, before: str, following: str) -> list[Message]:
    quoted = f"{quoter.quote('PASSAGE', before)}\n\n{quoter.quote('FOLLOWING TEXT', following)}"
    return quoter.messages(TASK, f"{quoted}\n\n{SPLIT} = split, {KEEP} = keep together. Your digit:")
