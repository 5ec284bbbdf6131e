from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.rerankers.score_drop import ScoreDropSelector
from tests.rerankers.hit_lists import hits_of


def number_kept(scores: list[float], **options: float) -> int:
    return len(ScoreDropSelector(**options).rerank("q", hits_of(*["x"] * len(scores), scores=scores)))  # type: ignore[arg-type]


def test_ends_before_the_first_sharp_drop() -> None:
    scores = [1.0, 0.9, 0.85, 0.4, 0.38, 0.0]
    assert number_kept(scores) == 3
    assert number_kept(scores, max_drop=0.6) == 5  # the last is the zero: it has fallen by 1
    assert number_kept(scores, max_drop=0.01) == 2
    assert number_kept(scores, max_drop=0.01, min_k=1) == 1
    assert number_kept(scores, max_drop=1.0) == 6
    assert number_kept(scores, max_drop=1.0, max_k=4) == 4
    assert number_kept(scores, min_k=4) == 5


def test_logits_below_zero_are_cut_like_probabilities() -> None:
    assert number_kept([-1.0, -1.5, -1.75, -4.0, -4.1, -6.0]) == 3
    assert number_kept([0.5] * 12) == 10
    assert number_kept([3.0]) == 1
    assert number_kept([3.0, 1.0]) == 2


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), max_size=15), st.integers(1, 16), st.integers(-100, 100))
def test_scale_and_origin_do_not_matter_and_limits_hold(values: list[int], factor: int, shift: int) -> None:
    scores = sorted((float(value) for value in values), reverse=True)
    # powers of two keep the sums exact, so a drop on the very threshold falls on the same side
    kept = number_kept(scores, max_drop=0.3, min_k=2, max_k=7)
    assert kept == number_kept([score * 2**factor for score in scores], max_drop=0.3, min_k=2, max_k=7)
    assert min(2, len(scores)) <= kept <= min(7, len(scores))
    moved = number_kept([score + shift for score in scores], max_drop=0.3000001, min_k=2, max_k=7)
    assert moved == number_kept(scores, max_drop=0.3000001, min_k=2, max_k=7)


@pytest.mark.parametrize("options", [{"max_drop": 1.1}, {"min_k": 0}, {"max_k": 0}, {"min_k": 9, "max_k": 8}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ScoreDropSelector(**options)  # type: ignore[arg-type]
