"""Finding words in a text: examples, and laws on generated texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Span
from rag.eval.verbatim import find, find_all, folded, source_named

WORDS = st.lists(
    st.sampled_from(["tower", "Caf\u00e9", "330", "\ufb01ne", "x-ray", "\u6771\u4eac", "it's"]), min_size=1, max_size=8
)


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("The Eiffel\n  Tower.", "eiffel tower", "Eiffel\n  Tower"),
        ("an exam-\nple of it", "Example", "exam-\nple"),
        ("Jean-\nPaul Sartre", "jean-paul", None),  # a name keeps its hyphen, and the blank behind it counts
        ("party", "art", None),
        ("\u6771\u4eac\u306f", "\u4eac", "\u4eac"),
        ("cafe\u0301s", "cafe", None),  # an accent is part of the letter
        ("Cafe\u0301 au lait", "caf\u00e9", "Cafe\u0301"),
        ("soft\u00adhyphen", "softhyphen", "soft\u00adhyphen"),
        ("\u201cquoted\u201d \u2014 so", '"quoted" - so', "\u201cquoted\u201d \u2014 so"),
        ("\uff21\uff22\uff23", "abc", "\uff21\uff22\uff23"),
        ("anything", " \u200b", None),
    ],
)
def test_examples(text: str, words: str, found: str | None) -> None:
    span = find(text, words)
    assert (span.of(text) if span else None) == found


@settings(max_examples=80, deadline=None)
@given(WORDS, WORDS, WORDS, st.sampled_from([" ", "\n", " \n\t"]))
def test_what_was_put_in_is_found_where_it_was_put(before: list[str], inside: list[str], after: list[str], blank: str) -> None:
    wanted = blank.join(inside)
    text = " ".join(before) + " | " + wanted + " | " + " ".join(after)
    start = len(" ".join(before)) + 3
    assert Span(start, start + len(wanted)) in list(find_all(text, " ".join(inside).upper().lower()))


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=40))
def test_folding_twice_is_folding_once_and_offsets_ascend(text: str) -> None:
    once = folded(text)
    assert folded(once.text).text == once.text
    assert list(once.starts) == sorted(once.starts) and all(a < b for a, b in zip(once.starts, once.ends, strict=True))


def test_sources_are_named_by_their_ends() -> None:
    known = ["/a/manual.pdf", "/b/manual.pdf", "/a/old-manual.pdf", "C:\\x\\notes.md", "plain"]
    assert source_named("manual.pdf", known) is None  # two of that name
    assert source_named("a/manual.pdf", known) == "/a/manual.pdf"
    assert source_named("notes.md", known) == "C:\\x\\notes.md"
    assert source_named("plain", known) == "plain"
    assert source_named("lain", known) is None
