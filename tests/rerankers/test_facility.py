from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.rerankers.facility import Coverage, FacilitySelector, greedy
from rag.tokenizer import WordTokenizer
from tests.fakes import HashingEncoder
from tests.rerankers.hit_lists import hits_of, numbers_in


def coverage(seed: int, number: int) -> tuple[Coverage, list[int]]:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((number, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = np.clip(vectors @ vectors.T, 0, 1)
    np.fill_diagonal(alike, 1.0)
    relevance = generator.uniform(0, 1, number).tolist()
    return Coverage.of(alike, relevance, float(generator.uniform(0, 1))), generator.integers(1, 10, number).tolist()


def plain_greedy(given: Coverage, costs: list[int], max_cost: float, k: int, per_cost: bool) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < k:
        room = max_cost - sum(costs[number] for number in chosen)
        fitting = [number for number in range(len(costs)) if number not in chosen and costs[number] <= room]
        if not fitting:
            break
        base = given.worth(chosen)
        gains = {n: (given.worth([*chosen, n]) - base) / (costs[n] if per_cost else 1) for n in fitting}
        chosen.append(max(fitting, key=lambda number: (gains[number], -number)))
    return chosen


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans(), st.integers(1, 30))
def test_lazy_is_the_same_as_trying_all(seed: int, number: int, per_cost: bool, max_cost: int) -> None:
    given_, costs = coverage(seed, number)
    found = greedy(given_, costs, max_cost, number, per_cost=per_cost)
    expected = plain_greedy(given_, costs, max_cost, number, per_cost)
    assert given_.worth(found) == pytest.approx(given_.worth(expected), abs=1e-9)
    assert sum(costs[n] for n in found) <= max_cost


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 30))
def test_never_below_the_bound_of_the_best_set(seed: int, number: int, max_cost: int) -> None:
    given_, costs = coverage(seed, number)
    sets = [list(s) for size in range(number + 1) for s in itertools.combinations(range(number), size)]
    best = max(given_.worth(s) for s in sets if sum(costs[n] for n in s) <= max_cost)
    runs = [greedy(given_, costs, max_cost, number, per_cost=per_cost) for per_cost in (True, False)]
    assert max(map(given_.worth, runs)) >= (1 - 1 / math.e) / 2 * best - 1e-9
    k = 1 + seed % number
    best_of_k = max(given_.worth(s) for s in sets if len(s) <= k)
    assert given_.worth(greedy(given_, [1] * number, k, k, per_cost=False)) >= (1 - 1 / math.e) * best_of_k - 1e-9


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_worth_is_monotone_and_submodular(seed: int) -> None:
    given_, _ = coverage(seed, 6)
    drawn = np.random.default_rng(seed).permutation(6).tolist()
    small, large, extra = drawn[:2], drawn[:4], drawn[5]
    gains = [given_.worth([*chosen, extra]) - given_.worth(chosen) for chosen in (small, large)]
    assert 0 <= gains[1] + 1e-12 and gains[1] <= gains[0] + 1e-9
    assert given_.worth(list(range(6))) == pytest.approx(1.0)


def test_one_of_each_kind_and_the_scores_add_up() -> None:
    texts = ["iron tower", "iron tower tall", "wide river", "wide river north", "old queen"]
    hits = hits_of(*texts, scores=[1.0, 0.95, 0.9, 0.85, 0.8])
    selected = FacilitySelector(k=2, relevance=0.0).rerank("q", hits)
    assert sorted(number // 2 for number in numbers_in(selected, hits)) == [0, 1]
    assert [hit.score for hit in selected] == sorted((hit.score for hit in selected), reverse=True)
    whole = FacilitySelector(k=None, max_tokens=1000, tokenizer=WordTokenizer()).rerank("q", hits)
    assert sum(hit.score for hit in whole) == pytest.approx(1.0)


def test_budget_encoder_and_none_that_fits() -> None:
    hits = hits_of("one two three four", "five six", "seven", scores=[1.0, 0.9, 0.1])
    encoder = HashingEncoder()
    selector = FacilitySelector(WordTokenizer(), encoder, k=None, max_tokens=3, by="encoder")
    assert numbers_in(selector.rerank("q", hits), hits) == [1, 2]
    assert encoder.num_texts_encoded == 3
    assert numbers_in(FacilitySelector(WordTokenizer(), max_tokens=1).rerank("q", hits[:2]), hits) == [0]


def test_a_cheap_trifle_does_not_shut_out_what_is_worth_more() -> None:
    """By gain per token the trifle comes first and leaves too little room: the run by gain alone is then the better one."""
    hits = hits_of("one " * 60, "trifle", "other " * 61, scores=[1.0, 0.1, 0.0])
    selected = FacilitySelector(WordTokenizer(), k=None, max_tokens=60, relevance=1.0).rerank("q", hits)
    assert numbers_in(selected, hits) == [0]
    roomy = FacilitySelector(WordTokenizer(), k=None, max_tokens=61, relevance=1.0).rerank("q", hits)
    assert numbers_in(roomy, hits) == [0, 1]


def test_one_large_hit_does_not_shut_out_many_small_ones() -> None:
    """By gain alone the large one comes first and fills the budget: the run by gain per token is then the better one."""
    small = [" ".join([name] * 10) for name in ("ann", "bob", "cid", "dan", "eve", "fay")]
    hits = hits_of("one " * 60, *small, "other " * 61, scores=[1.0, *[0.5] * 6, 0.0])
    selected = FacilitySelector(WordTokenizer(), k=None, max_tokens=60, relevance=1.0).rerank("q", hits)
    assert numbers_in(selected, hits) == [1, 2, 3, 4, 5, 6]


def test_scores_that_say_nothing_are_no_reason_to_fail() -> None:
    hits = hits_of("a tower", "a river", scores=[math.nan, math.nan])
    assert len(FacilitySelector().rerank("q", hits)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relevance": -1}, "relevance=-1"),
        ({"k": 0}, "k=0"),
        ({"k": None}, "both missing"),
        ({"max_tokens": 5}, "needs a tokenizer"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FacilitySelector(**options)  # type: ignore[arg-type]
