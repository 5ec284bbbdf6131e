"""Break rules against their formulas, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.chunkers.breakpoints import DEFAULT_AMOUNTS, RULES, margins

DISTANCES = np.array([0.1, 0.3, 0.2, 0.9, 0.1, 0.2, 0.2, 0.8, 0.1, 0.15])


def breaks(rule: str, amount: float | None = None, distances: NDArray[np.float64] = DISTANCES) -> list[int]:
    return np.flatnonzero(margins(distances, rule, amount) < 0).tolist()


def test_the_rules_have_defaults() -> None:
    assert set(RULES) == set(DEFAULT_AMOUNTS)


def test_percentile() -> None:
    # rank 0.95 x 9 = 8.55 of the sorted distances: 0.8 + 0.55 x 0.1
    assert margins(DISTANCES, "percentile")[3] == pytest.approx(0.8 + 0.55 * 0.1 - 0.9)
    assert breaks("percentile") == [3]
    assert breaks("percentile", 80) == [3, 7]
    assert breaks("percentile", 100) == []


def test_standard_deviation() -> None:
    mean = 0.305
    deviation = np.sqrt(np.mean((DISTANCES - mean) ** 2))
    assert margins(DISTANCES, "standard_deviation", 1) == pytest.approx(mean + deviation - DISTANCES)
    assert breaks("standard_deviation", 1) == [3, 7]
    assert breaks("standard_deviation") == []


def test_interquartile() -> None:
    # sorted: .1 .1 .1 .15 .2 .2 .2 .3 .8 .9; quartiles at ranks 2.25 and 6.75
    low, high = 0.1 + 0.25 * 0.05, 0.2 + 0.75 * 0.1
    assert margins(DISTANCES, "interquartile") == pytest.approx(0.305 + 1.5 * (high - low) - DISTANCES)
    assert breaks("interquartile") == [3, 7]


def test_gradient() -> None:
    # central differences, one-sided at the ends: steepest before the peak, not at it
    slopes = [0.2, 0.05, 0.3, -0.05, -0.35, 0.05, 0.3, -0.05, -0.325, 0.05]
    assert margins(DISTANCES, "gradient", 100) == pytest.approx(0.3 - np.array(slopes))
    assert breaks("gradient", 80) == [2, 6]


def test_absolute() -> None:
    assert breaks("absolute") == [1, 3, 7]  # 0.2 itself is not above
    assert breaks("absolute", 0.85) == [3]


@pytest.mark.parametrize("rule", RULES)
def test_short_and_flat_texts(rule: str) -> None:
    assert margins(np.zeros(0), rule).tolist() == []
    assert breaks(rule, None, np.full(4, 0.1)) == []
    assert breaks(rule, None, np.array([0.1])) == []


@pytest.mark.parametrize(("rule", "amount"), [("percentile", 101), ("gradient", -1), ("absolute", 2.1), ("interquartile", -0.1)])
def test_bad_amounts_are_refused(rule: str, amount: float) -> None:
    with pytest.raises(ValueError, match=rf"amount={amount}: the rule '{rule}'"):
        margins(DISTANCES, rule, amount)


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown rule 'median'; allowed: percentile"):
        margins(DISTANCES, "median")
