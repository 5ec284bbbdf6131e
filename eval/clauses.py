"""Where a clause stands in documents, and whether some pieces of documents hold it whole. Knows spans; knows no pipeline.

A clause is held by one piece, or by pieces of one document that overlap, touch, or have nothing but blanks between them. It is never put
together across a gap or across two documents. A clause that stands in its document several times is held wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rag.core import Span
from rag.eval.folded import Folded

Places = Mapping[str, Sequence[Span]]
"""Document id -> characters of its text."""


@dataclass(frozen=True, slots=True)
class PlacedClause:
    """A clause and every place where it stands; ``places`` is empty if it stands nowhere."""

    text: str
    places: Places

    def held(self, regions: Places) -> bool:
        """Whether one of ``regions`` (see ``regions``) holds it whole."""
        return any(_covered(place, regions.get(doc, ())) for doc, places in self.places.items() for place in places)

    def touched(self, regions: Places) -> bool:
        """Whether one of ``regions`` holds a part of it."""
        return any(
            place.overlaps(region) for doc, places in self.places.items() for place in places for region in regions.get(doc, ())
        )


def _covered(place: Span, regions: Sequence[Span]) -> bool:
    return any(region.start <= place.start and place.end <= region.end for region in regions)


def regions(pieces: Iterable[tuple[str, Span]], texts: Mapping[str, str]) -> dict[str, list[Span]]:
    """(document id, span) of some pieces as maximal regions per document, ascending. ``texts``: document id -> text."""
    by_document: dict[str, list[Span]] = {}
    for doc, span in pieces:
        by_document.setdefault(doc, []).append(span)
    return {doc: merged(spans, texts[doc]) for doc, spans in by_document.items()}


def merged(spans: Iterable[Span], text: str) -> list[Span]:
    """Spans of one text, joined where they overlap, touch, or only blanks part them.

    >>> merged([Span(4, 6), Span(0, 3), Span(8, 9)], "abc de, f")
    [Span(start=0, end=6), Span(start=8, end=9)]
    """
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and (span.start <= joined[-1].end or not text[joined[-1].end : span.start].strip()):
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def held_reference(clause: str, pieces: Sequence[tuple[str, Span]], texts: Mapping[str, str]) -> bool:
    """What ``PlacedClause.held`` must equal, token by token: some window of tokens of one document is the clause, every token of it
    is whole in the pieces, and so is everything but blanks between them.
    """
    wanted = Folded(clause).tokens
    for doc, text in texts.items():
        read = {number for name, span in pieces if name == doc for number in range(span.start, span.end)}
        folded = Folded(text)
        for first in range(len(folded.tokens) - len(wanted) + 1) if wanted else ():
            if folded.tokens[first : first + len(wanted)] == wanted:
                start, end = folded.spans[first].start, folded.spans[first + len(wanted) - 1].end
                if all(number in read or text[number].isspace() for number in range(start, end)):
                    return True
    return False
