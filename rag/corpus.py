"""The stored documents as selectors see them. Knows the catalog; widens nothing itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from rag.catalog import Catalog
from rag.core import Span, Stretch
from rag.errors import IndexNotFound


class CatalogCorpus:
    """A ``rag.core.Corpus`` over the catalog of an index, which need not be there yet. Safe to use from several threads.

    Every call sees the last commit. Raises ``DamagedIndex`` for a row that is not what was stored.
    """

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog

    def near(self, doc_id: str, span: Span, before: int, after: int) -> Stretch:
        """See ``rag.core.Corpus``. Raises ``ValueError`` if ``before`` or ``after`` is below 0."""
        if before < 0 or after < 0:
            raise ValueError(f"before={before}, after={after}: must be at least 0")
        try:
            catalog = self._catalog()
        except IndexNotFound:
            return Stretch(0, ())
        with catalog.reading() as read:
            places = read.places_of(doc_id)
            if not places:
                return Stretch(0, ())
            first, last = anchors([place for _, place in places], span)
            begin = max(0, first - before)
            keys = [key for key, _ in places[begin : last + after + 1]]
            chunks = read.chunks(keys)
        return Stretch(begin, tuple(chunks[key] for key in keys))

    def text(self, doc_id: str, span: Span) -> str:
        """See ``rag.core.Corpus``."""
        try:
            with self._catalog().reading() as read:
                return span.of(read.text(doc_id))
        except (IndexNotFound, KeyError):
            return ""


def anchors(places: list[Span], span: Span) -> tuple[int, int]:
    """Numbers of the chunk in which ``span`` starts and of the last one that it holds whole; the same if it holds none.

    ``places``: the characters of the chunks by ascending start. Chunks may overlap: that two share some characters makes neither a
    part of the other.

    >>> anchors([Span(0, 10), Span(8, 20), Span(18, 30)], Span(8, 20))
    (1, 1)
    """
    first = max(0, bisect_right(places, span.start, key=lambda place: place.start) - 1)
    last = first
    while last + 1 < len(places) and places[last + 1].end <= span.end:
        last += 1
    return first, last
