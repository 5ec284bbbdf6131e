"""The laws that all chunkers share, where a stretch by itself has more tokens than inside the text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from rag.chunkers.assemble import check_limit, trimmed, within_limit
from rag.chunkers.ruler import Ruler
from rag.core import Span, Tokenizer
from rag.tokenizer import WordTokenizer


class Pairs:
    """Two characters a token, from the start of whatever it is given, and one token more for anything at all."""

    name = "pairs"

    def spans(self, text: str) -> list[Span]:
        return [Span(place, min(place + 2, len(text))) for place in range(0, len(text), 2)]

    def count(self, text: str) -> int:
        return len(self.spans(text)) + bool(text)


def test_blanks_at_the_ends_go() -> None:
    text = " a b \n\x85 \u2003c"
    assert trimmed(text, [Span(0, 5), Span(5, 8), Span(8, 10)]) == [Span(1, 4), Span(9, 10)]


def test_what_is_above_the_limit_is_cut_until_it_fits() -> None:
    text = "abcdefghijklmnopq"
    spans = within_limit(text, [Span(0, 17)], Pairs(), 3)
    assert "".join(span.of(text) for span in spans) == text
    assert max(Pairs().count(span.of(text)) for span in spans) <= 3


def test_the_chunker_chooses_where() -> None:
    asked: list[tuple[Span, int]] = []

    def recut(span: Span, max_tokens: int) -> list[Span]:
        asked.append((span, max_tokens))
        return [Span(span.start, span.start + 1), Span(span.start + 1, span.end)]

    assert within_limit("abcdef", [Span(0, 6)], Pairs(), 3, recut) == [Span(0, 1), Span(1, 3), Span(3, 6)]
    assert asked == [(Span(0, 6), 2)]


def test_overlapping_spans_ascend_after_a_cut() -> None:
    spans = within_limit("abcdefgh", [Span(0, 8), Span(1, 8), Span(2, 6)], Pairs(), 3)
    assert spans == sorted(spans)
    assert all(after.start > before.start and after.end > before.end for before, after in pairwise(spans))
    assert {place for span in spans for place in range(*span)} == set(range(8))


def test_one_character_above_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens=1 is too small: the character 'a' alone has 2 tokens"):
        within_limit("ab", [Span(0, 2)], Pairs(), 1)


def test_what_surely_fits_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "one two. three four. five"
    spans = [Span(0, 9), Span(9, 21), Span(20, 25)]
    expected = within_limit(text, spans, WordTokenizer(), 2)
    asked: list[str] = []

    def counts_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
        asked.extend(texts)
        return [tokenizer.count(text) for text in texts]

    monkeypatch.setattr("rag.chunkers.assemble.counts_of", counts_of)
    assert within_limit(text, spans, WordTokenizer(), 2, ruler=Ruler(text, WordTokenizer())) == expected
    assert "one two." in asked and "five" not in asked


def test_limits_are_checked() -> None:
    check_limit(10, overlap_tokens=9)
    with pytest.raises(ValueError, match="max_tokens=0: must be at least 1"):
        check_limit(0)
    with pytest.raises(ValueError, match="overlap_tokens=10: must be between 0 and 9"):
        check_limit(10, overlap_tokens=10)
    assert within_limit("a b", [Span(0, 3)], WordTokenizer(), 2) == [Span(0, 3)]
