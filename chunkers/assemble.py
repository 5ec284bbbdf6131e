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


def within_limit(
    text: str,
    spans: Iterable[Span],
    tokenizer: Tokenizer,
    max_tokens: int,
    recut: Recut | None = None,
    ruler: Ruler | None = None,
) -> list[Span]:
    """``spans``, trimmed, each with at most ``max_tokens`` when tokenised by itself.

    A stretch by itself may have more tokens than it had inside the whole text, so every span is counted again, unless the
    ``ruler`` of ``text`` knows better, and those above the limit are cut again. Raises ``ValueError`` if one character alone
    has more tokens than the limit.
    """
    fitting: list[Span] = []
    pending = trimmed(text, spans)
    if ruler:
        is_fitting = ruler.fitting(pending, max_tokens)
        fitting = [span for span, fits in zip(pending, is_fitting, strict=True) if fits]
        pending = [span for span, fits in zip(pending, is_fitting, strict=True) if not fits]
    while pending:
        cut_again: list[Span] = []
        for span, count in zip(pending, counts_of(tokenizer, [span.of(text) for span in pending]), strict=True):
            if count <= max_tokens:
                fitting.append(span)
                continue
            # aiming lower by the excess nearly always does it; if not, the second time round cuts between tokens
            pieces = recut(span, max(2 * max_tokens - count, 1)) if recut and count < 2 * max_tokens else [span]
            cut_again += pieces if len(pieces) > 1 else _in_two(text, span, tokenizer, max_tokens)
        pending, recut = trimmed(text, cut_again), None
    return _ascending(fitting)


def _ascending(spans: list[Span]) -> list[Span]:
    """``spans`` by start, without those that lie inside one before: overlapping spans that were cut again may be either."""
    ascending: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not ascending or span.end > ascending[-1].end:
            ascending.append(span)
    return ascending


def _in_two(text: str, span: Span, tokenizer: Tokenizer, max_tokens: int) -> list[Span]:
    """A span above the limit: what fits of it, and the rest."""
    piece = span.of(text)
    if len(piece) == 1:
        raise ValueError(f"max_tokens={max_tokens} is too small: the character {piece!r} alone has {tokenizer.count(piece)} tokens")
    place = span.start + Ruler(piece, tokenizer).cut(0, len(piece), max_tokens)
    if place == span.end:  # tokens without characters make up the excess
        middle = span.start + len(piece) // 2
        place = next((near for near in range(middle, span.start, -1) if not is_inside_character(text, near)), middle)
    return [Span(span.start, place), Span(place, span.end)]


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
