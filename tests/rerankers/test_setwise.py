"""The setwise reranker: the ideal order for the published price, and both orders against a bias."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rag.rerankers.setwise import SetwiseReranker
from rag.rerankers.sorting import heap_top
from tests.rerankers.oracle import OracleLM, hits, worth_of

WORTHS = [37 * number % 31 for number in range(30)]


def asked_of(num_candidates: int, top_k: int) -> list[tuple[int, ...]]:
    """The groups of a setwise heapsort over ``WORTHS``."""
    groups = []

    def best(group: Any) -> int:
        groups.append(tuple(group))
        return int(max(group, key=lambda item: WORTHS[item]))

    heap_top(len(WORTHS), top_k, num_candidates, best)
    return groups


@pytest.mark.parametrize("num_candidates", [1, 2, 3, 9])
@pytest.mark.parametrize("top_k", [1, 10])
def test_heapsort(num_candidates: int, top_k: int) -> None:
    lm = OracleLM()
    ranked, report = SetwiseReranker(lm, num_candidates, top_k=top_k).rerank_with_report("q", hits(WORTHS))
    found = [worth_of(hit.chunk.text) for hit in ranked]
    best = sorted(WORTHS, reverse=True)[:top_k]
    assert found == best + [worth for worth in WORTHS if worth not in best]
    groups = asked_of(num_candidates, top_k)
    assert report.counts["comparisons"] == len(groups)
    assert report.num_prompts == lm.num_asked == len(set(groups))


@pytest.mark.parametrize("num_candidates", [1, 3])
def test_insertion(num_candidates: int) -> None:
    reranker = SetwiseReranker(OracleLM(), num_candidates, "insertion", top_k=5)
    ranked, unsorted = reranker.rerank_with_report("q", hits(WORTHS))
    best = sorted(WORTHS, reverse=True)[:5]
    assert [worth_of(hit.chunk.text) for hit in ranked] == best + [worth for worth in WORTHS if worth not in best]
    best_first = reranker.rerank_with_report("q", hits(sorted(WORTHS, reverse=True))).report
    assert best_first.num_prompts < unsorted.num_prompts


@pytest.mark.parametrize("num_candidates", [1, 3])
def test_bubble(num_candidates: int) -> None:
    lm = OracleLM()
    ranked, report = SetwiseReranker(lm, num_candidates, "bubble", top_k=5).rerank_with_report("q", hits(WORTHS))
    assert [worth_of(hit.chunk.text) for hit in ranked[:5]] == sorted(WORTHS, reverse=True)[:5]
    assert report.counts["comparisons"] == sum(math.ceil((30 - front - 1) / num_candidates) for front in range(5))
    assert lm.num_asked == report.num_prompts <= report.counts["comparisons"]


def test_fewer_prompts_than_pairs_need() -> None:
    counts = [SetwiseReranker(OracleLM(), c).rerank_with_report("q", hits(WORTHS)).report.num_prompts for c in (2, 4, 9)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_both_orders_cancel_a_liking_for_early_places() -> None:
    worst_first = hits(sorted(WORTHS))

    def top(*, both_orders: bool) -> list[float]:
        lm = OracleLM(bias=lambda place, count: -2.0 * place)
        ranked = SetwiseReranker(lm, both_orders=both_orders).rerank("q", worst_first)
        return [worth_of(hit.chunk.text) for hit in ranked[:10]]

    assert top(both_orders=False) != sorted(WORTHS, reverse=True)[:10]
    assert top(both_orders=True) == sorted(WORTHS, reverse=True)[:10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "quicksort"}, "method='quicksort': allowed are heapsort, bubble, insertion"),
        ({"num_candidates": 0}, "num_candidates=0: must be between 1 and 25"),
        ({"num_candidates": 26}, "num_candidates=26: must be between 1 and 25"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SetwiseReranker(OracleLM(), **options)
