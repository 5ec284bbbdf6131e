"""Answers written by a language model from numbered sources, each citation checked against its source. Knows no index.

The model's text passes through as it comes. Only a sentence that carries a citation mark waits for its end, because
whether the mark stays depends on the whole sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from rag.citations import MIN_SUPPORT, Mark, MarkParser, cited
from rag.core import LM, Chunk, Citation, CitationEvent, Completion, Event, Hit, StageEvent, TextEvent, Usage, UsageEvent
from rag.prompt import ABSTENTION, SYSTEM, sourced_prompt
from rag.sentences import content_words, sentence_spans

_DECLINES = re.compile(
    r"\W*(?:(?:the|these|provided|given|none of the)\s+)*(?:sources?|documents?|context)\s+(?:provided\s+)?(?:do(?:es)?\s+not|don't|doesn't)\s+"
    r"(?:contain|answer|provide|mention|include|have)\b"
    r"|\W*(?:i\s+(?:cannot|can't|could not|am unable to|do not know|don't know)\b)"
    r"|\W*there is (?:no|not enough) information\b",
    re.IGNORECASE,
)


class LMGenerator:
    """Lets ``lm`` answer from the hits, in their order, with citations ``[n]`` for hit ``n``.

    ``max_tokens``: length of the answer. ``max_prompt_tokens``: room for instructions and sources; without it, the
    model's context less the answer where the model tells, else 6,000 tokens. The last sources are
    cut to fit. ``min_support``: see ``rag.citations``. ``abstention``: what is said when nothing was found or the model
    declines; an answer that begins with it (or with a usual wording of it) and has no valid citation counts as abstained.
    """

    def __init__(
        self,
        lm: LM,
        max_tokens: int = 400,
        max_prompt_tokens: int | None = None,
        min_support: float = MIN_SUPPORT,
        abstention: str = ABSTENTION,
        system: str | None = None,
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: must be at least 1")
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens={max_prompt_tokens}: must be at least 1")
        if not 0 <= min_support <= 1:
            raise ValueError(f"min_support={min_support}: must be between 0 and 1")
        self.lm = lm
        self.max_tokens = max_tokens
        self.max_prompt_tokens = max_prompt_tokens
        self.min_support = min_support
        self.abstention = abstention
        self.system = (system or SYSTEM).replace(ABSTENTION, abstention)

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """Nothing to prepare."""

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """Nothing is kept."""
        return 0

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """What the prompt shows, text, citations at the ends of sentences, then the usage. No hits: abstains without asking the model."""
        if not hits:
            yield StageEvent("prompt", (), 0.0)
            yield TextEvent(self.abstention)
            yield UsageEvent(Usage(), abstained=True)
            return
        budget, count = self._budget()
        prompt = sourced_prompt(query, hits, max_tokens=budget, count=count, system=self.system)
        yield StageEvent("prompt", prompt.shown, 0.0)
        pieces = self.lm.stream(prompt.messages, max_tokens=self.max_tokens)
        yield from checked_answer(pieces, prompt.hits, self.min_support, self.abstention)

    def _budget(self) -> tuple[int, _Count]:
        limit = self.max_prompt_tokens
        if self.lm.context_tokens is not None:
            room = self.lm.context_tokens - self.max_tokens
            limit = room if limit is None else min(limit, room)
        return 6000 if limit is None else limit, self.lm.count_tokens


def checked_answer(
    pieces: Iterable[str | Completion], hits: Sequence[Hit], min_support: float, abstention: str
) -> Iterator[TextEvent | CitationEvent | UsageEvent]:
    """The events of an answer whose text comes in ``pieces`` (the last is the ``Completion``) and cites ``hits`` by number.

    Marks that their source does not support are left out and counted; an empty answer becomes the ``abstention``.
    """
    checker, parser, text = _Checker(hits, min_support), MarkParser(), ""
    completion = Completion("", 0, 0, "stop")
    for piece in pieces:
        if isinstance(piece, Completion):
            completion = piece
            continue
        for event in checker.feed(parser.feed(piece)):
            text += event.text if isinstance(event, TextEvent) else ""
            yield event
    for event in [*checker.feed(parser.finish()), *checker.finish()]:
        text += event.text if isinstance(event, TextEvent) else ""
        yield event
    if not text.strip():
        yield TextEvent(abstention)
    declined = not text.strip() or text.strip().startswith(abstention.rstrip(".")) or bool(_DECLINES.match(text))
    usage = Usage(completion.prompt_tokens, completion.completion_tokens, 1, checker.num_dropped)
    yield UsageEvent(usage, abstained=declined and not checker.num_kept)


class _Count(Protocol):
    def __call__(self, text: str, /) -> int: ...


class _Checker:
    """Lets text through up to the first mark of a sentence, then waits for the sentence to end and judges its marks."""

    def __init__(self, hits: Sequence[Hit], min_support: float) -> None:
        self._hits = hits
        self._min_support = min_support
        self._pieces: list[str | Mark] = []  # the current sentence
        self._num_shown = 0  # its first characters, already passed on
        self._offered: set[Citation] = set()
        self._claim = ""  # the sentence before
        self.num_kept = 0
        self.num_dropped = 0

    def feed(self, pieces: Iterable[str | Mark]) -> Iterator[TextEvent | CitationEvent]:
        for piece in pieces:
            self._pieces.append(piece)
            if isinstance(piece, str):
                while end := _end_of_first(self._words()):
                    yield from self._flush(end)
                if not any(isinstance(held, Mark) for held in self._pieces):
                    words = self._words()
                    if len(words) > self._num_shown:
                        yield TextEvent(words[self._num_shown :])
                    self._num_shown = len(words)

    def finish(self) -> Iterator[TextEvent | CitationEvent]:
        yield from self._flush(len(self._words()) + 1)

    def _words(self) -> str:
        return "".join(piece for piece in self._pieces if isinstance(piece, str))

    def _flush(self, end: int) -> Iterator[TextEvent | CitationEvent]:
        """Passes on the first ``end`` characters of the sentence and the marks among them; keeps the rest for the next."""
        sentence = self._words()[:end]
        out, citations, rest = "", list[Citation](), list[str | Mark]()
        position = clause_start = 0
        for piece in self._pieces:
            if isinstance(piece, str):
                inside = piece[: max(0, end - position)]
                out += inside[max(0, self._num_shown - position) :]
                rest += [piece[len(inside) :]] if len(piece) > len(inside) else []
                position += len(piece)
            elif position < end:
                kept = self._judged(
                    piece, [sentence[clause_start:position], sentence, *([] if sentence.strip() else [self._claim])]
                )
                citations += kept
                out += piece.rewritten([citation.number for citation in kept])
                clause_start = position
            else:
                rest.append(piece)
        if out:
            yield TextEvent(out)
        for citation in citations:
            if citation not in self._offered:
                self._offered.add(citation)
                yield CitationEvent(citation)
        self._claim = sentence if sentence.strip() else self._claim
        self._pieces, self._num_shown = rest, 0

    def _judged(self, mark: Mark, claims: Sequence[str]) -> list[Citation]:
        kept = []
        for number in mark.numbers:
            citation = None
            if 1 <= number <= len(self._hits):
                # a clause of its own is judged alone, but two words prove nothing
                tried = [claim for claim in claims[:1] if len(content_words(claim)) >= 3] + list(claims[1:])
                found = (cited(number, self._hits[number - 1], claim, self._min_support) for claim in tried)
                citation = next((each for each in found if each), None)
            if citation:
                kept.append(citation)
        self.num_kept += len(kept)
        self.num_dropped += len(mark.numbers) - len(kept)
        return kept


def _end_of_first(text: str) -> int:
    """Where the second sentence of ``text`` begins; 0 while there is none."""
    spans = sentence_spans(text) if text.strip() else []
    return spans[1].start if len(spans) > 1 else 0
