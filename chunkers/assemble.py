"""Makes chunks of spans and holds the laws that all chunkers share. Knows no way of choosing spans.

The laws: the text of a chunk has no blanks at its ends and is never empty; the named tokenizer counts at most
``max_tokens`` in it, taken by itself; chunks ascend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rag.chunkers.ruler import Ruler, is_inside_character
from rag.core import Chunk, Document, Span, Tokenizer
from rag.tokenizer import counts_of

Recut = Callable[[Span, int], Sequence[Span]]
"""``recut(span, max_tokens)``: the span in smaller pieces, cut where the chunker would like it."""


def trimmed(text: str, spans: Iterable[Span]) -> list[Span]:
    """``spans`` without blanks at their ends; those of nothing but blanks are gone."""
    kept = []
    for start, end in spans:
        piece = text[start:end]
        solid = piece.strip()
        if solid:
            begin = start + len(piece) - len(piece.lstrip())
            kept.append(Span(begin, begin + len(solid)))
    return kept


def within_limit(text: str, spans: Iterable[Span], tokenizer: Tokenizer, max_tokens: int, recut: Recut | None = None) -> list[Span]:
    """``spans``, trimmed, each with at most ``max_tokens`` when tokenised by itself.

    A stretch by itself may have more tokens than it had inside the whole text, so every span is counted again, and those
    above the limit are cut again. Raises ``ValueError`` if one character alone has more tokens than the limit.
    """
    kept = trimmed(text, spans)
    counts = counts_of(tokenizer, [span.of(text) for span in kept])
    if max(counts, default=0) <= max_tokens:
        return _ascending(kept)
    fitting: list[Span] = []
    for span, count in zip(kept, counts, strict=True):
        if count <= max_tokens:
            fitting.append(span)
            continue
        pieces = trimmed(text, recut(span, max(2 * max_tokens - count, 1))) if recut and count < 2 * max_tokens else [span]
        fitting.extend(within_limit(text, _halved(text, pieces, tokenizer, max_tokens), tokenizer, max_tokens))
    return _ascending(fitting)


def _ascending(spans: list[Span]) -> list[Span]:
    """``spans`` by start, without those that lie inside one before: overlapping spans that were cut again may be either."""
    ascending: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not ascending or span.end > ascending[-1].end:
            ascending.append(span)
    return ascending


def _halved(text: str, pieces: Sequence[Span], tokenizer: Tokenizer, max_tokens: int) -> Iterable[Span]:
    """The pieces; one that is still above the limit in parts, each shorter than it."""
    for piece, count in zip(pieces, counts_of(tokenizer, [piece.of(text) for piece in pieces]), strict=True):
        if count <= max_tokens:
            yield piece
            continue
        if len(piece) == 1:
            raise ValueError(f"max_tokens={max_tokens} is too small: the character {piece.of(text)!r} alone has {count} tokens")
        place = piece.start + Ruler(piece.of(text), tokenizer).cut(0, len(piece), max_tokens)
        if place >= piece.end:  # tokens without characters make up the excess
            place = piece.start + len(piece) // 2
            place = next((near for near in range(place, piece.start, -1) if not is_inside_character(text, near)), place)
        yield Span(piece.start, place)
        yield Span(place, piece.end)


def chunks_of(
    document: Document,
    spans: Iterable[Span],
    meta: Callable[[Span], Mapping[str, Any]],
    context: Callable[[Span], str] = lambda span: "",
) -> list[Chunk]:
    """One chunk per span."""
    return [Chunk.of(document, span, context(span), meta(span)) for span in spans]


def check_limit(max_tokens: int, **parts: int) -> None:
    """Raises ``ValueError`` unless ``max_tokens`` is at least 1 and each part is at least 0 and below it."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: must be at least 1")
    for name, value in parts.items():
        if not 0 <= value < max_tokens:
            raise ValueError(f"{name}={value}: must be between 0 and {max_tokens - 1} (max_tokens - 1)")
