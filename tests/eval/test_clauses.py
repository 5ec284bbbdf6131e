"""Matching of clauses: laws with hypothesis, and against the slow reference."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rag.core import Span
from rag.eval.clauses import PlacedClause, held_reference, merged, regions
from rag.eval.folded import Folded

WORDS = st.sampled_from(
    ["pond", "duck", "Stra\u00dfe", "e\u0301t\u00e9", "12", "3.5", "\u4e2d\u56fd", "\u6c34", "weed", "well-known", "%", "don't"]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
LETTERS = st.text(alphabet="abcdeXYZ\u00df\u00e9", min_size=2, max_size=8)


def placed(clause: str, texts: dict[str, str]) -> PlacedClause:
    return PlacedClause(clause, {doc: found for doc, text in texts.items() if (found := Folded(text).find(Folded(clause)))})


def held(clause: str, pieces: list[tuple[str, Span]], texts: dict[str, str]) -> bool:
    return placed(clause, texts).held(regions(pieces, texts))


@pytest.mark.parametrize(
    ("clause", "text"),
    [
        ("The Example", "an important exam-\nple of it, the exam-\n   ple"),
        ("co-operation", "cooperation"),
        ("well\u2010known fact", "a WELL-KNOWN   fact"),
        ("stra\u00dfe", "STRASSE"),
        ("\ufb01ve \uff15", "five 5"),
        ("\u00e9t\u00e9", "e\u0301te\u0301"),
        ("\u7f8e\u56e2\u95e8\u5e97\u4e0a\u7ebf8700+\u5bb6", "\u5728\u7f8e\u56e2 \u95e8\u5e97\n\u4e0a\u7ebf 8700 + \u5bb6\u3002"),
        ("\u8de8\u57ce\u7528\u6237\u6bd4\u4f8b\u8d85 60%", "\u8de8\u57ce\u7528\u6237\u6bd4\u4f8b\u8d8560\uff05"),
        ("it\u2019s \u201cnew\u201d", 'it\'s "new"'),
        ("co\u00adopera\u00ad\ntion", "cooperation"),
        (
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
            "\u0e1e\u0e39\u0e14\u0e27\u0e48\u0e32\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e04\u0e23\u0e31\u0e1a",
        ),
    ],
)
def test_the_same_words_are_found_however_they_are_written(clause: str, text: str) -> None:
    (span, *_) = Folded(text).find(Folded(clause))
    assert Folded(span.of(text)).tokens == Folded(clause).tokens


@pytest.mark.parametrize(
    ("clause", "text"),
    [("art", "party"), ("art", "arts"), ("35", "3.5"), ("5 %", "5 5"), ("duck pond", "duck, no pond"), ("!!", "!!"), ("a b", "ab"),
     ("\u4e2d\u56fd", "\u4e2d\u5916\u56fd"), ("the exam", "the exam-\nple")],
)  # fmt: skip
def test_other_words_are_not(clause: str, text: str) -> None:
    assert Folded(text).find(Folded(clause)) == []
    assert not Folded(text).holds(Folded(clause))


@given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS, st.data())
def test_it_equals_the_slow_reference(written: list[str], clause: str, data: st.DataObject) -> None:
    texts = {str(number): text for number, text in enumerate(written)}
    pieces = []
    for _ in range(data.draw(st.integers(0, 5))):
        doc = data.draw(st.sampled_from(sorted(texts)))
        start = data.draw(st.integers(0, len(texts[doc]) - 1))
        pieces.append((doc, Span(start, data.draw(st.integers(start + 1, len(texts[doc]))))))
    if data.draw(st.booleans()):  # a clause that stands somewhere, so that both answers occur
        words = texts[data.draw(st.sampled_from(sorted(texts)))].split(" ")
        first = data.draw(st.integers(0, len(words) - 1))
        clause = " ".join(words[first : first + 3])
    assert held(clause, pieces, texts) == held_reference(clause, pieces, texts)


@given(st.lists(TEXTS, min_size=2, max_size=2))
def test_a_clause_never_stands_across_two_documents(written: list[str]) -> None:
    one, other = written
    clause = f"{one} {other}"
    texts = {"one": one, "other": other}
    assume(Folded(one).tokens and Folded(other).tokens)
    assume(not Folded(one).holds(Folded(clause)) and not Folded(other).holds(Folded(clause)))
    assert not held(clause, [(doc, Span(0, len(text))) for doc, text in texts.items()], texts)
    assert held(clause, [("both", Span(0, len(one))), ("both", Span(len(one) + 1, len(clause)))], {**texts, "both": clause})


@given(TEXTS, st.data())
def test_a_clause_never_stands_across_a_gap(text: str, data: st.DataObject) -> None:
    """Two pieces that leave out a character of the clause which is no blank do not hold it."""
    texts = {"doc": text}
    assume(len(Folded(text).tokens) > 1)
    places = [number for number, character in enumerate(text) if not character.isspace()]
    first, last = Folded(text).spans[0].start, Folded(text).spans[-1].end
    gap = data.draw(st.sampled_from([place for place in places if first <= place < last]))
    pieces = [("doc", Span(0, gap)), ("doc", Span(gap + 1, len(text)))]
    assert not held(text, [piece for piece in pieces if len(piece[1])], texts)


@given(TEXTS, st.data())
def test_pieces_that_leave_out_only_blanks_hold_it(text: str, data: st.DataObject) -> None:
    blanks = [number for number, character in enumerate(text) if character == " "]
    cuts = sorted(data.draw(st.sets(st.sampled_from(blanks)))) if blanks else []
    starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(text)]
    pieces = [("doc", Span(start, end)) for start, end in zip(starts, ends, strict=True)]
    assert held(text, pieces, {"doc": text})


@given(
    st.lists(LETTERS, min_size=1, max_size=5),
    st.data(),
    st.sampled_from(["-\n", "-\r\n", "\u2010\n  ", "\u00ad\n", "\u00ad", "- \n"]),
)
@example(["ab"], None, "-\n")
def test_a_hyphenated_line_break_changes_nothing(words: list[str], data: st.DataObject | None, mark: str) -> None:
    text = " ".join(words)
    inside = [n for n in range(1, len(text)) if text[n].isalpha() and text[n - 1].isalpha()]
    place = data.draw(st.sampled_from(inside)) if data else inside[0]
    broken = text[:place] + mark + text[place:]
    assert Folded(broken).find(Folded(text)) == [Span(0, len(broken))]
    assert Folded(text).find(Folded(broken)) == [Span(0, len(text))]


@given(st.text(max_size=60))
def test_every_token_is_of_its_own_characters(text: str) -> None:
    folded = Folded(text)
    for number, (token, span) in enumerate(zip(folded.tokens, folded.spans, strict=True)):
        assert 0 <= span.start < span.end <= len(text) and token
        assert not number or folded.spans[number - 1].end <= span.end
    assert folded.find(folded)[:1] == ([Span(folded.spans[0].start, folded.spans[-1].end)] if folded.tokens else [])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=6))
def test_merged_spans_are_apart_and_cover_the_same(pairs: list[tuple[int, int]]) -> None:
    text = "abc def  ghi, jk lmnop qrstu"
    spans = [Span(start, start + length) for start, length in pairs]
    joined = merged(spans, text)
    solid = {n for span in spans for n in range(*span) if not text[n].isspace()}
    assert solid == {n for span in joined for n in range(*span) if not text[n].isspace()}
    for before, after in itertools.pairwise(joined):
        assert before.end < after.start and text[before.end : after.start].strip()


def test_a_clause_that_stands_twice_is_held_at_either_place() -> None:
    texts = {"doc": "ducks swim. cats sleep. ducks swim."}
    for piece in (Span(0, 11), Span(24, 35)):
        assert held("Ducks swim", [("doc", piece)], texts)
    assert not held("Ducks swim", [("doc", Span(6, 30))], texts)


def test_touched_is_a_part() -> None:
    clause = placed("ducks swim", {"doc": "ducks swim. cats"})
    assert clause.touched({"doc": [Span(8, 14)]}) and not clause.touched({"doc": [Span(10, 16)], "x": [Span(0, 5)]})
