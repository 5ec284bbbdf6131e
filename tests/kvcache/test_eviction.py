"""Rankings beside a slow reference, memory that is lent beside a list of intervals, rates."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rag.kvcache.eviction import Policy, Ranking
from rag.kvcache.history import History
from rag.kvcache.pool import Pool
from rag.kvcache.rate import Rates


class SlowRanking:
    """The rules as they are written down, over a dictionary."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.clock, self.uses = policy, 0.0, 0
        self.values: dict[str, tuple[float, int]] = {}

    def touch(self, name: str, hits: int, saved: float, size: int) -> None:
        self.uses += 1
        self.values[name] = (self.uses if self.policy == "lru" else self.clock + hits * saved / size, self.uses)

    def lowest(self, pinned: set[str]) -> str | None:
        return (
            min((value, name) for name, value in self.values.items() if name not in pinned)[1]
            if self.values.keys() - pinned
            else None
        )

    def evict(self, name: str) -> None:
        value = self.values.pop(name)[0]
        self.clock = max(self.clock, value) if self.policy == "benefit" else 0.0


NAMES = st.sampled_from("abcdefgh")
STEPS = st.lists(
    st.tuples(st.sampled_from(["touch", "touch", "evict", "forget"]), NAMES, st.integers(1, 9), st.sampled_from([0.0, 0.5, 2.0])),
    max_size=200,
)


@given(STEPS, st.sets(NAMES, max_size=3), st.sampled_from(["benefit", "lru"]))
@settings(max_examples=200, deadline=None)
def test_the_lowest_is_what_the_rule_says(steps: list[tuple[str, str, int, float]], pinned: set[str], policy: Policy) -> None:
    fast, slow = Ranking(policy), SlowRanking(policy)
    for what, name, number, saved in steps:
        if what == "touch":
            fast.touch(name, number, saved, 10 - number)
            slow.touch(name, number, saved, 10 - number)
        elif what == "forget":
            fast.forget(name)
            slow.values.pop(name, None)
        lowest = fast.lowest(lambda name: name not in pinned)
        assert lowest == slow.lowest(pinned) and len(fast) == len(slow.values)
        if what == "evict" and lowest is not None:
            fast.evict(lowest)
            slow.evict(lowest)


def test_benefit_counts_hits_seconds_and_bytes_and_ages() -> None:
    ranking = Ranking("benefit")
    ranking.touch("many hits", 4, 1.0, 1)
    ranking.touch("slow to compute", 1, 4.5, 1)
    ranking.touch("small", 1, 2.5, 0 + 1)
    ranking.touch("large", 1, 2.5, 2)
    order = []
    while (name := ranking.lowest(lambda name: True)) is not None:
        order.append(name)
        ranking.evict(name)
    assert order == ["large", "small", "many hits", "slow to compute"]
    ranking.touch("newcomer", 1, 0.1, 1)
    ranking.touch("again", 1, 0.2, 1)
    assert ranking.value(1, 0.1, 1) == pytest.approx(4.6), "the clock stands at what the last one was worth"


def test_what_was_popular_once_cannot_stay_for_good() -> None:
    ranking = Ranking("benefit")
    ranking.touch("once", 100, 1.0, 1)
    newcomers = 0
    while ranking.loses(ranking.value(1, 1.0, 1), "once"):
        newcomers += 1
        assert newcomers < 1000
    assert newcomers == 99


def test_pinned_entries_keep_their_place() -> None:
    ranking = Ranking("lru")
    for name in "abc":
        ranking.touch(name, 1, 1.0, 1)
    assert [ranking.lowest(lambda name: name != "a"), ranking.lowest(lambda name: True)] == ["b", "a"]
    assert ranking.lowest(lambda name: False) is None and len(ranking) == 3 and "a" in ranking


@given(st.lists(st.integers(-6, 40_000), max_size=80))
@settings(max_examples=150, deadline=None)
def test_memory_is_lent_once_at_a_time_and_comes_back_whole(steps: list[int]) -> None:
    pool = Pool(100_000)
    size = pool.num_bytes
    assert size == 98_304
    lent: list[Tensor] = []
    for step in steps:
        if step <= 0 and lent:
            pool.take_back(lent.pop(-step % len(lent)))
        elif step > 0:
            piece = pool.lend(step)
            spans = sorted((each.data_ptr(), -(-len(each) // 4096) * 4096) for each in lent)
            ends = [pool._memory.data_ptr(), *(start + length for start, length in spans)]
            starts = [*(start for start, _ in spans), pool._memory.data_ptr() + size]
            largest = max(start - end for start, end in zip(starts, ends, strict=True))
            if piece is None:
                assert largest < step
            else:
                assert len(piece) == step and piece.data_ptr() % 4096 == 0
                piece.fill_(len(lent) % 256)
                lent.append(piece)
        spans = sorted((each.data_ptr(), each.data_ptr() + len(each)) for each in lent)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "two pieces overlap"
        assert pool.num_lent_bytes == sum(-(-len(each) // 4096) * 4096 for each in lent) <= size
    for piece in lent:
        pool.take_back(piece)
    everything = pool.lend(size)
    assert everything is not None and len(everything) == size
    assert pool.lend(1) is None


def test_history_forgets_the_oldest() -> None:
    history = History(2)
    assert [history.add(name) for name in "aabac"] == [1, 2, 1, 3, 1]
    assert [history[name] for name in "abc"] == [3, 0, 1]


def test_rates_are_measured_unless_they_are_given() -> None:
    measured, given_ = Rates(), Rates({"disk": 2e9})
    assert measured.seconds("disk", 10**9) == 1.0 and measured.seconds("device", 10**9) == 0.0
    for rates in (measured, given_):
        rates.observe("disk", 100, 50.0)  # too short to mean anything
        for _ in range(100):
            rates.observe("disk", 10**8, 0.02)
    assert measured.seconds("disk", 10**9) == pytest.approx(0.2, rel=1e-3)
    assert given_.seconds("disk", 10**9) == 0.5
