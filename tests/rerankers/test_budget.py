from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Hit
from rag.rerankers.budget import BudgetSelector
from rag.rerankers.worth import unit_scores
from rag.tokenizer import WordTokenizer
from tests.rerankers.hit_lists import hits_of, numbers_in


def words(number: int) -> str:
    return " ".join(["word"] * number)


def test_what_does_not_fit_is_passed_over_and_contexts_count() -> None:
    hits = hits_of(words(4), words(5), words(3), words(1))
    assert numbers_in(BudgetSelector(WordTokenizer(), max_tokens=8).rerank("q", hits), hits) == [0, 2, 3]
    assert numbers_in(BudgetSelector(WordTokenizer(), max_tokens=8, k=2).rerank("q", hits), hits) == [0, 2]
    titled = hits_of(words(4), words(5), words(3), words(1), context="A title")
    assert numbers_in(BudgetSelector(WordTokenizer(), max_tokens=8).rerank("q", titled), titled) == [0]
    assert numbers_in(BudgetSelector(WordTokenizer(), max_tokens=8, hit_tokens=2).rerank("q", hits), hits) == [0]


def test_the_best_is_kept_alone_if_none_fits() -> None:
    hits = hits_of(words(9), words(7))
    (kept,) = BudgetSelector(WordTokenizer(), max_tokens=5).rerank("q", hits)
    assert kept.chunk == hits[0].chunk and kept.why["budget"] == (1.0, 1)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 60))
def test_within_the_budget_and_none_that_would_still_fit_is_left_out(sizes: list[int], max_tokens: int) -> None:
    hits = hits_of(*map(words, sizes))
    kept = numbers_in(BudgetSelector(WordTokenizer(), max_tokens=max_tokens).rerank("q", hits), hits)
    used = sum(sizes[number] for number in kept)
    assert used <= max_tokens or kept == [0]
    for number, size in enumerate(sizes):
        before = sum(sizes[other] for other in kept if other < number)
        assert number in kept or before + size > max_tokens


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"k": 0}, {"hit_tokens": -1}])
def test_bad_options_are_named(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        BudgetSelector(WordTokenizer(), **options)


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=20), st.integers(1, 64), st.integers(-1000, 1000))
def test_unit_scores_do_not_see_scale_and_origin(values: list[int], factor: int, shift: int) -> None:
    plain = hits_of(*["x"] * len(values), scores=[float(value) for value in values])
    moved = [Hit(hit.chunk, hit.score * factor + shift) for hit in plain]
    assert unit_scores(plain) == pytest.approx(unit_scores(moved), abs=1e-9)
    assert max(unit_scores(plain)) == 1.0
    assert min(unit_scores(plain)) == (0.0 if len(set(values)) > 1 else 1.0)


def test_unit_scores_of_what_is_no_number() -> None:
    inf, nan = float("inf"), float("nan")
    assert unit_scores(hits_of(*"abcde", scores=[inf, 3.0, 1.0, nan, -inf])) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert unit_scores(hits_of(*"ab", scores=[1.7e308, -1.7e308])) == [1.0, 0.0]
    assert unit_scores(hits_of("a", scores=[nan])) == [0.0]
    assert unit_scores([]) == []
