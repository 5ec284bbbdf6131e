"""How far results depend on the order of the hits, on rankings whose distance is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Hit
from rag.rerankers.sensitivity import kendall_tau, order_sensitivity
from rag.rerankers.top import TopSelector
from tests.rerankers.oracle import hits


class Sorting:
    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        return sorted(hits, key=lambda hit: hit.chunk.id)


def test_known_distances() -> None:
    assert kendall_tau("abcd", "abcd") == 1.0
    assert kendall_tau("abcd", "dcba") == -1.0
    assert kendall_tau("abcd", "abdc") == pytest.approx(4 / 6)
    assert kendall_tau("abx", "bay") == -1.0  # over what both hold
    assert kendall_tau("a", "b") == 1.0


@given(st.permutations(list("abcdefg")), st.permutations(list("abcdefg")))
def test_tau_is_symmetric_and_changes_its_sign_when_one_is_reversed(one: list[str], other: list[str]) -> None:
    tau = kendall_tau(one, other)
    assert -1 <= tau <= 1
    assert kendall_tau(other, one) == tau and kendall_tau(one, other[::-1]) == pytest.approx(-tau)


def test_sorting_is_insensitive_and_keeping_the_order_is_not() -> None:
    given_hits = hits(range(12))
    assert order_sensitivity(Sorting(), "q", given_hits) == 1.0
    kept = order_sensitivity(TopSelector(12), "q", given_hits, num_shuffles=20, seed=3)
    assert abs(kept) < 0.2
    assert kept == order_sensitivity(TopSelector(12), "q", given_hits, num_shuffles=20, seed=3)
    assert kept != order_sensitivity(TopSelector(12), "q", given_hits, num_shuffles=20, seed=4)


@pytest.mark.parametrize(("num_shuffles", "num_hits"), [(1, 5), (5, 1)])
def test_one_order_cannot_be_compared(num_shuffles: int, num_hits: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        order_sensitivity(Sorting(), "q", hits(range(num_hits)), num_shuffles)
