"""Measuring a stretch must agree with tokenising it, and cuts must spare words and joined characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chunkers.ruler import MAX_TOKEN_CHARS, Ruler, is_inside_character
from rag.core import Span
from rag.tokenizer import WordTokenizer

WORDS = WordTokenizer()


class BlankFirst:
    """As byte-level vocabularies do it: the blank before a word is part of its token, rare characters take three tokens."""

    name = "blank-first"

    def spans(self, text: str) -> list[Span]:
        spans: list[Span] = []
        start = 0
        for place, character in enumerate(text):
            if ord(character) > 0xFFFF:
                spans += [Span(place, place + 1)] * 3
                start = place + 1
            elif place + 1 == len(text) or text[place + 1].isspace() or ord(text[place + 1]) > 0xFFFF:
                spans.append(Span(start, place + 1))
                start = place + 1
        return spans

    def count(self, text: str) -> int:
        return len(self.spans(text))


@given(st.text(alphabet="ab ,漢é\n", max_size=40), st.data())
def test_stretches_between_words_count_as_by_themselves(text: str, data: st.DataObject) -> None:
    ruler = Ruler(text, WORDS)
    places = [place for place in range(len(text) + 1) if text[place - 1 : place].isspace() or place in (0, len(text))]
    start, end = sorted([data.draw(st.sampled_from(places)), data.draw(st.sampled_from(places))])
    assert ruler.count(start, end) == WORDS.count(text[start:end])


@given(st.text(alphabet="ab ,漢\u0301\n\x0c\u2003", max_size=30), st.data(), st.sampled_from([WORDS, BlankFirst()]))
def test_what_surely_fits_fits(text: str, data: st.DataObject, tokenizer: WordTokenizer | BlankFirst) -> None:
    edges = st.integers(0, len(text))
    spans = [Span(*sorted([data.draw(edges), data.draw(edges)])) for _ in range(4)]
    for max_tokens in range(3):
        for span, fits in zip(spans, Ruler(text, tokenizer).fitting(spans, max_tokens), strict=True):
            assert not fits or tokenizer.count(span.of(text)) <= max_tokens


def test_what_surely_fits() -> None:
    text = "ab cd\tef\x0cgh"
    spans = [Span(0, 2), Span(3, 8), Span(0, 1), Span(6, 8), Span(9, 11), Span(0, 11)]
    assert Ruler(text, WORDS).fitting(spans, 2) == [True, False, False, False, False, False]
    assert Ruler(text, WORDS).fitting(spans, 9) == [True, False, False, False, False, True]
    assert Ruler(text, BlankFirst()).fitting(spans, 9) == [False] * 6


@given(st.text(alphabet="ab ,漢é\u0301\U0001f44d\u200d\n", max_size=40), st.integers(1, 5), st.sampled_from([WORDS, BlankFirst()]))
def test_a_cut_fits_and_moves_ahead(text: str, max_tokens: int, tokenizer: WordTokenizer | BlankFirst) -> None:
    ruler = Ruler(text, tokenizer)
    for start in range(len(text)):
        place = ruler.cut(start, len(text), max_tokens)
        assert start < place <= len(text)
        assert ruler.count(start, place) <= max_tokens or place == start + 1


def test_a_token_belongs_to_its_first_character_that_is_not_blank() -> None:
    ruler = Ruler("ab cd ef", BlankFirst())
    assert [ruler.count(0, end) for end in (2, 3, 4)] == [1, 1, 2]
    assert ruler.cut(0, 8, 1) == 3  # before the "c", not before the blank


def test_tokens_that_share_a_character_stay_together() -> None:
    ruler = Ruler("👍👍", BlankFirst())
    assert ruler.count(0, 1) == 3 and ruler.cut(0, 2, 4) == 1
    assert ruler.cut(0, 2, 2) == 1  # not even one fits, and still it goes on


def test_a_cut_spares_words_if_it_can() -> None:
    class Letters:
        name = "letters"

        def spans(self, text: str) -> list[Span]:
            return [Span(place, place + 1) for place, character in enumerate(text) if not character.isspace()]

        def count(self, text: str) -> int:
            return len(self.spans(text))

    text = "abc defg hij"
    assert text[: Ruler(text, Letters()).cut(0, 12, 6)] == "abc "
    assert Ruler("a" * 12, Letters()).cut(0, 12, 6) == 6
    assert Ruler("漢字漢字", Letters()).cut(0, 4, 3) == 3
    assert Ruler("e\u0301" * 6, Letters()).cut(0, 12, 5) == 4


def test_a_very_long_token_is_measured_as_many() -> None:
    text = "x" * (MAX_TOKEN_CHARS + 1)
    assert WORDS.count(text) == 1
    assert Ruler(text, WORDS).count(0, len(text)) == 17
    assert Ruler(text[1:], WORDS).count(0, len(text) - 1) == 1


@pytest.mark.parametrize("text", ["e\u0301", "👩\u200d👧", "👍🏽", "🇩🇪", "का", "x\ufe0f"])
def test_inside_a_character(text: str) -> None:
    assert is_inside_character(text, 1)
    assert not is_inside_character(text, 0) and not is_inside_character(text + "a", len(text))


def test_places_past_the_last_token() -> None:
    ruler = Ruler("one two ", WORDS)
    assert [ruler.place(index) for index in (0, 1, 2, 9)] == [0, 4, 8, 8]
    assert ruler.word_start(1, 3) == 3
