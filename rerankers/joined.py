"""Joins neighbouring chunks of one document into one, with exactly the document's characters. Knows the corpus by its protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rag.core import Chunk, Corpus, Hit, Span, Stretch

Ranked = tuple[int, Hit]
"""A hit and its place among those given, from 0."""


def number_of(hit: Hit, stretch: Stretch) -> int:
    """The number, in its document, of the chunk of ``stretch`` in which ``hit`` starts; ``stretch`` is what lies near it."""
    started = sum(chunk.span.start <= hit.chunk.span.start for chunk in stretch.chunks)
    return stretch.first + max(started - 1, 0)


def join(corpus: Corpus, chunks: Sequence[Chunk], hits: Sequence[Ranked]) -> list[Ranked]:
    """``chunks``, neighbours in order, as one chunk, shown for the best of ``hits``.

    It reaches from the first character of the first to the last character of any, with the context and the meta of the first; its
    meta names the ``pages`` of all, if they are known, and the ids of the ``joined_chunks``. One chunk alone stays as it is.
    A document that was changed since the hits were found is not what they were found in: then they come back as they are.
    """
    rank, best = min(hits, key=lambda ranked: ranked[0])
    span = Span(chunks[0].span.start, max(chunk.span.end for chunk in chunks))
    text = corpus.text(best.chunk.doc_id, span) if len(chunks) > 1 else chunks[0].text
    if not all(_stands(chunk, span, text) for chunk in [*chunks, *(hit.chunk for _, hit in hits)]):
        return list(hits)
    chunk = chunks[0]
    if len(chunks) > 1:
        chunk = Chunk.at(
            chunk.doc_id, span, text, chunk.context, {**chunk.meta, **_pages(chunks), "joined_chunks": [c.id for c in chunks]}
        )
    return [(rank, Hit(chunk, best.score, best.why))]


def _stands(chunk: Chunk, span: Span, text: str) -> bool:
    return (
        text[max(0, chunk.span.start - span.start) : chunk.span.end - span.start] == chunk.text and chunk.span.start >= span.start
    )


def _pages(chunks: Sequence[Chunk]) -> dict[str, list[int]]:
    """``pages`` if there are several."""
    pages = {page for chunk in chunks for page in chunk.meta.get("pages", [chunk.meta.get("page")]) if page is not None}
    return {"pages": sorted(pages)} if len(pages) > 1 else {}


def placed(stage: str, found: Iterable[Ranked]) -> list[Hit]:
    """The hits by their places, scores unchanged, ``stage`` added to ``why``."""
    ordered = sorted(found, key=lambda ranked: ranked[0])
    return [hit.placed(stage, hit.score, rank) for rank, (_, hit) in enumerate(ordered, start=1)]
