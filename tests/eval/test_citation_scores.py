"""Citations against evidence: by hand, against a count of characters, and evidence that has no place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Citation, Span
from rag.eval.answer_text import parsed_answer
from rag.eval.citation_scores import citation_scores, cited_sentences, cited_spans, document_named, located
from rag.eval.question import Evidence

TEXTS = {"/files/tower.md": "The tower is 330 m tall. It is grey. It is grey.", "ducks.md": "Ducks swim."}
SOME = st.lists(
    st.builds(lambda start, length: Span(start, start + length), st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=4
)
SPANS = st.fixed_dictionaries({"a": SOME}, optional={"b": SOME})


def citation(number: int, source: str, start: int, end: int) -> Citation:
    return Citation(number, "id", source, "chunk", start, end, "quote")


def test_by_hand() -> None:
    cited = cited_spans([citation(1, "a", 0, 20), citation(2, "a", 10, 30), citation(3, "b", 0, 10)])
    scores = citation_scores(cited, {"a": [Span(25, 35)], "c": [Span(0, 10)]})
    assert {name: round(value, 4) for name, value in scores.items()} == {
        "citation_precision": 0.125,  # 5 of 30 + 10 characters
        "citation_recall": 0.25,  # 5 of 10 + 10
        "citations_on_evidence": 0.3333,
        "evidence_cited": 0.5,
    }


@settings(max_examples=100)
@given(SPANS, SPANS)
def test_it_is_a_count_of_characters(cited: dict[str, list[Span]], evidence: dict[str, list[Span]]) -> None:
    quoted = {(source, place) for source, spans in cited.items() for span in spans for place in range(*span)}
    wanted = {(source, place) for source, spans in evidence.items() for span in spans for place in range(*span)}
    scores = citation_scores(cited, evidence)
    assert scores["citation_precision"] == pytest.approx(len(quoted & wanted) / len(quoted) if quoted else 0.0)
    assert scores["citation_recall"] == pytest.approx(len(quoted & wanted) / len(wanted))
    assert (scores["citations_on_evidence"] > 0) == (scores["evidence_cited"] > 0) == (scores["citation_recall"] > 0)


def test_no_evidence_is_no_score() -> None:
    with pytest.raises(ValueError, match="no evidence"):
        citation_scores({"a": [Span(0, 1)]}, {})


def test_evidence_is_placed_by_its_span_or_by_its_words() -> None:
    evidence = [
        Evidence(source="tower.md", text="It is grey.", start=37, end=48),
        Evidence(source="tower.md", text="330 M  tall", start=0, end=11),  # a wrong span: searched for
        Evidence(source="ducks.md", text="swans"),
        Evidence(source="cats.md", text="purr"),
    ]
    placed, problems = located(evidence, TEXTS, {})
    assert placed == {"/files/tower.md": [Span(37, 48), Span(13, 23)]}
    assert problems == ["the evidence 'swans' is not in 'ducks.md'", "there is no document 'cats.md'"]


@pytest.mark.parametrize(
    ("cited", "place"),
    [
        ({"/files/tower.md": [Span(40, 44)]}, Span(37, 47)),
        ({"/files/tower.md": [Span(0, 30)]}, Span(25, 35)),
        ({"ducks.md": [Span(40, 44)]}, Span(25, 35)),
        ({}, Span(25, 35)),
    ],
)
def test_what_stands_twice_is_evidence_where_it_is_cited(cited: dict[str, list[Span]], place: Span) -> None:
    placed, problems = located([Evidence(source="tower.md", text="It is grey.")], TEXTS, cited)
    assert placed == {"/files/tower.md": [place]} and not problems


def test_a_document_under_two_names_goes_by_the_longer_one_that_citations_use() -> None:
    assert document_named("tower.md", {"tower.md": "x", "/files/tower.md": "x"}) == "/files/tower.md"
    assert document_named("tower.md", {"tower.md": "x", "/files/tower.md": "y"}) == "tower.md"
    assert document_named("tower.md", {"/a/tower.md": "x", "/b/tower.md": "y"}) is None
    assert document_named("tower.md", {"/a/old-tower.md": "x"}) is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("It is tall [1]. It is old. [2]", 1.0),
        ("It is tall [1]. It is old.", 0.5),
        ("It is tall [4]. It is old [1, 4].", 0.5),
        ("[1] It is tall.", 0.0),
        ("`x[1]` is code.", 0.0),
        ("", None),
        ("---", None),
    ],
)
def test_share_of_sentences_with_a_valid_mark(text: str, share: float | None) -> None:
    assert cited_sentences(parsed_answer(text), [citation(1, "a", 0, 1), citation(2, "a", 0, 1)]) == share


def test_the_plain_answer_has_no_marks() -> None:
    assert parsed_answer("It is tall [1], and old. [2][3]").plain == "It is tall, and old."
