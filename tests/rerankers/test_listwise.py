"""The listwise reranker: its windows, both ways to read an order, and replies that are not what was asked for."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.rerankers.listwise import ListwiseReranker, windows
from rag.rerankers.permutation import KINDS, read_permutation
from tests.fakes import ToyLM
from tests.rerankers.oracle import OracleLM, hits, worth_of

WORTHS = [37 * number % 101 for number in range(100)]


@given(st.integers(0, 300), st.integers(2, 30), st.integers(1, 30))
def test_windows_cover_all_from_back_to_front(num_hits: int, size: int, stride: int) -> None:
    stride = min(stride, size - 1)
    found = windows(num_hits, size, stride)
    if num_hits < 2:
        assert found == []
        return
    assert len(found) == 1 + max(0, math.ceil((num_hits - size) / stride))
    assert found[0][1] == num_hits and found[-1][0] == 0
    assert {place for start, end in found for place in range(start, end)} == set(range(num_hits))
    assert all(0 < end - start <= size for start, end in found)
    assert all(later[1] == earlier[1] - stride for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("read", ["first-label", "text"])
def test_the_ten_best_of_a_hundred_in_nine_windows(read: Any) -> None:
    lm = OracleLM()
    ranked, report = ListwiseReranker(lm, read=read).rerank_with_report("q", hits(WORTHS))
    assert [worth_of(hit.chunk.text) for hit in ranked[:10]] == sorted(WORTHS, reverse=True)[:10]
    assert report.num_prompts == lm.num_asked == report.counts["windows"] == 9
    assert [hit.score for hit in ranked] == [1 / rank for rank in range(1, 101)]
    assert ("ok" in report.counts) == (read == "text") and report.counts.get("ok", 9) == 9


def test_both_ways_to_read_rank_alike() -> None:
    one, other = (ListwiseReranker(OracleLM(), 6, 3, read=read).rerank("q", hits(WORTHS[:40])) for read in ("first-label", "text"))
    assert [hit.chunk.id for hit in one] == [hit.chunk.id for hit in other]


def test_what_comes_after_rank_end_stays_where_it_is() -> None:
    given_hits = hits(sorted(WORTHS))
    ranked, report = ListwiseReranker(OracleLM(), 10, 5, rank_end=30).rerank_with_report("q", given_hits)
    assert [hit.chunk for hit in ranked[30:]] == [hit.chunk for hit in given_hits[30:]]
    assert ranked[0].chunk == given_hits[29].chunk and report.counts["windows"] == 5


@pytest.mark.parametrize(
    ("reply", "kind", "order"),
    [
        ("[2] > [3] > [1]", "ok", [1, 2, 0]),
        ("[2]>[1]", "missing", [1, 0, 2]),
        ("[2] > [2] > [1]", "repetition", [1, 0, 2]),
        ("[9] > [3] > [1]", "missing", [2, 0, 1]),
        ("The best is [3], then [1].", "wrong format", [2, 0, 1]),
        ("2\n3\n1", "ok", [1, 2, 0]),
        ("", "wrong format", [0, 1, 2]),
        ("I cannot rank these.", "wrong format", [0, 1, 2]),
        ("[0] > [-2] > [" + "9" * 5000 + "]", "wrong format", [1, 0, 2]),
    ],
)
def test_replies_are_mended_and_counted(reply: str, kind: str, order: list[int]) -> None:
    assert read_permutation(reply, 3) == (order, kind)
    lm = ToyLM(answer=lambda prompt: reply)
    given_hits = hits([1, 2, 3])
    ranked, report = ListwiseReranker(lm, read="text").rerank_with_report("q", given_hits)
    assert [given_hits.index(next(hit for hit in given_hits if hit.chunk == each.chunk)) for each in ranked] == order or len(
        reply
    ) > 99
    assert {name: report.counts[name] for name in KINDS} == {name: int(name == kind) for name in KINDS} or len(reply) > 99


@given(st.text(alphabet="0123456789[]> ,x\u0663", max_size=60), st.integers(1, 12))
def test_any_reply_gives_a_permutation(reply: str, num_items: int) -> None:
    order, kind = read_permutation(reply, num_items)
    assert sorted(order) == list(range(num_items)) and kind in KINDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read": "aloud"}, "read='aloud': allowed are first-label, text"),
        ({"window": 1}, "window=1: must be at least 2"),
        ({"window": 27}, "at most 26"),
        ({"stride": 0}, "stride=0"),
        ({"window": 4, "stride": 4}, "stride=4: must be less than window=4"),
        ({"rank_end": 0}, "rank_end=0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ListwiseReranker(OracleLM(), **options)
