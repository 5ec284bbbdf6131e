"""Trees of common beginnings, over small alphabets, where everything is shared with everything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.lm_tree import MAX_LEVELS, NODE_TOKENS, PASS_TOKENS, Node, Plan, batches, common_tokens, plan, verdict

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=25)


def paths(nodes: list[Node], before: tuple[Node, ...] = ()) -> Iterator[tuple[Node, ...]]:
    """From every root to every leaf."""
    for node in nodes:
        if node.children:
            yield from paths(node.children, (*before, node))
        else:
            yield (*before, node)


def check_reads_every_row(made: Plan, rows: list[list[int]]) -> None:
    leaves = []
    for path in paths(made.roots):
        row = rows[path[-1].row]
        leaves.append(path[-1].row)
        assert [token for node in path for token in rows[node.row][node.begin : node.end]] == row
        assert [node.begin for node in path] == [0, *(node.end for node in path[:-1])]
        assert all(path[-1].row in node.members for node in path) and all(node.begin < node.end for node in path)
        assert len(path) <= MAX_LEVELS + 1 and [node.level for node in path] == list(range(1, len(path) + 1))
    assert sorted(leaves) == sorted(set(made.holder))
    for row, holder in zip(rows, made.holder, strict=True):
        assert rows[holder][: len(row)] == row


@given(ROWS)
def test_every_row_is_read_whole_once(rows: list[list[int]]) -> None:
    check_reads_every_row(plan(rows), rows)
    shared = plan(rows, always=True)
    check_reads_every_row(shared, rows)
    num_beginnings = len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})
    assert num_beginnings <= shared.num_tokens <= shared.num_given == sum(map(len, rows))
    if all(node.level <= MAX_LEVELS for node in shared.nodes()):
        assert shared.num_tokens == num_beginnings


@given(ROWS)
def test_whoever_may_not_share_reads_rows_alone(rows: list[list[int]]) -> None:
    made = plan(rows, refusal="the cache is odd")
    check_reads_every_row(made, rows)
    assert not any(node.children for node in made.nodes()) and made.why.endswith("the cache is odd")


def test_pairs_of_passages_are_read_in_three_levels() -> None:
    system, passages = [1] * 100, [[10 + number] * 60 for number in range(5)]
    rows = [system + a + [2] + b + [3] for a in passages for b in passages if a != b]
    made = plan(rows)
    check_reads_every_row(made, rows)
    (root,) = made.roots
    assert (root.end, len(root.children)) == (100, 5)
    assert {(node.begin, node.end, len(node.children)) for node in root.children} == {(100, 161, 4)}
    assert made.num_tokens == 100 + 5 * 61 + 20 * 61
    assert "20 rows share 100 tokens: 1900 saved" in made.why


def test_equal_rows_and_beginnings_of_others_are_read_once() -> None:
    made = plan([[1, 2], [1, 2, 3], [4], [1, 2, 3], [1]])
    assert made.holder[2] == 2 and len({made.holder[i] for i in (0, 1, 3, 4)}) == 1
    assert made.num_tokens == 4


def test_what_saves_little_is_not_shared() -> None:
    short, long = [[1] * 3 + [9 + n] * 5 for n in range(4)], [[1] * 30 + [9 + n] * 5 for n in range(4)]
    assert plan(short).num_tokens == plan(short).num_given
    assert plan(long).num_tokens == 30 + 4 * 5


@pytest.mark.parametrize(
    ("asked", "pays", "why"),
    [
        ((2, NODE_TOKENS), False, "2 rows share 16 tokens: 16 saved"),
        ((2, NODE_TOKENS + 3), True, "19 saved"),
        ((2, 20, 3200), False, "117 spent"),
        ((50, 500, 0, MAX_LEVELS + 1), False, "held at most"),
        ((50, 500, 0, 1, "its cache is odd"), False, "its cache is odd"),
    ],
)
def test_the_verdict_says_why(asked: tuple[int, int], pays: bool, why: str) -> None:
    found = verdict(*asked)
    assert found.pays is pays and why in found.why


def test_thousands_of_beginnings_inside_one_another() -> None:
    nested = [[7] * length for length in range(1, 1500)]
    assert plan(nested).num_tokens == 1499
    comb = [[7] * length + [8] for length in range(1, 1500)]
    check_reads_every_row(plan(comb), comb)


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_tokens(one: list[int], other: list[int]) -> None:
    expected = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert common_tokens(one, other) == expected


def cost(lengths: list[int], found: list[list[int]]) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) + PASS_TOKENS for batch in found)


@given(st.lists(st.integers(1, 200), max_size=9), st.integers(1, 5), st.integers(0, 100), st.integers(1, 900))
def test_batches_are_the_cheapest_that_fit(lengths: list[int], batch_size: int, num_cached: int, batch_tokens: int) -> None:
    def allowed(batch: list[int]) -> bool:
        held = len(batch) * (num_cached + max(lengths[i] for i in batch))
        return len(batch) == 1 or (len(batch) <= batch_size and held <= batch_tokens and sum(batch) % 7 < 6)

    fits = lambda some: sum(some) % 7 < 6
    found = batches(dict(enumerate(lengths)), num_cached, batch_size, batch_tokens, fits)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(allowed(batch) for batch in found)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.integers(1, 5), st.integers(1, 900))
def test_no_other_runs_of_the_lengths_cost_less(lengths: list[int], batch_size: int, batch_tokens: int) -> None:
    found = batches(dict(enumerate(lengths)), 10, batch_size, batch_tokens)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    cheapest = []
    for cuts in range(1 << (len(order) - 1)):
        edges = [0, *(at for at in range(1, len(order)) if cuts >> (at - 1) & 1), len(order)]
        runs = [order[a:b] for a, b in pairwise(edges)]
        if all(len(run) == 1 or (len(run) <= batch_size and len(run) * (10 + lengths[run[-1]]) <= batch_tokens) for run in runs):
            cheapest.append(cost(lengths, runs))
    assert cost(lengths, found) == min(cheapest)
