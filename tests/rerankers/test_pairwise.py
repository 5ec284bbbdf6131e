"""The pairwise reranker: the ideal order for the published price, and what both orders do to a biased model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Hit
from rag.rerankers.pairwise import PairwiseReranker
from rag.rerankers.sensitivity import order_sensitivity
from rag.rerankers.sorting import heap_top
from tests.rerankers.oracle import OracleLM, hits, worth_of

WORTHS = [3, 9, 1, 7, 5, 0, 8, 2, 6, 4]


def worths(ranked: Sequence[Hit]) -> list[float]:
    return [worth_of(hit.chunk.text) for hit in ranked]


def likes_a(place: int, count: int) -> float:
    return 1.5 if place == 0 else 0.0


def test_all_pairs_asks_n_times_n_minus_one_prompts() -> None:
    lm = OracleLM()
    ranked, report = PairwiseReranker(lm, method="all-pairs", batch_size=7).rerank_with_report("q", hits(WORTHS))
    assert worths(ranked) == sorted(WORTHS, reverse=True)
    assert [hit.score for hit in ranked] == pytest.approx([wins / 9 for wins in range(9, -1, -1)])
    assert report.num_prompts == lm.num_asked == 10 * 9
    assert report.num_calls == lm.num_calls == -(-90 // 7)
    assert report.counts == {"comparisons": 45, "ties": 0}
    assert report.prompt_tokens == pytest.approx(sum(lm.count_tokens(text) for text in lm.prompts), rel=0.05)


def test_prompts_that_begin_alike_stand_together() -> None:
    lm = OracleLM()
    PairwiseReranker(lm, method="all-pairs").rerank("q", hits(WORTHS))
    firsts = [text.partition("Passage B")[0] for text in lm.prompts]
    assert sum(one != other for one, other in itertools.pairwise(firsts)) == len(WORTHS) - 1


def distinct_pairs(sort_k: int) -> tuple[int, set[tuple[int, int]]]:
    """Comparisons of a pairwise heapsort, by a judge that compares numbers, and the distinct ones among them."""
    made: list[tuple[int, int]] = []

    def best(group: Sequence[int]) -> int:
        champion = group[-1]
        for other in reversed(group[:-1]):
            made.append((min(champion, other), max(champion, other)))
            champion = max(champion, other, key=lambda item: WORTHS[item])
        return champion

    heap_top(len(WORTHS), sort_k, 2, best)
    return len(made), set(made)


@pytest.mark.parametrize("top_k", [1, 4, 10, 50])
def test_heapsort_finds_the_best_for_two_prompts_per_distinct_pair(top_k: int) -> None:
    lm = OracleLM()
    ranked, report = PairwiseReranker(lm, top_k=top_k).rerank_with_report("q", hits(WORTHS))
    best = sorted(WORTHS, reverse=True)[:top_k]
    assert worths(ranked) == best + [worth for worth in WORTHS if worth not in best]
    assert [hit.score for hit in ranked] == [1 / rank for rank in range(1, 11)]
    num_comparisons, distinct = distinct_pairs(top_k)
    assert report.counts["comparisons"] == num_comparisons
    assert report.num_prompts == lm.num_asked == 2 * len(distinct)


@pytest.mark.parametrize("top_k", [1, 4])
def test_bubble_makes_k_passes(top_k: int) -> None:
    lm = OracleLM()
    ranked, report = PairwiseReranker(lm, method="bubble", top_k=top_k).rerank_with_report("q", hits(WORTHS))
    best = sorted(WORTHS, reverse=True)[:top_k]
    assert worths(ranked) == best + [worth for worth in WORTHS if worth not in best]
    assert report.counts["comparisons"] == top_k * (2 * 10 - top_k - 1) // 2
    assert lm.num_asked == report.num_prompts <= 2 * report.counts["comparisons"]


@pytest.mark.parametrize("method", ["all-pairs", "heapsort", "bubble"])
def test_both_orders_mend_what_one_order_does_not(method: Any) -> None:
    worst_first = hits(sorted(WORTHS))
    best_first = sorted(WORTHS, reverse=True)

    def ranked(verdict: Any) -> list[float]:
        return worths(PairwiseReranker(OracleLM(bias=likes_a), method, 10, verdict).rerank("q", worst_first))

    assert ranked("one-order") != best_first
    assert ranked("mean") == best_first
    if method == "all-pairs":  # close pairs are ties, and the verdicts on the others put them in their place
        assert ranked("consistent") == best_first
    _, report = PairwiseReranker(OracleLM(bias=likes_a), "all-pairs").rerank_with_report("q", worst_first)
    assert report.counts["ties"] == 9


def test_one_order_costs_half_and_depends_on_the_order() -> None:
    given_hits = hits(WORTHS)
    one = PairwiseReranker(OracleLM(bias=likes_a), "all-pairs", verdict="one-order")
    both = PairwiseReranker(OracleLM(bias=likes_a), "all-pairs")
    assert one.rerank_with_report("q", given_hits).report.num_prompts == 45
    assert order_sensitivity(one, "q", given_hits) < order_sensitivity(both, "q", given_hits) == 1.0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.sampled_from(["all-pairs", "heapsort", "bubble"]))
def test_equal_worth_keeps_the_order(values: list[int], method: Any) -> None:
    ranked = PairwiseReranker(OracleLM(), method).rerank("q", hits(values))
    assert [
        int(hit.chunk.doc_id == hits(values)[number].chunk.doc_id) for hit, number in zip(ranked, ideal(values), strict=True)
    ] == [1] * len(values)


def ideal(values: Sequence[int]) -> list[int]:
    return sorted(range(len(values)), key=lambda number: (-values[number], number))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "quicksort"}, "method='quicksort': allowed are all-pairs, heapsort, bubble"),
        ({"verdict": "maybe"}, "verdict='maybe': allowed are consistent, mean, one-order"),
        ({"top_k": 0}, "top_k=0"),
        ({"max_passage_tokens": 0}, "max_passage_tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairwiseReranker(OracleLM(), **options)
