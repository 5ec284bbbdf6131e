"""The measures by hand, against number-by-number references, and on the axis of characters and tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Document, Span
from rag.eval.axis import Axis
from rag.eval.overlap import (
    Intervals,
    common,
    intervals,
    overlap,
    overlap_reference,
    precision_omega,
    precision_omega_reference,
    size,
    union,
)
from rag.tokenizer import WordTokenizer

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=12)


def numbers(given_: Intervals) -> set[int]:
    return {number for start, end in given_.tolist() for number in range(start, end)}


@given(PAIRS, PAIRS)
def test_interval_arithmetic_is_set_arithmetic(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    joined = union(intervals(one))
    assert numbers(joined) == numbers(intervals(one))
    assert all(joined[:, 1] > joined[:, 0]) and all(joined[1:, 0] > joined[:-1, 1]), "neither empty nor overlapping nor touching"
    assert size(joined) == len(numbers(joined))
    assert common(joined, union(intervals(other))) == len(numbers(intervals(one)) & numbers(intervals(other)))


@given(PAIRS, PAIRS)
def test_the_fast_measures_equal_the_slow_ones(wanted: list[tuple[int, int]], returned: list[tuple[int, int]]) -> None:
    references, chunks = intervals(wanted), intervals(returned)
    if not size(references):
        for measure in (overlap, precision_omega):
            with pytest.raises(ValueError, match="references are empty"):
                measure(references, chunks)
        return
    assert overlap(references, chunks) == pytest.approx(overlap_reference(references, chunks))
    assert precision_omega(references, chunks) == pytest.approx(precision_omega_reference(references, chunks))


def test_measures_by_hand() -> None:
    """10 wanted; 8 of them found; 25 returned, 5 of those twice."""
    found = overlap(intervals([(10, 15), (20, 25)]), intervals([(5, 15), (10, 15), (22, 32)]))
    assert found == pytest.approx((8 / 10, 8 / 25, 8 / (25 + 2)))


def test_what_is_returned_twice_counts_twice_but_is_found_once() -> None:
    once, twice = (overlap(intervals([(0, 10)]), intervals([(0, 10)] * number)) for number in (1, 2))
    assert once == (1.0, 1.0, 1.0)
    assert twice == (1.0, 0.5, 0.5)


def test_references_that_overlap_are_wanted_once() -> None:
    assert overlap(intervals([(0, 6), (4, 10)]), intervals([(4, 6)])) == pytest.approx((0.2, 1.0, 0.2))


def test_touching_is_not_overlapping() -> None:
    """A chunk that only touches the answer neither finds anything nor spoils Precision-Omega."""
    assert overlap(intervals([(10, 20)]), intervals([(0, 10), (20, 30)])).recall == 0.0
    assert precision_omega(intervals([(10, 20)]), intervals([(0, 10), (10, 20), (20, 30)])) == 1.0


def test_nothing_returned() -> None:
    assert overlap(intervals([(0, 5)]), intervals([])) == (0.0, 0.0, 0.0)


def test_precision_omega_by_hand() -> None:
    references = intervals([(8, 12), (40, 42)])
    chunks = intervals([(0, 10), (10, 20), (20, 30), (41, 45)])
    assert precision_omega(references, chunks) == pytest.approx((4 + 1) / (20 + 5)), (
        "(40, 41) lies in no chunk and counts as spread"
    )
    assert precision_omega(references, intervals([])) == 0.0
    overlapping = intervals([(0, 10), (5, 15), (10, 20), (40, 45)])
    assert precision_omega(references, overlapping) == pytest.approx(6 / 25), "the union, not the sum"


DOCUMENTS = [Document("a", "a", "Tick tock. Tack"), Document("b", "b", "  Ding dong!")]  # tokens: Tick tock . Tack | Ding dong !


def test_the_axis_lays_documents_end_to_end() -> None:
    axis = Axis(DOCUMENTS, WordTokenizer())
    assert (axis.num_chars, axis.num_tokens) == (27, 7)
    assert axis.chars("b", [(2, 6)]).tolist() == [[17, 21]]
    assert axis.tokens(axis.chars("b", [(2, 6), (0, 2), (7, 12)])).tolist() == [[4, 5], [4, 4], [5, 7]]
    assert axis.tokens(axis.chars("a", [(0, 15)])).tolist() == [[0, 4]], "the next document's tokens are not its own"
    with pytest.raises(ValueError, match="'c' is not of this set"):
        axis.chars("c", [(0, 1)])
    with pytest.raises(ValueError, match="'a' stands twice"):
        Axis([DOCUMENTS[0], DOCUMENTS[0]], WordTokenizer())


def test_halves_of_a_text_have_as_many_tokens_as_the_whole() -> None:
    axis = Axis(DOCUMENTS, WordTokenizer())
    for middle in range(16):
        assert size(axis.tokens(axis.chars("a", [(0, middle), (middle, 15)]))) == 4


class BlankFirst:
    """As byte-level vocabularies do it: a token takes the blank before it, and there are tokens of nothing but blanks."""

    name = "blank first"

    def spans(self, text: str) -> list[Span]:
        return [Span(0, 4), Span(4, 9), Span(9, 10), Span(10, 10), Span(10, 11), Span(11, 15)] if text == DOCUMENTS[0].text else []

    def count(self, text: str) -> int:
        return len(self.spans(text))


def test_a_token_stands_where_its_first_solid_character_stands() -> None:
    axis = Axis(DOCUMENTS, BlankFirst())
    assert axis.num_tokens == 4
    assert axis.tokens(axis.chars("a", [(5, 10)])).tolist() == [[1, 3]], "a chunk that starts behind the blank has the word"


def test_a_list_is_cut_at_the_budget() -> None:
    axis = Axis(DOCUMENTS, WordTokenizer())
    chars = np.concatenate([axis.chars("b", [(2, 12)]), axis.chars("a", [(0, 15)])])
    tokens = axis.tokens(chars)
    free = np.zeros(2, dtype=np.int64)

    def cut(budget: int, costs: list[int] | None = None) -> tuple[list[list[int]], list[list[int]], bool]:
        head_chars, head_tokens, went_on = axis.cut(chars, tokens, free if costs is None else np.array(costs), budget)
        assert axis.tokens(head_chars).tolist() == head_tokens.tolist(), "both name the same tokens"
        return head_chars.tolist(), head_tokens.tolist(), went_on

    assert cut(1) == ([[17, 21]], [[4, 5]], True), "the head of the first chunk"
    assert cut(3) == ([[17, 27]], [[4, 7]], True), "just the first chunk"
    assert cut(5) == ([[17, 27], [0, 9]], [[4, 7], [0, 2]], True), "the second keeps what fits"
    assert cut(7) == ([[17, 27], [0, 15]], [[4, 7], [0, 4]], True), "all of it, to the last token"
    assert cut(8) == ([[17, 27], [0, 15]], [[4, 7], [0, 4]], False), "the list ends before the budget"
    assert cut(6, [1, 2])[1] == [[4, 7]], "the context of the second takes the room that is left"
    assert cut(7, [1, 2])[1] == [[4, 7], [0, 1]]
    assert cut(1, [1, 2]) == ([], [], True), "nothing but context"
    assert chars.tolist() == [[17, 27], [0, 15]], "what was given is not changed"


def test_every_list_is_cut_at_the_same_number_of_tokens() -> None:
    text = " ".join(f"w{number}" for number in range(500))
    axis = Axis([Document("a", "a", text)], WordTokenizer())
    for words_each in (3, 7, 60, 200):
        starts = [text.index(f"w{number}") for number in range(0, 500, words_each)]
        chars = axis.chars("a", list(zip(starts, [*starts[1:], len(text)], strict=True)))
        for budget in (1, 100, 333):
            _, tokens, went_on = axis.cut(chars, axis.tokens(chars), np.zeros(len(chars), dtype=np.int64), budget)
            assert size(tokens) == budget and went_on
