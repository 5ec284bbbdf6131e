"""Intervals and tests: against plain loops, against what is known of them, and the same for the same seed."""

import itertools
import statistics

import numpy as np
import pytest

from rag.eval import bootstrap
from rag.eval.bootstrap import Difference, difference, interval, sign_flip_p

VALUES = [0.0, 0.25, 0.5, 0.5, 1.0, 1.0, 0.75]


def naive_interval(values: list[float], seed: int, num_resamples: int) -> tuple[float, float]:
    """The definition: draw as many values as there are, with replacement; sort the means; cut 2.5 % at both ends."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(num_resamples):
        drawn = [values[int(place)] for place in generator.integers(0, len(values), size=len(values))]
        means.append(sum(drawn) / len(drawn))
    means.sort()

    def cut(share: float) -> float:
        place = share * (len(means) - 1)
        below = int(place)
        return means[below] + (place - below) * (means[min(below + 1, len(means) - 1)] - means[below])

    return cut(0.025), cut(0.975)


def naive_p(differences: list[float]) -> float:
    """All sign patterns, counted one by one."""
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    far = [abs(sum(sign * each for sign, each in zip(signs, differences, strict=True))) >= observed - 1e-12 for signs in patterns]
    return sum(far) / len(patterns)


@pytest.mark.parametrize("seed", [0, 7])
def test_interval_equals_the_definition(seed: int) -> None:
    found = interval(VALUES, seed=seed, num_resamples=500)
    assert (found.low, found.high) == pytest.approx(naive_interval(VALUES, seed, 500), abs=1e-12)
    assert found.mean == pytest.approx(statistics.mean(VALUES))
    assert found.num_queries == len(VALUES)


def test_drawing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = difference(VALUES * 5, VALUES[::-1] * 5, num_resamples=300)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWN", 100)
    assert difference(VALUES * 5, VALUES[::-1] * 5, num_resamples=300) == whole


def test_a_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    generator = np.random.default_rng(3)
    values, baseline = generator.random(60).tolist(), generator.random(60).tolist()
    assert interval(values, seed=1) == interval(values, seed=1)
    assert difference(values, baseline, seed=1) == difference(values, baseline, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)
    assert difference(values, baseline, seed=1) != difference(values, baseline, seed=2)


def test_intervals_cover_the_true_mean_about_as_often_as_promised() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(300):
        found = interval(generator.normal(0.4, 0.2, size=50).tolist(), num_resamples=400)
        covered += found.low <= 0.4 <= found.high
    assert 0.90 <= covered / 300 <= 0.99


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = interval([0.5] * 9)
    assert found.low == found.mean == found.high == 0.5


def test_the_difference_is_paired() -> None:
    """Two rankings that swing together: each alone is unsure, their difference is sure."""
    swinging = np.linspace(0.0, 0.9, 40)
    ahead = swinging + 0.05
    found = difference(ahead.tolist(), swinging.tolist())
    assert found.mean == pytest.approx(0.05) and found.low == pytest.approx(0.05)
    assert interval(swinging.tolist()).high > interval(ahead.tolist()).low
    assert not found.inside_noise
    turned = difference(swinging.tolist(), ahead.tolist())
    assert turned.mean == pytest.approx(-found.mean)
    assert turned.p == found.p


@pytest.mark.parametrize("differences", [[0.5], [0.1, 0.2, -0.3, 0.4, 0.0], [0.1] * 8, [-0.25, 0.5, 0.5, 0.125, -0.0625, 0.3]])
def test_few_differences_are_counted_exactly(differences: list[float]) -> None:
    assert sign_flip_p(differences) == pytest.approx(naive_p(differences), abs=1e-12)


def test_drawn_signs_come_near_the_exact_count() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1.0, size=12).tolist()
    exact = sign_flip_p(differences, num_resamples=2**12)
    assert exact == pytest.approx(naive_p(differences), abs=1e-12)
    assert sign_flip_p(differences, num_resamples=2**12 - 1) == pytest.approx(exact, abs=0.03)


def test_p_is_never_zero_and_one_when_nothing_differs() -> None:
    assert sign_flip_p([1.0] * 100, num_resamples=999) == pytest.approx(1 / 1000)
    assert sign_flip_p([0.0] * 100) == 1.0
    assert difference([0.3, 0.4], [0.3, 0.4]) == Difference(0.0, 0.0, 0.0, 1.0, 2)


def test_p_is_level_when_nothing_differs_but_chance() -> None:
    generator = np.random.default_rng(23)
    false_alarms = sum(sign_flip_p(generator.normal(size=30).tolist(), num_resamples=199) <= 0.05 for _ in range(400))
    assert 4 <= false_alarms <= 40  # 20 expected


def test_inside_the_noise_needs_both_to_agree() -> None:
    assert Difference(0.1, 0.05, 0.15, 0.20, 50).inside_noise
    assert Difference(0.1, -0.01, 0.21, 0.01, 50).inside_noise
    assert not Difference(0.1, 0.05, 0.15, 0.01, 50).inside_noise
    assert not Difference(-0.1, -0.15, -0.05, 0.01, 50).inside_noise


def test_what_is_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        interval([])
    with pytest.raises(ValueError, match="value 1 is nan"):
        interval([0.1, float("nan")])
    with pytest.raises(ValueError, match="2 values cannot be paired with 1"):
        difference([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="num_resamples is 0"):
        interval([0.1], num_resamples=0)
