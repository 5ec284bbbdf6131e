"""The best runs of items: the fast way against the slow one, and the slow one against all ways there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.chunkers.segmentation import best_runs, best_runs_reference

Rows = tuple[NDArray[np.float64], NDArray[np.int64], int, NDArray[np.bool_], int]


@st.composite
def rows(draw: st.DrawFn, most: int = 10) -> Rows:
    num_items, band = draw(st.integers(0, most)), draw(st.integers(0, 5))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = draw(st.booleans())  # whole numbers make ties
    weights = chance.integers(-2, 3, (num_items, band)).astype(float) if whole else chance.normal(size=(num_items, band))
    sizes = chance.integers(0, 8, num_items)
    allowed = chance.random(num_items) < draw(st.sampled_from([0.3, 0.8, 1.1]))
    return weights, sizes, draw(st.integers(1, 20)), allowed, draw(st.integers(0, 10))


@given(rows())
@settings(max_examples=300, deadline=None)
def test_equals_the_reference(row: Rows) -> None:
    assert best_runs(*row) == best_runs_reference(*row)


@given(rows(most=7))
@settings(max_examples=100, deadline=None)
def test_the_reference_is_the_best_of_all_ways(row: Rows) -> None:
    weights, sizes, max_size, allowed, min_size = row
    num_items = len(sizes)
    if not num_items:
        assert best_runs_reference(*row) == []
        return
    inside = weights.copy()
    inside[:, :1] = 0
    found = []
    for count in range(num_items):
        for cuts in combinations(range(1, num_items), count):
            starts = (0, *cuts)
            ends = (*cuts, num_items)
            runs = list(zip(starts, ends, strict=True))
            if all(sizes[start:end].sum() <= max_size or end == start + 1 for start, end in runs):
                weight = sum(
                    inside[i, j - i]
                    for start, end in runs
                    for i in range(start, end)
                    for j in range(i, end)
                    if j - i < inside.shape[1]
                )
                forbidden = sum(not allowed[start] for start in starts)
                small = sum(int(sizes[start:end].sum()) < min_size for start, end in runs)
                found.append((forbidden, small, -round(float(weight), 6), len(starts), starts))
    assert best_runs_reference(*row) == list(min(found)[-1])


def test_likes_stay_together() -> None:
    topics = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    weights = np.zeros((9, 5))
    for i in range(9):
        for distance in range(1, min(5, 9 - i)):
            weights[i, distance] = 1.0 if topics[i] == topics[i + distance] else -1.0
    ones, everywhere = np.ones(9, dtype=np.int64), np.ones(9, dtype=np.bool_)
    assert best_runs(weights, ones, 9, everywhere) == [0, 3, 5]
    assert best_runs(weights, ones, 3, everywhere) == [0, 3, 5, 6]
    assert best_runs(weights, ones, 9, everywhere, min_size=3) == [0, 3, 6]
    nowhere_at_three = everywhere.copy()
    nowhere_at_three[3] = False
    assert best_runs(weights, ones, 9, nowhere_at_three) == [
        0,
        2,
        5,
    ]  # two pairs that do not belong together; six if it started at 5


def test_ties_make_few_runs_and_early_ones() -> None:
    nothing, ones = np.zeros((5, 2)), np.ones(5, dtype=np.int64)
    assert best_runs(nothing, ones, 5, ones.astype(np.bool_)) == [0]
    assert best_runs(nothing, ones, 3, ones.astype(np.bool_)) == [0, 2]
    assert best_runs(nothing, np.array([1, 9, 1, 1, 1]), 3, ones.astype(np.bool_)) == [0, 1, 2]


def test_a_long_row_takes_little_memory() -> None:
    import tracemalloc

    num_items = 3_000
    weights = np.random.default_rng(0).normal(size=(num_items, 32))
    tracemalloc.start()
    starts = best_runs(weights, np.full(num_items, 20), 400, np.ones(num_items, dtype=np.bool_))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(np.diff([*starts, num_items])) <= 20
    assert peak_bytes < 10 * weights.nbytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": np.ones(4, dtype=np.int64)}, "fit together"),
        ({"allowed_start": np.ones(4, dtype=np.bool_)}, "fit together"),
        ({"sizes": np.array([1, -1, 1])}, "negative: -1"),
        ({"max_size": 0}, "max_size=0"),
        ({"weights_band": np.full((3, 2), np.nan)}, "finite"),
    ],
)
def test_bad_rows_are_refused(changes: dict[str, object], message: str) -> None:
    good = {
        "weights_band": np.zeros((3, 2)),
        "sizes": np.ones(3, dtype=np.int64),
        "max_size": 2,
        "allowed_start": np.ones(3, np.bool_),
    }
    with pytest.raises(ValueError, match=message):
        best_runs(**(good | changes))  # type: ignore[arg-type]
