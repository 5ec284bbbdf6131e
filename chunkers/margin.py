"""Chunks that end where a language model, asked, would rather split than keep. Knows the LM protocol and its own prompt."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Literal

from rag.chunkers.merge import UnitMerger
from rag.chunkers.quoting import Quoter
from rag.chunkers.together import Work, together
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
        return self.chunk_many([document])[0]

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        cuts = [self._merger.cut(document) for document in documents]
        pieces = [_Pieces(document, cut.units) for document, cut in zip(documents, cuts, strict=True)]
        if self.mode == "pairs":
            margins = self._answers(chain.from_iterable(each.pairs() for each in pieces))
            beginnings = [begun(islice(margins, max(len(each.texts) - 1, 0))) for each in pieces]
        else:
            beginnings = together(map(self._sequential, pieces), self._asked)
        return [cut.chunks(own) for cut, own in zip(cuts, beginnings, strict=True)]

    def _answers(self, prompts: Iterator[Sequence[Message]]) -> Iterator[float]:
        """``d`` of each prompt."""
        while batch := list(islice(prompts, BATCH)):
            yield from self._asked(batch)

    def _sequential(self, pieces: _Pieces) -> Work[Sequence[Message], list[int]]:
        quoter, texts = pieces.quoter, pieces.texts
        counts = counts_of(self.tokenizer, texts)
        threshold = Threshold()
        beginnings = [0]
        for number in range(1, len(texts)):
            first = beginnings[-1]
            if sum(counts[first : number + 1]) > self.max_tokens:
                beginnings.append(number)
                continue
            (margin,) = yield [_prompt(quoter, "\n".join(texts[first:number]), texts[number])]
            if not threshold.is_kept(margin):
                beginnings.append(number)
        return beginnings

    def _asked(self, prompts: Sequence[Sequence[Message]]) -> list[float]:
        return [math.exp(keep) - math.exp(split) for split, keep in self._lm.score(prompts, (SPLIT, KEEP))]


class _Pieces:
    """What a model is asked about: the units of one document."""

    def __init__(self, document: Document, units: Sequence[Span]) -> None:
        self.quoter = Quoter(document.text)
        self.texts = [unit.of(document.text).strip() for unit in units]

    def pairs(self) -> Iterator[Sequence[Message]]:
        """A prompt for each text but the first, with the one before it."""
        return (_prompt(self.quoter, before, text) for before, text in pairwise(self.texts))


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
