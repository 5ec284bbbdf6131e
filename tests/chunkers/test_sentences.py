"""Places to cut: after the punctuation of several scripts, never at the edge, never before a blank."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chunkers import sentences as module
from rag.chunkers.sentences import Boundaries, cells, clauses, lines, paragraphs, sentences, words


def _parts(boundaries: Boundaries, text: str) -> list[str]:
    places = [0, *boundaries(text, 0, len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize(
    ("boundaries", "text", "parts"),
    [
        (paragraphs, "a\nb\n \n  c\n\n", ["a\nb\n \n  ", "c\n\n"]),
        (lines, "a\n b\n\nc", ["a\n ", "b\n\n", "c"]),
        (sentences, "Dr. Yu came. He left! Why?", ["Dr. Yu came. ", "He left! ", "Why?"]),
        (sentences, "一つ目。「二つ目！」三つ目？終わり", ["一つ目。", "「二つ目！」", "三つ目？", "終わり"]),
        (sentences, "यह एक है। यह दो है।", ["यह एक है। ", "यह दो है।"]),
        (sentences, "هل هذا سؤال؟ نعم", ["هل هذا سؤال؟ ", "نعم"]),
        (sentences, "A heading\n\nA sentence about it.", ["A heading\n\n", "A sentence about it."]),
        (sentences, "no end here", ["no end here"]),
        (clauses, "first, second; third (x) – 1,000", ["first, ", "second; ", "third (x) ", "– ", "1,000"]),
        (words, "a  b\nc", ["a  ", "b\n", "c"]),
        (cells, "duck | 1.1 | Spain", ["duck | ", "1.1 | ", "Spain"]),
    ],
)
def test_parts(boundaries: Boundaries, text: str, parts: list[str]) -> None:
    assert _parts(boundaries, text) == parts


@pytest.mark.parametrize("name", ["paragraphs", "lines", "sentences", "clauses", "words", "cells"])
@given(text=st.text(alphabet="aB. \n,;|。？)\u0964\x85", max_size=40), edges=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_places_are_inside_and_ascend(name: str, text: str, edges: tuple[int, int]) -> None:
    start, end = (min(edge, len(text)) for edge in sorted(edges))
    places = getattr(module, name)(text, start, end)
    assert places == sorted(set(places))
    assert all(start < place < end and not text[place].isspace() for place in places)
