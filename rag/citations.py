"""Citation marks in a stream of answer text, and the words of a source that bear out a claim. Knows chunks, no model.

A mark ``[n]`` is only a promise. It becomes a ``Citation`` when a sentence of hit ``n`` shares enough of the claim's
content words; offsets are those of the document (``chunk.span.start`` + offset in ``chunk.text``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag.core import Citation, Hit, Span
from rag.sentences import content_words, sentence_spans

MIN_SUPPORT = 0.45
"""Share of a claim's weighted content words that its quotation must hold.

Measured on 260 sentences of MTRAG-UN reference answers: 93% keep the citation of their own passages, 2% would keep one of another
conversation's (0.3: 99% and 9%; 0.6: 82% and 0.4%). Words are compared, not meanings: a paraphrase in other words or another
language loses its mark, and a denial of what the source says keeps it.
"""

MAX_QUOTED_SENTENCES = 3

_NUMBERS = r"\d{1,3}(?:\s*[,;\u2013-]\s*(?:\[?\s*)?\d{1,3})*"
_MARK = re.compile(rf"[^\S\n]*[\[\u3010]\s*(?:(?:sources?|documents?|docs?)\s*|\^)?({_NUMBERS})\s*[\]\u3011]", re.IGNORECASE)
_OPEN = re.compile(r"\s*[\[\u3010][^\[\]\u3010\u3011\n]{0,40}\Z|\s+\Z")
_RANGE = re.compile(r"(\d+)(?:\s*[\u2013-]\s*(\d+))?")


@dataclass(frozen=True, slots=True)
class Mark:
    """A citation mark: the numbers it names in order, without repeats, and how it was written, blanks before it included."""

    numbers: tuple[int, ...]
    written: str

    def rewritten(self, numbers: Sequence[int]) -> str:
        """The mark with only ``numbers``: as it was if none is missing, "" (without the blanks) if none is left."""
        if not numbers:
            return ""
        if tuple(numbers) == self.numbers:
            return self.written
        blanks = self.written[: len(self.written) - len(self.written.lstrip())]
        return blanks + "".join(f"[{number}]" for number in numbers)


class MarkParser:
    """Splits streamed text into plain pieces and marks, wherever the stream was cut.

    Understands ``[1]``, ``[1, 2]``, ``[1-3]``, ``[1][3]``, ``[source 2]``. Text inside back-ticks is code and holds no marks.
    White space and an open bracket at the end of what came so far are held back until the next piece tells what they are.
    """

    def __init__(self) -> None:
        self._held = ""
        self._fence = ""  # the run of back-ticks that opened the code we are in

    def feed(self, piece: str) -> Iterator[str | Mark]:
        """The text and the marks that are certain after ``piece``."""
        self._held += piece
        yield from self._split(final=False)

    def finish(self) -> Iterator[str | Mark]:
        """What was held back."""
        yield from self._split(final=True)

    def _split(self, final: bool) -> Iterator[str | Mark]:
        text, self._held = self._held, ""
        if not final:
            open_part = _OPEN.search(text) or re.search(r"\s*`+\Z", text)
            if open_part:
                text, self._held = text[: open_part.start()], text[open_part.start() :]
        for run, is_code in self._code_runs(text):
            position = 0
            for match in () if is_code else _MARK.finditer(run):
                if match.start() > position:
                    yield run[position : match.start()]
                yield Mark(_numbers(match.group(1)), match.group())
                position = match.end()
            if position < len(run):
                yield run[position:]

    def _code_runs(self, text: str) -> Iterator[tuple[str, bool]]:
        position = 0
        for match in re.finditer(r"`+|\n", text):
            ticks = match.group()
            if ticks == "\n":
                if len(self._fence) < 3 and self._fence:  # an inline span does not outlive its line
                    yield text[position : match.start()], True
                    position, self._fence = match.start(), ""
                continue
            if not self._fence:
                yield text[position : match.start()], False
                position, self._fence = match.start(), ticks
            elif ticks == self._fence:
                yield text[position : match.end()], True
                position, self._fence = match.end(), ""
        yield text[position:], bool(self._fence)


def _numbers(listed: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for first, last in _RANGE.findall(listed):
        low, high = int(first), int(last or first)
        numbers += range(low, high + 1) if low <= high < low + 20 else [low, high]
    return tuple(dict.fromkeys(numbers))


@dataclass(frozen=True, slots=True)
class Support:
    """Where a text bears out a claim (characters of that text) and how much of the claim it holds, 0 to 1."""

    span: Span
    share: float


def support(claim: str, text: str) -> Support | None:
    """The sentence of ``text`` that holds most of the claim's content words, widened to neighbours that add a tenth or more.

    The share is the weight of the shared words over the weight of all (numbers 3, names 2, others 1). ``None`` if the
    claim or the text has no content words.
    """
    wanted = content_words(claim)
    spans = sentence_spans(text)
    total = sum(wanted.values())
    if not total or not spans:
        return None
    found = [wanted.keys() & content_words(span.of(text)).keys() for span in spans]

    def share(words: set[str]) -> float:
        return sum(wanted[word] for word in words) / total

    best = max(range(len(spans)), key=lambda i: (share(found[i]), -len(spans[i])))
    first = last = best
    words = set(found[best])
    while last - first + 1 < MAX_QUOTED_SENTENCES:
        neighbours = [i for i in (first - 1, last + 1) if 0 <= i < len(spans)]
        if not neighbours:
            break
        chosen = max(neighbours, key=lambda i: share(words | found[i]))
        if share(words | found[chosen]) < share(words) + 0.1:
            break
        words |= found[chosen]
        first, last = min(first, chosen), max(last, chosen)
    return Support(Span(spans[first].start, spans[last].end), share(words)) if words else None


def quotation(number: int, hit: Hit, span: Span) -> Citation:
    """The citation of ``span`` (characters of ``hit.chunk.text``) under ``[number]``.

    ``source`` and ``page`` are taken from the chunk's metadata where it has them (``source`` else the document id): a chunk
    does not know its document, the catalog does.
    """
    chunk = hit.chunk
    page = chunk.meta.get("page")
    start = chunk.span.start + span.start
    return Citation(
        number=number,
        doc_id=chunk.doc_id,
        source=str(chunk.meta.get("source", chunk.doc_id)),
        chunk_id=chunk.id,
        start=start,
        end=start + len(span),
        quote=span.of(chunk.text),
        page=page if isinstance(page, int) else None,
    )


def cited(number: int, hit: Hit, claim: str, min_support: float = MIN_SUPPORT) -> Citation | None:
    """The citation that bears out ``claim`` in ``hit``; ``None`` if the hit does not hold ``min_support`` of it."""
    found = support(claim, hit.chunk.text)
    return quotation(number, hit, found.span) if found and found.share >= min_support else None
