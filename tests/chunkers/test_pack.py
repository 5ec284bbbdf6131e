"""Cutting under a limit: against a plain reference, and by the places that are preferred."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chunkers.pack import Level, spans_of, split, spread_tail, with_overlap
from rag.chunkers.ruler import Ruler
from rag.core import Span
from rag.tokenizer import WordTokenizer

WORDS = WordTokenizer()


def _after(mark: str, text: str, is_firm: bool = False) -> Level:
    return Level(lambda start, end: [m.end() for m in re.finditer(mark, text[:end]) if start < m.end() < end], is_firm)


def _levels(text: str) -> list[Level]:
    return [_after("/", text), _after(";", text), _after(" ", text)]


def _pieces(text: str, max_tokens: int, min_tokens: int = 0, levels: Sequence[Level] | None = None) -> list[str]:
    ruler = Ruler(text, WORDS)
    starts = split(ruler, 0, len(text), _levels(text) if levels is None else levels, max_tokens, min_tokens)
    return [span.of(text) for span in spans_of(starts, len(text))]


def _reference(text: str, marks: Sequence[str], max_tokens: int) -> list[str]:
    """The same greedy rule on lists of strings, tokenising every piece."""
    if WORDS.count(text) <= max_tokens:
        return [text]
    if not marks:
        words = re.findall(r"\S+\s*|\s+", text)
        done: list[str] = []
        for word in words:
            if done and WORDS.count(done[-1] + word) <= max_tokens:
                done[-1] += word
            else:
                done.append(word)
        return done
    parts = [part for part in re.split(f"(?<={marks[0]})", text) if part]
    if len(parts) == 1:
        return _reference(text, marks[1:], max_tokens)
    pieces: list[str] = [""]
    for part in parts:
        if WORDS.count(pieces[-1] + part) <= max_tokens:
            pieces[-1] += part
        elif pieces[-1] and WORDS.count(part) <= max_tokens:
            pieces.append(part)
        else:
            pieces += [""] * bool(pieces[-1])
            pieces[-1:] = _reference(part, marks[1:], max_tokens)
    return pieces


@given(st.text(alphabet="ab  ;/", max_size=60), st.integers(1, 6))
def test_pieces_fit_and_cover(text: str, max_tokens: int) -> None:
    ruler = Ruler(text, WORDS)
    spans = spans_of(split(ruler, 0, len(text), _levels(text), max_tokens), len(text))
    assert "".join(span.of(text) for span in spans) == text
    assert max(ruler.count(*span) for span in spans) <= max_tokens


@given(st.lists(st.sampled_from(["a ", "b ", "; ", "/ "]), max_size=40).map("".join), st.integers(2, 6))
def test_equals_the_reference_on_plain_texts(text: str, max_tokens: int) -> None:
    # marks followed by a blank: no token is parted by a cut, so counting pieces and counting stretches agree
    levels = [_after("/ ", text), _after("; ", text), _after(" ", text)]
    ours = _pieces(text, max_tokens, levels=levels)
    assert ours == _reference(text, ["/ ", "; ", " "], max_tokens)


def test_better_places_come_first() -> None:
    assert _pieces("a b; c d/ e f; g h/", 6) == ["a b; c d/", " e f; g h/"]
    assert _pieces("a b; c d/ e f; g h/", 4) == ["a b;", " c d/", " e f;", " g h/"]


def test_the_tail_of_a_long_part_is_filled_up() -> None:
    assert _pieces("a b c d e f/ g/ h i j k", 4) == ["a b c d ", "e f/", " g/", " h i j k"]
    assert _pieces("a b c d e/ g/ h i j k", 4) == ["a b c d ", "e/ g/", " h i j k"]


def test_a_small_piece_takes_a_part_of_what_follows() -> None:
    text = "title/ a b c; d e f; g h i;"
    assert _pieces(text, 9)[0] == "title/"
    assert _pieces(text, 9, min_tokens=3)[0] == "title/ a b c;"


def test_what_is_firm_is_cut_only_if_it_is_too_long() -> None:
    text = "t; a b c d; e f g h i j k;"
    firm = [_after(";", text, is_firm=True), _after(" ", text)]
    assert _pieces(text, 5, min_tokens=3, levels=firm)[:2] == ["t;", " a b c d;"]
    assert len(_pieces(text, 5, min_tokens=3, levels=firm)) == 4


def test_without_levels_cuts_fall_between_words() -> None:
    assert _pieces("aa bb cc dd ee", 2, levels=[]) == ["aa bb ", "cc dd ", "ee"]


@pytest.mark.parametrize(
    ("text", "starts", "expected"),
    [
        ("a b c d e f; g", [0, 12], ["a b c d e f; g"]),  # fits
        ("a b c; d e f; g h; i", [0, 18], ["a b c;", " d e f; g h; i"]),  # spread
        ("a b c d e f g h i; j", [0, 18], ["a b c d e f g h i;", " j"]),  # no place leaves both enough
    ],
)
def test_the_tail(text: str, starts: list[int], expected: list[str]) -> None:
    ruler = Ruler(text, WORDS)
    max_tokens = 10 if len(expected) == 2 else 20
    spread = spread_tail(ruler, starts, len(text), [_after(";", text)], 3, max_tokens)
    assert [span.of(text) for span in spans_of(spread, len(text))] == expected


def test_overlap_starts_at_a_word_inside_the_span_before() -> None:
    text = "one two three four five"
    spans = [Span(0, 8), Span(8, 14), Span(14, 23)]
    found = with_overlap(Ruler(text, WORDS), spans, 1)
    assert [span.of(text) for span in found] == ["one two ", "two three ", "four five"]
    assert with_overlap(Ruler(text, WORDS), spans, 0) == spans
    far = with_overlap(Ruler(text, WORDS), spans, 9)
    assert [span.start for span in far] == [0, 4, 14]  # never as far back as the start of the one before
