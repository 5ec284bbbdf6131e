"""The default chunker: sections, tables, lists and the context that goes before a chunk."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.chunkers.layout import Layout, heading_level
from rag.chunkers.structure import StructureChunker
from rag.core import Chunk, Document, Element, Span
from rag.read.draft import TextBuilder
from rag.tokenizer import WordTokenizer

WORDS = WordTokenizer()


def _document(*parts: Any, title: str | None = None) -> Document:
    """``(level, text)``: a heading; a list of lists: a table with one head row; ``(kind, text)``; a text: a paragraph."""
    builder = TextBuilder()
    for part in parts:
        if isinstance(part, list):
            builder.add_table(part, num_header_rows=1)
        elif isinstance(part, str):
            builder.add(part)
        elif isinstance(part[0], int):
            builder.add(part[1], "heading", level=part[0])
        else:
            builder.add(part[1], part[0])
    return builder.draft({"title": title} if title else {}).document("source")


def _chunk(document: Document, max_tokens: int = 10, **options: Any) -> list[Chunk]:
    return StructureChunker(WORDS, max_tokens, **options).chunk(document)


def _words(number: int, word: str = "w") -> str:
    return " ".join([word] * number)


def test_a_section_starts_a_chunk() -> None:
    document = _document((1, "Birds"), _words(4), (2, "Ducks"), _words(5))
    assert [chunk.text for chunk in _chunk(document, 20, min_tokens=0)] == ["Birds\n\nw w w w", "Ducks\n\nw w w w w"]


def test_small_sections_are_joined() -> None:
    document = _document((2, "One"), "a", (2, "Two"), "b", (2, "Three"), _words(9))
    joined = [chunk.text for chunk in _chunk(document, 12, min_tokens=3)]
    assert joined == ["One\n\na\n\nTwo\n\nb", f"Three\n\n{_words(9)}"]
    assert len(_chunk(document, 12, min_tokens=3, merge_small=False)) == 3


def test_a_small_section_joins_the_beginning_of_a_long_one() -> None:
    document = _document((2, "One"), "a", (2, "Two"), _words(6), _words(8))
    assert [chunk.text for chunk in _chunk(document, 12, min_tokens=3)] == ["One\n\na\n\nTwo\n\nw w w w w w", _words(8)]


def test_a_small_section_goes_with_the_sections_below_it() -> None:
    document = _document((1, "A"), _words(5), (1, "B"), "b", (2, "C"), _words(5))
    assert [chunk.text for chunk in _chunk(document, 10, min_tokens=4)] == ["A\n\nw w w w w", "B\n\nb\n\nC\n\nw w w w w"]


def test_a_heading_is_never_alone() -> None:
    document = _document((1, "A"), (2, "B"), (3, "C"), "One two three four five. Six seven eight nine ten.")
    texts = [chunk.text for chunk in _chunk(document, 10, min_tokens=0)]
    assert texts == ["A\n\nB\n\nC\n\nOne two three four five.", "Six seven eight nine ten."]


def test_deeper_headings_part_a_section_only_if_it_is_too_long() -> None:
    document = _document((1, "A"), _words(3), (4, "B"), _words(3), (4, "C"), _words(3))
    assert len(_chunk(document, 20)) == 1
    assert [chunk.text for chunk in _chunk(document, 8, min_tokens=0)] == ["A\n\nw w w\n\nB\n\nw w w", "C\n\nw w w"]
    assert len(_chunk(document, 20, section_level=4, min_tokens=0)) == 3


def test_the_context_is_the_title_and_the_headings_above() -> None:
    document = _document((1, "Birds"), _words(3), (2, "Ducks"), _words(8), _words(8), title="Handbook")
    chunks = _chunk(document, 10, min_tokens=0)
    assert [chunk.context for chunk in chunks] == ["Handbook", "Handbook > Birds", "Handbook > Birds > Ducks"]
    assert [chunk.meta["headings"] for chunk in chunks] == [["Birds"], ["Birds", "Ducks"], ["Birds", "Ducks"]]
    assert chunks[2].indexed_text == f"Handbook > Birds > Ducks\n{_words(8)}"


def test_a_title_that_is_also_the_first_heading_is_told_once() -> None:
    chunks = _chunk(_document((1, "Birds"), _words(8), _words(8), title="birds"), 10, min_tokens=0)
    assert [chunk.context for chunk in chunks] == ["", "Birds"]


def test_the_context_is_cut_at_its_outer_end() -> None:
    document = _document((1, "One two"), (2, "Three four"), (3, "Five six"), _words(8), _words(8), title="Title")
    contexts = {size: _chunk(document, 20, max_context_tokens=size, min_tokens=0)[-1].context for size in (0, 1, 2, 5, 8, 10)}
    assert _chunk(document, 14, min_tokens=0)[-1].context == "Title > One two > Three four > Five six"
    assert contexts[0] == ""
    last = {size: _chunk(document, 14, max_context_tokens=size, min_tokens=0)[-1].context for size in (1, 2, 5, 8, 10)}
    assert last == {
        1: "Five",
        2: "Five six",
        5: "Three four > Five six",
        8: "One two > Three four > Five six",
        10: "Title > One two > Three four > Five six",
    }


def test_a_table_is_cut_between_rows_and_its_head_repeated() -> None:
    table = [["name", "kg"], *([f"duck{number}", str(number)] for number in range(5))]
    chunks = _chunk(_document((1, "Ducks"), table, title="Book"), 10, min_tokens=0)
    assert [chunk.text for chunk in chunks] == [
        "Ducks\n\nname | kg\nduck0 | 0\nduck1 | 1",
        "duck2 | 2\nduck3 | 3\nduck4 | 4",
    ]
    assert [chunk.context for chunk in chunks] == ["Book", "Book > Ducks\nname | kg"]


def test_a_table_head_shares_the_context_with_the_innermost_heading() -> None:
    table = [["one", "", "", "two", "three"], *([["duck"] * 5] * 4)]
    document = _document((1, "Birds"), (2, "Ducks and geese"), table)
    contexts = {size: _chunk(document, 12, min_tokens=0, max_context_tokens=size)[-1].context for size in (2, 5, 6, 8, 9, 40)}
    assert contexts == {
        2: "Ducks\none",
        5: "Ducks and\none | two",
        6: "Ducks and geese\none | two",
        8: "Ducks and geese\none | two | three",
        9: "Ducks and geese\none | two | three",
        40: "Birds > Ducks and geese\none | two | three",
    }


def test_a_head_keeps_a_row_if_it_can() -> None:
    table = [["name", "kg"], ["duck", "1"]]
    assert [chunk.text for chunk in _chunk(_document(_words(6), table), 9, min_tokens=0)] == [_words(6), "name | kg\nduck | 1"]
    wide = [["name"] * 3, ["duck"] * 3]  # 5 tokens each
    assert [chunk.text for chunk in _chunk(_document(wide), 8, min_tokens=0)] == ["name | name | name", "duck | duck | duck"]


def test_a_row_above_the_limit_is_cut_between_cells() -> None:
    table = [["a", "b"], [_words(4), _words(4), _words(4)]]
    chunks = _chunk(_document(table), 10, min_tokens=0)
    assert [chunk.text for chunk in chunks] == ["a | b", "w w w w | w w w w |", "w w w w"]
    assert [chunk.context for chunk in chunks] == ["", "a | b", "a | b"]


def test_a_caption_stays_with_its_table() -> None:
    document = _document(_words(7), ("caption", "Table 1"), [["a"], ["b"]])
    assert [chunk.text for chunk in _chunk(document, 10, min_tokens=0)] == [_words(7), "Table 1\n\na\nb"]


def test_a_list_stays_together_with_the_line_before_it() -> None:
    document = _document(_words(6), "We need:", ("list", "- one\n- two"))
    assert [chunk.text for chunk in _chunk(document, 10, min_tokens=0)] == [_words(6), "We need:\n\n- one\n- two"]


def test_a_long_list_is_cut_between_items() -> None:
    document = _document(("list", "- a a a\n- b b b. b\n- c c c"), ("list", "- d"))
    assert [chunk.text for chunk in _chunk(document, 10, min_tokens=0)] == ["- a a a\n- b b b. b", "- c c c\n\n- d"]


def test_code_is_cut_between_lines() -> None:
    document = _document(("code", "def f():\n    return 1. + 2\n\nprint(f())"))
    texts = [chunk.text for chunk in _chunk(document, 10, min_tokens=0)]
    assert texts == ["def f():\n    return 1. + 2", "print(f())"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    chunks = _chunk(_document("One two three four. Five six seven. Eight nine."), 9, min_tokens=0)
    assert [chunk.text for chunk in chunks] == ["One two three four. Five six seven.", "Eight nine."]


def test_text_that_no_element_covers_is_kept() -> None:
    text = "before\n\nHead\n\nafter"
    document = Document("id", "source", text, (Element(Span(8, 12), "heading", level=1),))
    assert [chunk.text for chunk in _chunk(document, 50)] == [text]
    assert [block.span.of(text) for block in Layout(document).blocks] == ["before", "Head", "after"]


def test_elements_that_overlap_or_lie_outside_do_no_harm() -> None:
    text = "one two three"
    spans = [Span(0, 7), Span(4, 13), Span(5, 6), Span(12, 99), Span(50, 60)]
    document = Document("id", "source", text, tuple(Element(span, "paragraph") for span in spans))
    assert [chunk.text for chunk in _chunk(document, 2, min_tokens=0)] == ["one two", "three"]


def test_without_elements_it_cuts_as_the_recursive_chunker() -> None:
    document = Document("id", "source", "One two.\n\nThree four. Five six.", meta={"title": "T"})
    chunks = _chunk(document, 6, min_tokens=0)
    assert [chunk.text for chunk in chunks] == ["One two.", "Three four. Five six."]
    assert {chunk.context for chunk in chunks} == {"T"} and {str(dict(chunk.meta)) for chunk in chunks} == {"{}"}


@pytest.mark.parametrize("options", [{"section_level": 7}, {"section_level": -1}, {"max_context_tokens": -1}, {"min_tokens": 10}])
def test_bad_options(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}="):
        StructureChunker(WORDS, 10, **options)  # type: ignore[arg-type]


parts = st.one_of(
    st.tuples(st.integers(1, 6), st.sampled_from(["Head", "A head"])),
    st.lists(st.lists(st.sampled_from(["x", "y y", "z. z"]), min_size=2, max_size=3), min_size=2, max_size=6),
    st.integers(1, 25).map(_words),
    st.tuples(st.just("list"), st.integers(1, 4).map(lambda number: "\n".join(["- item one"] * number))),
)


@given(st.lists(parts, max_size=10), st.integers(6, 30), st.integers(0, 5))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_laws_of_rows_and_sections(found: list[Any], max_tokens: int, min_tokens: int) -> None:
    document = _document(*found)
    chunks = _chunk(document, max_tokens, min_tokens=min_tokens, merge_small=False)
    for element in document.elements:
        for row in element.rows:
            if WORDS.count(row.of(document.text)) <= max_tokens:
                assert any(chunk.span.start <= row.start and row.end <= chunk.span.end for chunk in chunks), "a row was cut"
    for chunk in chunks:
        inside = [element for element in document.elements if element.span.overlaps(chunk.span)]
        for before, after in pairwise(inside):
            starts_section = after.kind == "heading" and heading_level(after) <= 3
            is_below = before.kind == "heading" and heading_level(before) < heading_level(after)
            assert not starts_section or is_below, "a chunk spans two sections"
        if inside[-1].kind == "heading" and chunk is not chunks[-1]:
            after = document.elements[document.elements.index(inside[-1]) + 1]
            alone = [*inside[-1:], after]
            too_long = WORDS.count(" ".join(element.span.of(document.text) for element in alone)) > max_tokens
            assert too_long or after.kind == "heading", "a heading lost what follows it"
