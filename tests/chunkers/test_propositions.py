"""Chunks with the statements that a language model finds in them."""

from __future__ import annotations

from typing import Any

import pytest

from rag.chunkers.propositions import PropositionsChunker, Statements, listed
from rag.chunkers.structure import StructureChunker
from rag.core import Chunk, Completion, Document
from rag.tokenizer import WordTokenizer
from tests.fakes import ToyLM

WORDS = WordTokenizer()
INNER = StructureChunker(WORDS, max_tokens=12)
DOCUMENT = Document("id", "ducks.txt", "Ducks swim on the lake. " * 4, meta={"title": "On ducks"})


def chunked(answer: str, document: Document = DOCUMENT, **options: Any) -> list[Chunk]:
    return PropositionsChunker(WORDS, ToyLM(answer=lambda prompt: answer), INNER, **options).chunk(document)


def test_statements_are_searched_and_the_source_is_quoted() -> None:
    chunks, inner = chunked("- Ducks swim.\n- The lake has ducks."), INNER.chunk(DOCUMENT)
    assert chunks[0].context == "Ducks swim.\nThe lake has ducks.\nOn ducks"
    assert chunks[0].indexed_text.startswith("Ducks swim.")
    assert [(chunk.span, chunk.text) for chunk in chunks] == [(chunk.span, chunk.text) for chunk in inner]
    assert chunks[0].meta == {**inner[0].meta, "num_statements": 2, "num_malformed_lines": 0}


@pytest.mark.parametrize(("answer", "num_lines"), [("", 0), ("I cannot do this.", 1), ('{"a": 1}\nno', 2), ("-\n- \n-no blank", 3)])
def test_a_malformed_answer_leaves_the_chunk_as_it_was(answer: str, num_lines: int) -> None:
    chunks, inner = chunked(answer), INNER.chunk(DOCUMENT)
    assert [(chunk.id, chunk.context) for chunk in chunks] == [(chunk.id, chunk.context) for chunk in inner]
    assert {(chunk.meta["num_statements"], chunk.meta["num_malformed_lines"]) for chunk in chunks} == {(0, num_lines)}


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("Here they are:\n* One.\n  2) Two  words.\n\u2022 One.\nend", "stop", (("One.", "Two words."), 2)),
        ("<think>- not this\n</think>\n- One.", "stop", (("One.",), 0)),
        ("- One.\n- Tw", "length", (("One.",), 0)),
        ("- On", "length", ((), 0)),
        ("1. One.\n10. Ten.", "stop", (("One.", "Ten."), 0)),
        ("1900. was a year", "stop", ((), 1)),
    ],
)
def test_lists(text: str, finish: Any, expected: tuple[tuple[str, ...], int]) -> None:
    assert listed(Completion(text, 1, 1, finish)) == Statements(*expected)


def test_whole_statements_are_kept_up_to_the_limit() -> None:
    answer = "\n".join(f"- Statement number {number}." for number in range(50))  # 4 tokens each
    for limit, expected in ((160, 39), (12, 2), (6, 1)):
        chunk = chunked(answer, max_context_tokens=limit)[0]
        assert WORDS.count(chunk.context) <= limit
        assert chunk.meta["num_statements"] == expected
        assert chunk.context.endswith("On ducks")
    assert WORDS.count(chunked("- " + "word " * 500, max_answer_tokens=600)[0].context) == 160


def test_one_question_per_chunk_shows_the_chunk_and_its_heading_only() -> None:
    lm = ToyLM()
    document = Document(
        "id", "ducks.txt", "Ducks swim on the lake. Geese fly over the lake. Swans sleep by the lake.", meta=DOCUMENT.meta
    )
    chunks = PropositionsChunker(WORDS, lm, INNER).chunk(document)
    assert lm.num_calls == 1 and len(lm.prompts) == len(chunks) == 2
    assert "Swans" not in lm.prompts[0] and "Geese" not in lm.prompts[1]
    assert "BEGIN HEADING" in lm.prompts[0] and "On ducks" in lm.prompts[0]
    assert chunks == PropositionsChunker(WORDS, ToyLM(), INNER).chunk(document)
    assert PropositionsChunker(WORDS, lm, INNER).chunk(Document("id", "empty", "")) == []
    assert lm.num_calls == 1


@pytest.mark.parametrize("name", ["max_context_tokens", "max_answer_tokens"])
def test_bad_limits_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
        PropositionsChunker(WORDS, ToyLM(), INNER, **{name: 0})
