"""Sorting by asking for the best of a few: against sorted(), and asked exactly as often as textbook versions ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.rerankers.sorting import bubble_top, heap_top, insertion_top


class Counting:
    """The best of a group by worth, ties to the lower number; remembers every group."""

    def __init__(self, worths: Sequence[int]) -> None:
        self.worths = worths
        self.groups: list[tuple[int, ...]] = []

    def __call__(self, group: Sequence[int]) -> int:
        assert len(group) >= 2
        self.groups.append(tuple(group))
        return min(group, key=lambda item: (-self.worths[item], item))


def ideal(worths: Sequence[int], k: int) -> list[int]:
    best = sorted(range(len(worths)), key=lambda item: (-worths[item], item))[:k]
    return best + [item for item in range(len(worths)) if item not in best]


def heap_groups(worths: Sequence[int], k: int, arity: int) -> int:
    """How many nodes a textbook heap looks at (one-based, recursive): a node with children costs one group."""
    key = [(-worth, number) for number, worth in enumerate(worths)]
    tree = [(0, 0), *key]
    asked = 0

    def down(node: int, last: int) -> None:
        nonlocal asked
        children = [child for child in range(arity * (node - 1) + 2, arity * (node - 1) + 2 + arity) if child <= last]
        if children:
            asked += 1
            smallest = min([node, *children], key=lambda at: tree[at])
            if smallest != node:
                tree[node], tree[smallest] = tree[smallest], tree[node]
                down(smallest, last)

    for node in range(len(worths), 0, -1):
        down(node, len(worths))
    last = len(worths)
    for _ in range(min(k, len(worths)) - 1):
        tree[1] = tree[last]
        last -= 1
        down(1, last)
    return asked


WORTHS = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@given(WORTHS, st.integers(1, 45), st.integers(2, 6))
def test_a_heap_finds_the_best_and_leaves_the_rest_in_order(worths: list[int], k: int, arity: int) -> None:
    best = Counting(worths)
    assert heap_top(len(worths), k, arity, best) == ideal(worths, k)
    assert len(best.groups) == heap_groups(worths, k, arity)
    assert max(map(len, best.groups), default=0) <= arity + 1


@given(WORTHS, st.integers(1, 45), st.integers(2, 6))
def test_bubbles_do_too_in_as_many_groups_as_the_formula_says(worths: list[int], k: int, size: int) -> None:
    best = Counting(worths)
    assert bubble_top(len(worths), k, size, best) == ideal(worths, k)
    n = len(worths)
    assert len(best.groups) == sum(math.ceil((n - front - 1) / (size - 1)) for front in range(min(k, n - 1)))


@given(WORTHS, st.integers(1, 45), st.integers(1, 6))
def test_insertion_does_too(worths: list[int], k: int, arity: int) -> None:
    best = Counting(worths)
    assert insertion_top(len(worths), k, arity, best) == ideal(worths, k)
    n, kept = len(worths), min(k, len(worths))
    sorting = heap_groups(worths[:kept], kept, arity)
    searching = math.ceil(math.log2(kept)) if kept > 1 else 0
    assert len(best.groups) <= sorting + (n - kept) * (1 + searching)


@pytest.mark.parametrize("arity", [1, 3, 4])
def test_insertion_asks_once_per_group_where_the_order_is_right(arity: int) -> None:
    worths = list(range(50, 0, -1))
    best = Counting(worths)
    assert insertion_top(50, 10, arity, best) == list(range(50))
    assert len(best.groups) == heap_groups(worths[:10], 10, arity) + math.ceil(40 / arity)
    heap = Counting(worths)
    heap_top(50, 10, arity, heap)
    assert len(best.groups) < len(heap.groups)


def test_the_published_bounds_hold() -> None:
    n, k = 100, 10
    worths = [37 * number % 101 for number in range(n)]
    pairs = Counting(worths)
    heap_top(n, k, 2, pairs)
    comparisons = sum(len(group) - 1 for group in pairs.groups)
    assert comparisons <= 2 * n + 2 * k * math.floor(math.log2(n))
    bubbles = Counting(worths)
    bubble_top(n, k, 2, bubbles)
    assert len(bubbles.groups) == k * (2 * n - k - 1) // 2


@pytest.mark.parametrize("sort", [lambda n, best: heap_top(n, 3, 2, best), lambda n, best: bubble_top(n, 3, 2, best)])
def test_nothing_is_asked_of_one_item(sort: Callable[[int, Counting], list[int]]) -> None:
    best = Counting([5])
    assert sort(1, best) == [0] and not best.groups
