"""The chunkers that know no layout: fixed, sentence, recursive."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rag.chunkers.fixed import FixedChunker
from rag.chunkers.recursive import RecursiveChunker
from rag.chunkers.sentence import SentenceChunker
from rag.core import Chunk, Document, Element, Span
from rag.tokenizer import WordTokenizer

WORDS = WordTokenizer()


def _texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def _document(text: str) -> Document:
    return Document("id", "source", text)


def test_fixed_windows() -> None:
    document = _document("one two three four five six seven")
    assert _texts(FixedChunker(WORDS, 3).chunk(document)) == ["one two three", "four five six", "seven"]
    assert _texts(FixedChunker(WORDS, 3, 1).chunk(document)) == ["one two", "two three four", "four five six", "six seven"]


def test_fixed_windows_of_scripts_without_blanks() -> None:
    assert _texts(FixedChunker(WORDS, 3).chunk(_document("漢字漢字漢字漢"))) == ["漢字漢", "字漢字", "漢"]


def test_sentences_stay_whole() -> None:
    document = _document("One two. Three four five. Six. Seven eight nine ten.")
    assert _texts(SentenceChunker(WORDS, 7).chunk(document)) == ["One two. Three four five.", "Six. Seven eight nine ten."]


def test_sentences_overlap_where_they_fit() -> None:
    document = _document("One. Two. Three. Four. Five six seven eight nine.")
    chunks = _texts(SentenceChunker(WORDS, 6, overlap_sentences=1).chunk(document))
    assert chunks == ["One. Two. Three.", "Three. Four.", "Five six seven eight nine."]


def test_a_long_sentence_is_cut_between_words() -> None:
    chunks = _texts(SentenceChunker(WORDS, 4).chunk(_document("one two three four five six. Next.")))
    assert chunks == ["one two three four", "five six.", "Next."]


def test_recursive_prefers_paragraphs() -> None:
    document = _document("One two three.\n\nFour five.\n\nSix seven. Eight nine ten eleven. Twelve.")
    chunks = _texts(RecursiveChunker(WORDS, 8, min_tokens=0).chunk(document))
    assert chunks == ["One two three.\n\nFour five.", "Six seven. Eight nine ten eleven.", "Twelve."]


def test_recursive_spreads_a_small_tail() -> None:
    document = _document("One two three. Four five six. Seven eight.")
    assert _texts(RecursiveChunker(WORDS, 9, min_tokens=0).chunk(document)) == ["One two three. Four five six.", "Seven eight."]
    assert _texts(RecursiveChunker(WORDS, 9, min_tokens=4).chunk(document)) == ["One two three.", "Four five six. Seven eight."]


def test_recursive_overlap_stays_under_the_limit() -> None:
    document = _document(" ".join(f"w{number}" for number in range(100)))
    chunks = RecursiveChunker(WORDS, 10, overlap_tokens=3).chunk(document)
    assert max(WORDS.count(chunk.text) for chunk in chunks) == 10
    assert all(before.span.end > after.span.start for before, after in pairwise(chunks))


def test_pages_and_headings_are_told() -> None:
    text = "Top\n\none two three\n\nfour five six"
    elements = (
        Element(Span(0, 3), "heading", level=1, page=1),
        Element(Span(5, 18), "paragraph", page=1),
        Element(Span(20, 33), "paragraph", page=2),
    )
    chunks = FixedChunker(WORDS, 5).chunk(Document("id", "source", text, elements))
    assert [dict(chunk.meta) for chunk in chunks] == [
        {"kinds": ["heading", "paragraph"], "headings": ["Top"], "page": 1, "pages": [1, 2]},
        {"kinds": ["paragraph"], "headings": ["Top"], "page": 2},
    ]


@pytest.mark.parametrize("chunker", [FixedChunker(WORDS), SentenceChunker(WORDS), RecursiveChunker(WORDS)])
def test_without_elements_there_is_nothing_to_tell(chunker: FixedChunker | SentenceChunker | RecursiveChunker) -> None:
    (chunk,) = chunker.chunk(_document("A text."))
    assert chunk.meta == {} and chunk.context == ""
