"""The rule ``combined``: more for chunks of high scores and those behind them, the beginning first, first-k when scores say nothing."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from rag.kvcache.combined import Combined
from rag.kvcache.evidence import Evidence


def evidence(priors: list[float], length: int = 20) -> Evidence:
    chunk = torch.arange(len(priors)).repeat_interleave(length)
    return Evidence(
        torch.arange(len(chunk)), chunk, torch.arange(length).repeat(len(priors)), torch.tensor(priors).repeat_interleave(length)
    )


def counts(rule: Combined, given: Evidence, budget: int) -> list[int]:
    chosen = rule.first(given, budget)
    found = Counter(given.chunk[chosen].tolist())
    for number, count in found.items():
        assert given.offset[chosen][given.chunk[chosen] == number].tolist() == list(range(count)), "the beginning of the chunk"
    return [found[number] for number in range(int(given.chunk.max()) + 1)]


def test_equal_scores_spread_the_budget_evenly() -> None:
    assert counts(Combined(), evidence([0.3, 0.3, 0.3, 0.3]), 20) == [5, 5, 5, 5]


def test_scores_move_the_budget_to_their_chunk_and_more_of_it_to_the_next() -> None:
    found = counts(Combined(), evidence([0.0, 0.0, 9.0, 0.0, 0.0]), 30)
    assert sum(found) == 30 and found[3] == 20, "the chunk behind the best one as a whole"
    assert found[2] == max(found[:3] + found[4:]) > 4
    without = counts(Combined(follow=0.0), evidence([0.0, 0.0, 9.0, 0.0, 0.0]), 15)
    assert without[2] == max(without) > 10


def test_nothing_but_the_order_and_spread_of_scores_matters() -> None:
    one, other = evidence([0.1, 0.5, 0.2]), evidence([110.0, 150.0, 120.0])
    assert torch.equal(Combined().first(one, 13), Combined().first(other, 13))


def test_the_shares_are_those_of_the_weights() -> None:
    given = evidence([1.0, 2.0, 3.0], length=500)
    weights = Combined(prior_weight=0.5).weights(given)
    found = counts(Combined(prior_weight=0.5), given, 300)
    assert found == pytest.approx((300 * weights / weights.sum()).tolist(), abs=1.01)


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="follow=-1"):
        Combined(follow=-1)
