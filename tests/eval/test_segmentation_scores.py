"""Boundary F1, Pk and WindowDiff by hand, against slow ones, and against another library where that is installed."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Span
from rag.eval.segmentation_scores import boundary_f1, cuts_of, even_cuts, pk, window_diff

NUM_UNITS = 12
CUTS = st.sets(st.integers(1, NUM_UNITS - 1), max_size=7)


def test_f1_by_hand() -> None:
    assert boundary_f1([3, 7], [3, 5, 7, 9]) == pytest.approx((0.5, 1.0, 2 / 3))
    assert boundary_f1([3, 7], [4, 8, 8], tolerance=1) == (1.0, 1.0, 1.0)
    assert boundary_f1([3, 7], [4, 8]) == (0.0, 0.0, 0.0)
    assert boundary_f1([], []) == (1.0, 1.0, 1.0)
    assert boundary_f1([1], []) == boundary_f1([], [1]) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="tolerance is -1"):
        boundary_f1([1], [1], tolerance=-1)


def test_a_mark_is_found_once_and_a_cut_finds_one_mark() -> None:
    assert boundary_f1([5], [4, 5, 6], tolerance=1) == pytest.approx((1 / 3, 1.0, 0.5))
    assert boundary_f1([4, 5, 6], [5], tolerance=1) == pytest.approx((1.0, 1 / 3, 0.5))
    assert boundary_f1([5, 6], [4, 5], tolerance=1).f1 == 1.0, "5 with 4 and 6 with 5, though 5 lies nearer to 5"


@given(CUTS, CUTS, st.integers(0, 3))
def test_no_matching_is_larger(marked: set[int], cuts: set[int], tolerance: int) -> None:
    def largest(wanted: list[int], given_: frozenset[int]) -> int:
        if not wanted:
            return 0
        partners = [cut for cut in given_ if abs(cut - wanted[0]) <= tolerance]
        return max([largest(wanted[1:], given_), *(1 + largest(wanted[1:], given_ - {cut}) for cut in partners)])

    if marked and cuts:
        assert boundary_f1(marked, cuts, tolerance).recall == pytest.approx(largest(sorted(marked), frozenset(cuts)) / len(marked))


@given(CUTS, CUTS, st.integers(1, NUM_UNITS - 1))
def test_error_rates_equal_counting_by_pairs(marked: set[int], cuts: set[int], window: int) -> None:
    def between(numbers: set[int], first: int) -> int:
        return sum(first < number <= first + window for number in numbers)

    pairs = [(between(marked, first), between(cuts, first)) for first in range(NUM_UNITS - window)]
    assert pk(marked, cuts, NUM_UNITS, window) == pytest.approx(sum((a > 0) != (b > 0) for a, b in pairs) / len(pairs))
    assert window_diff(marked, cuts, NUM_UNITS, window) == pytest.approx(sum(a != b for a, b in pairs) / len(pairs))


@given(CUTS, CUTS, st.integers(1, NUM_UNITS - 1))
@settings(deadline=None)  # the first import takes seconds
def test_error_rates_equal_those_of_nltk(marked: set[int], cuts: set[int], window: int) -> None:
    segmentation = pytest.importorskip("nltk.metrics.segmentation")
    one, other = ("".join("1" if place in numbers else "0" for place in range(1, NUM_UNITS)) for numbers in (marked, cuts))
    assert pk(marked, cuts, NUM_UNITS, window) == pytest.approx(segmentation.pk(one, other, k=window))
    assert window_diff(marked, cuts, NUM_UNITS, window) == pytest.approx(segmentation.windowdiff(one, other, window))


def test_the_default_window_is_half_a_mean_marked_segment() -> None:
    assert pk([6], [3], 12) == pk([6], [3], 12, window=3) == pytest.approx(6 / 9)
    assert pk([6], [3], 12, window=2) == pytest.approx(4 / 10)
    assert pk(range(1, 12), [], 12) == pk(range(1, 12), [], 12, window=1) == 1.0
    assert pk([], [], 12) == window_diff([3, 9], [3, 9], 12) == 0.0


def test_a_near_miss_costs_less_than_a_far_one_and_window_diff_sees_false_cuts_beside_true_ones() -> None:
    assert pk([6], [7], 12) < pk([6], [10], 12)
    assert pk([6], [5, 6], 12, window=3) < window_diff([6], [5, 6], 12, window=3)


def test_impossible_cuts_and_windows_are_refused() -> None:
    for bad in ([0], [12]):
        with pytest.raises(ValueError, match=f"cut {bad[0]} is not between units: allowed are 1 to 11"):
            pk([6], bad, 12)
    with pytest.raises(ValueError, match="window is 12; allowed: 1 to 11"):
        window_diff([6], [6], 12, window=12)
    with pytest.raises(ValueError, match="1 units cannot be compared"):
        pk([], [], 1)


def test_even_cuts_are_apart_and_not_more_than_there_are_places() -> None:
    for num_units, num_cuts in itertools.product(range(1, 30), range(40)):
        cuts = even_cuts(num_cuts, num_units)
        assert len(cuts) == len(set(cuts)) == min(num_cuts, num_units - 1)
        assert all(0 < cut < num_units for cut in cuts)
    assert even_cuts(1, 10) == [5]


def test_a_cut_inside_a_unit_goes_to_its_nearer_end() -> None:
    units = [Span(0, 10), Span(11, 21), Span(22, 32)]
    assert cuts_of(units, [Span(0, 11), Span(11, 22), Span(22, 32)]) == [1, 2]
    assert cuts_of(units, [Span(2, 3), Span(13, 14)]) == [1], "near the start of the second"
    assert cuts_of(units, [Span(7, 8), Span(8, 9)]) == [1], "behind the middle of the first, and only once"
    assert cuts_of(units, [Span(30, 32)]) == [], "behind the last there is nothing to cut"
    assert cuts_of(units, []) == []
